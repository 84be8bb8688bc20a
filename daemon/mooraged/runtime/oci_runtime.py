"""Which OCI runtime is used where nobody names one: found once, in the background."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress

from moorage_api.errors import FailedPrecondition
from mooraged.runtime.jobs import Jobs

log = logging.getLogger(__name__)
_PROBE_SECONDS = 5.0


class DefaultRuntime:
    """The first of `candidates` that runs here."""

    def __init__(self, candidates: Sequence[str], jobs: Jobs) -> None:
        self._candidates = candidates
        self._jobs = jobs
        self._probe: asyncio.Task[str] | None = None

    def start(self) -> None:
        """Begin to look, without waiting."""
        if self._probe is None:
            self._probe = self._jobs.spawn(self._find(), "find the OCI runtime")

    async def path(self) -> str:
        """The path of the runtime's binary. `FailedPrecondition` where none works; the next call looks again."""
        if self._probe is not None and self._probe.done() and (self._probe.cancelled() or self._probe.exception()):
            self._probe = None
        self.start()
        assert self._probe is not None
        return await asyncio.shield(self._probe)

    async def _find(self) -> str:
        reasons = []
        for name in self._candidates:
            path = shutil.which(name)
            reason = await _try(path) if path else "not installed"
            if path and not reason:
                log.info("default OCI runtime: %s", path)
                return path
            reasons.append(f"{name}: {reason}")
        raise FailedPrecondition(f"no OCI runtime works here ({'; '.join(reasons)})")


async def _try(path: str) -> str:
    """Why the binary does not run; empty when it does."""
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        return str(error)
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            code = await process.wait()
    except TimeoutError:
        return f"no answer within {_PROBE_SECONDS:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return f"--version exits with {code}" if code else ""
