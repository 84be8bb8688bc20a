"""Event loops in threads: what is run on them, from others."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from moorage_api.errors import NotFound, Unavailable
from mooraged.loops import LoopThread, all_tasks, on_loop

NAME = "test-loop"
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    running = LoopThread(NAME)
    yield running
    running.stop()
    for each in threading.enumerate():
        if each.name == NAME:
            each.join(10)
            assert not each.is_alive()


async def where() -> tuple[str, str]:
    return threading.current_thread().name, variable.get()


async def test_it_runs_there_in_the_callers_context(thread: LoopThread) -> None:
    variable.set("mine")
    assert await thread.run(where()) == (NAME, "mine")


async def test_errors_come_back(thread: LoopThread) -> None:
    async def fail() -> None:
        raise NotFound("nothing there")

    with pytest.raises(NotFound, match="nothing there"):
        await thread.run(fail())


async def test_what_was_made_here_is_used_here(thread: LoopThread) -> None:
    here = asyncio.get_running_loop()

    async def there() -> str:
        return (await on_loop(here, where))[0]

    assert await thread.run(there()) == threading.current_thread().name


async def test_who_is_cancelled_waits_for_the_end(thread: LoopThread) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.1)
            cleaned.set()

    call = asyncio.create_task(thread.run(work()))
    assert await asyncio.to_thread(begun.wait, 10)
    call.cancel()
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cleaned.is_set()


async def test_who_is_cancelled_at_once(thread: LoopThread) -> None:
    """Before the other loop has had a turn."""
    begun = False

    async def work() -> None:
        nonlocal begun
        begun = True
        await asyncio.sleep(600)

    call = asyncio.create_task(thread.run(work()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 10)
    assert await thread.run(where()) == (NAME, "none")


async def test_stopping_ends_what_is_under_way_and_takes_nothing_more(thread: LoopThread) -> None:
    call = asyncio.create_task(thread.run(asyncio.sleep(600)))
    assert (await thread.run(where()))[0] == NAME
    thread.stop()
    thread.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await asyncio.wait_for(call, 10)
    with pytest.raises(Unavailable, match="stopping"):
        await thread.run(where())


async def test_its_tasks_are_told_of(thread: LoopThread) -> None:
    begun, go = threading.Event(), threading.Event()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("work")
        begun.set()
        await asyncio.to_thread(go.wait, 10)

    call = asyncio.create_task(thread.run(work()), name="call")
    assert await asyncio.to_thread(begun.wait, 10)
    assert {"call", "work"} <= {task.get_name() for task in all_tasks()}
    go.set()
    await call
    assert "work" not in {task.get_name() for task in all_tasks()}
