"""Futures of event loops, ended by threads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any


def settle_soon(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Have the future's loop end it, with the error if there is one. Nothing where the loop is closed, or whoever waited has
    given up."""
    if isinstance(error, StopIteration):
        error = RuntimeError(f"{error!r}")  # which no future takes
    with suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
