"""The shim's event loop."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from moorage_api.errors import Cancelled, DeadlineExceeded
from moorage_shim.loop import READ, Future, Lock, Loop


def run(loop: Loop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return loop.run(loop.spawn(coroutine, "test"))


def test_sleepers_wake_in_order() -> None:
    loop, woken = Loop(), []

    async def sleep(seconds: float) -> None:
        await loop.sleep(seconds)
        woken.append(seconds)

    async def main() -> None:
        tasks = [loop.spawn(sleep(seconds), "sleeper") for seconds in (0.06, 0.02, 0.04)]
        for task in tasks:
            await task

    run(loop, main())
    assert woken == [0.02, 0.04, 0.06]


def test_an_eager_one_begins_at_once() -> None:
    loop = Loop()
    begun = []

    async def begin() -> int:
        begun.append(1)
        await loop.sleep(0.01)
        return 3

    task = loop.spawn(begin(), "eager", eager=True)
    assert begun == [1]
    assert loop.run(task) == 3


def test_errors_reach_who_awaits() -> None:
    loop = Loop()

    async def fail() -> None:
        raise KeyError("x")

    async def main() -> None:
        with pytest.raises(KeyError):
            await loop.spawn(fail(), "failing")

    run(loop, main())


def test_a_failure_that_nobody_awaits_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()

    async def fail() -> None:
        raise KeyError("lost")

    async def main() -> None:
        loop.background(fail(), "the lonely task")
        await loop.sleep(0.01)

    run(loop, main())
    assert "the lonely task failed: KeyError: 'lost' [" in capfd.readouterr().err


def test_deadlines_leave_the_future_alone() -> None:
    loop = Loop()

    async def main() -> str:
        future: Future[str] = Future(loop)
        with pytest.raises(DeadlineExceeded, match=r"the thing: no answer within 0\.01 s"):
            await loop.within(future, 0.01, "the thing")
        loop.later(0.01, lambda: future.set("late"))
        return await loop.within(future, 5, "the thing")

    assert run(loop, main()) == "late"


def test_cancel_lets_clean_up() -> None:
    loop, seen = Loop(), []

    async def sleeper() -> None:
        try:
            await loop.sleep(60)
        except Cancelled:
            await loop.sleep(0.01)
            seen.append("clean")
            raise

    async def main() -> None:
        task = loop.spawn(sleeper(), "sleeper")
        await loop.sleep(0.01)
        task.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            await task

    run(loop, main())
    assert seen == ["clean"]


def test_lock_is_fair() -> None:
    loop, order = Loop(), []
    lock = Lock(loop)

    async def enter(number: int) -> None:
        async with lock:
            order.append(number)
            await loop.sleep(0.001)

    async def main() -> None:
        tasks = [loop.spawn(enter(i), "worker") for i in range(5)]
        await loop.sleep(0)
        tasks[2].cancel()
        for i, task in enumerate(tasks):
            if i != 2:
                await task

    run(loop, main())
    assert order == [0, 1, 3, 4]


def test_descriptors() -> None:
    loop = Loop()
    read, write = os.pipe()

    async def main() -> bytes:
        with pytest.raises(DeadlineExceeded):
            await loop.ready(read, READ, 0.01, "a byte")
        os.write(write, b"x")
        await loop.ready(read, READ, 1, "a byte")
        return os.read(read, 1)

    assert run(loop, main()) == b"x"
    assert loop.watched == {}
    os.close(read)
    os.close(write)


def test_a_callback_that_fails_does_not_stop_the_loop(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    loop.soon(lambda: 1 / 0)
    run(loop, loop.sleep(0.01))
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize(("dormant", "rests"), [(True, 1), (False, 0)])
def test_it_rests_when_all_that_it_waits_for_may_take_days(dormant: bool, rests: int) -> None:
    loop, seen = Loop(), []
    loop.patience = 0.02
    future: Future[None] = Future(loop, dormant=dormant)
    read, write = os.pipe()
    loop.watch(read, READ, lambda _: future.set(None))

    def on_rest() -> None:
        seen.append(time.monotonic())
        os.write(write, b"x")

    async def main() -> None:
        await future

    loop.on_rest = on_rest
    if not dormant:
        os.write(write, b"x")
    run(loop, main())
    assert len(seen) == rests
    os.close(read)
    os.close(write)
