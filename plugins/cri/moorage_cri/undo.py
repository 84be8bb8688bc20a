"""Taking back what was half made, in reverse order, whatever happens meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from moorage_cri.concurrency import finish

logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[object]]


class Undo:
    """An async context: leaving it by an exception, or by cancellation, takes every step pushed so far, last first.

    The steps run to their end even when the caller is cancelled again; a step that fails is logged, and does not keep
    the ones before it from being taken.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps: list[tuple[str, Step]] = []

    def push(self, name: str, step: Step) -> None:
        """Take `step` when things go wrong; `name` says in the log what it would take back."""
        self._steps.append((name, step))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._steps:
            await finish(self._unwind())

    async def _unwind(self) -> None:
        for name, step in reversed(self._steps):
            try:
                await step()
            except Exception:
                logger.exception("%s: could not undo: %s", self._what, name)
