"""`moorage_cri.undo` and `moorage_cri.concurrency`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from moorage_cri.concurrency import finish, together
from moorage_cri.undo import Undo


def _step(log: list[str], name: str, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        await asyncio.sleep(0.01)
        log.append(name)
        if error is not None:
            raise error

    return step


async def test_steps_are_taken_back_in_reverse_and_one_failure_stops_none() -> None:
    log: list[str] = []

    async def work() -> None:
        async with Undo("x") as undo:
            undo.push("a", _step(log, "a"))
            undo.push("b", _step(log, "b", OSError("no")))
            undo.push("c", _step(log, "c"))
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await work()
    assert log == ["c", "b", "a"]


async def test_success_takes_nothing_back() -> None:
    log: list[str] = []
    async with Undo("x") as undo:
        undo.push("a", _step(log, "a"))
    assert log == []


async def test_steps_run_to_their_end_under_repeated_cancellation() -> None:
    log: list[str] = []
    inside = asyncio.Event()

    async def work() -> None:
        async with Undo("x") as undo:
            for name in "abc":
                undo.push(name, _step(log, name))
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.ensure_future(work())
    await inside.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["c", "b", "a"]


async def test_a_thread_is_waited_for_by_a_cancelled_caller() -> None:
    import time

    done: list[str] = []

    def work() -> None:
        time.sleep(0.1)
        done.append("x")

    task = asyncio.ensure_future(finish(asyncio.to_thread(work)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["x"]


async def test_finish_hands_on_result_and_error() -> None:
    async def failing() -> None:
        raise KeyError("k")

    assert await finish(asyncio.sleep(0, "v")) == "v"
    with pytest.raises(KeyError):
        await finish(failing())


async def test_together_raises_the_first_failure_after_the_others_have_ended() -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("ended")

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise OSError("first")

    with pytest.raises(OSError, match="first"):
        await together(slow(), failing(), slow())
    assert log == ["ended", "ended"]
