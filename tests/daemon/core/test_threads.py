"""The threads that take calls off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from mooraged.core.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, "few")
    yield threads
    threads.close()
    for thread in workers():
        thread.join()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("few_")]


def names() -> set[str]:
    return {thread.name for thread in workers()}


async def test_results_and_errors_come_back(threads: Threads) -> None:
    def fails() -> None:
        raise ValueError("no")

    def ends() -> None:
        raise StopIteration("what no future takes")

    assert await threads.run(lambda: 7) == 7
    with pytest.raises(RuntimeError, match="what no future takes"):
        await threads.run(ends)
    with pytest.raises(ValueError, match="no"):
        await threads.run(fails)
    assert await threads.run(threading.get_ident) != threading.get_ident()


async def test_calls_one_after_the_other_have_one_thread(threads: Threads) -> None:
    assert len({await threads.run(threading.get_ident) for _ in range(20)}) == 1
    assert names() == {"few_0"}


async def test_what_was_used_last_is_used_next(threads: Threads) -> None:
    both = threading.Barrier(2)

    def meet() -> int:
        both.wait()
        return threading.get_ident()

    assert len({*await asyncio.gather(threads.run(meet), threads.run(meet))}) == 2
    assert len({await threads.run(threading.get_ident) for _ in range(20)}) == 1


async def test_calls_beyond_the_threads_wait_in_their_order(threads: Threads) -> None:
    go = threading.Event()
    order: list[int] = []
    held = [threads.run(go.wait) for _ in range(2)]
    later = [threads.run(lambda number=number: order.append(number)) for number in range(5)]  # type: ignore[misc]
    assert names() == {"few_0", "few_1"}
    later[3].cancel()
    go.set()
    assert await asyncio.gather(*held) == [True, True]
    await asyncio.gather(*later, return_exceptions=True)
    assert sorted(order) == [0, 1, 2, 4]
    assert names() == {"few_0", "few_1"}


async def test_a_call_that_was_given_up_goes_on(threads: Threads) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait()
        ended.set()

    future = threads.run(work)
    await threads.run(begun.wait)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    go.set()
    assert await threads.run(lambda: ended.wait(60))


async def test_a_result_is_delivered_where_it_was_made(threads: Threads) -> None:
    go = threading.Event()
    done: list[object] = []

    def deliver(result: bool) -> Callable[[], None]:
        done.append((result, threading.current_thread().name))
        return lambda: done.append(threading.current_thread().name)

    future = threads.run(go.wait)
    future.deliver = deliver
    go.set()
    assert await future is True
    assert done == [(True, "few_0"), threading.current_thread().name]
    assert future.deliver is None


async def test_a_delivery_that_fails_is_the_calls_error(threads: Threads) -> None:
    def deliver(result: bool) -> None:
        raise ValueError("not deliverable")

    go = threading.Event()
    future = threads.run(go.wait)
    future.deliver = deliver
    go.set()
    with pytest.raises(ValueError, match="not deliverable"):
        await future


async def test_an_error_is_not_delivered(threads: Threads) -> None:
    go = threading.Event()
    delivered: list[object] = []

    def work() -> bool:
        go.wait()
        raise ValueError("no")

    future = threads.run(work)
    future.deliver = delivered.append
    go.set()
    with pytest.raises(ValueError, match="no"):
        await future
    assert delivered == []


async def test_closing_cancels_what_waits_and_leaves_the_rest_to_its_end() -> None:
    threads = Threads(1, "few")
    begun, go = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait()

    running, waiting = threads.run(work), threads.run(lambda: None)
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    (thread,) = workers()
    threads.close()
    threads.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        threads.run(lambda: None)
    go.set()
    assert await running
    thread.join()


async def test_threads_at_rest_end_when_it_is_closed() -> None:
    threads = Threads(3, "few")
    both = threading.Barrier(2)
    await asyncio.gather(threads.run(both.wait), threads.run(both.wait))
    there = workers()
    assert len(there) == 2
    threads.close()
    for thread in there:
        thread.join()


def test_a_loop_that_is_gone_is_nobody_to_tell() -> None:
    threads = Threads(1, "few")
    go, ended = threading.Event(), threading.Event()

    async def begin() -> None:
        threads.run(lambda: go.wait() and ended.set())

    asyncio.run(begin())
    go.set()
    assert ended.wait(60)

    async def again() -> int:
        return await threads.run(lambda: 3)

    assert asyncio.run(again()) == 3
    (thread,) = workers()
    threads.close()
    thread.join()
