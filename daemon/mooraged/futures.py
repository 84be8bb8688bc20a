"""Futures of event loops, ended by threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class ThreadFuture(asyncio.Future[T]):
    """What a call in a thread comes to. Whoever has it on the loop may set `deliver`: it is called with the result in that
    thread, which then need not wait for the loop's turn, and returns what the loop is to do all the same, or None where it
    has done nothing."""

    deliver: Callable[[T], Callable[[], None] | None] | None = None


def settle_soon(
    future: asyncio.Future[Any],
    result: object,
    error: BaseException | None,
    first: Callable[[], None] | None = None,
) -> None:
    """Have the future's loop do `first`, and end the future, with the error if there is one. Nothing where the loop is closed;
    a future that whoever waited has given up is left as it is."""
    if isinstance(error, StopIteration):
        error = RuntimeError(f"{error!r}")  # which no future takes
    with suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(_settle, future, result, error, first)


def _settle(
    future: asyncio.Future[Any], result: object, error: BaseException | None, first: Callable[[], None] | None
) -> None:
    if first is not None:
        first()
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def until_it_ends(future: asyncio.Future[T], cancel: Callable[[], object] | None = None) -> T:
    """What `future` comes to. A caller who is cancelled waits for that, too, after `cancel`: what is going on cannot be left
    alone, and what it was working on can be cleaned up only then."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()
        raise
