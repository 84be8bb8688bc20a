"""A daemon that fails, hangs or dies at a step that a test chooses.

A step is whatever leaves the event loop: a call in a thread of the pool, a call to a shim, a CNI plugin, a thread that
makes a namespace, a mark on the disk. Steps are counted from the moment in which the test arms the daemon, so a test
needs no list of them: it strikes at the first, the second and so on, until the call that it makes gets through.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from support.daemon import Daemon

VARIABLE = "MOORAGE_TEST_FAULT"

# Fail before the step has had its effect, after it, never return from it, be killed before it, or be told to stop.
How = Literal["before", "after", "hang", "kill", "stop"]


class FaultyDaemon(Daemon):
    """A daemon with that hook in it. `arm` before a call, `struck` after it."""

    def __init__(self, config: str = "") -> None:
        super().__init__(config)
        self.order = self.folder / "fault"

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(":")]
        return {**super().environment, VARIABLE: str(self.order), "PYTHONPATH": ":".join(filter(None, paths))}

    def command(self) -> list[str]:
        _, *flags = super().command()
        return [sys.executable, "-m", "support.faultydaemon", *flags]

    def arm(self, step: int, how: How) -> None:
        """Strike once, at that step from now on, counted from zero."""
        scratch = self.order.with_suffix(".new")
        scratch.write_text(f"{step} {how}")
        scratch.replace(self.order)

    def struck(self) -> str:
        """The step that was struck since `arm`, empty where there was none; disarms."""
        self.order.unlink(missing_ok=True)
        told = self.order.with_suffix(".struck")
        step = told.read_text() if told.exists() else ""
        told.unlink(missing_ok=True)
        return step


class _Hook:
    """In the daemon: counts steps, and strikes."""

    def __init__(self, order: Path) -> None:
        self._order = order
        self._seen = (0, 0)
        self._left = -1
        self._how = ""

    def next(self, name: str) -> str:
        """How the step that comes now is to fail; empty for not at all."""
        try:
            status = self._order.stat()
        except FileNotFoundError:
            return ""
        if (status.st_ino, status.st_mtime_ns) != self._seen:
            number, self._how = self._order.read_text().split()
            self._left, self._seen = int(number), (status.st_ino, status.st_mtime_ns)
        self._left -= 1
        if self._left != -1:
            return ""
        self._order.with_suffix(".struck").write_text(f"{name} ({self._how})")
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._how == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        return self._how

    def wrap(self, owner: Any, name: str, label: Callable[..., str], *, bounded: bool = False) -> None:
        """Make a step of an asynchronous function. One that is `bounded` has a deadline of its own, so that it hangs no
        longer than that: the test need not wait for it."""
        real: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def step(*arguments: Any, **options: Any) -> Any:
            from moorage_api.errors import DeadlineExceeded, Unavailable

            what = label(*arguments)
            how = self.next(what)
            if how == "hang" and bounded:
                raise DeadlineExceeded(f"no answer in time: {what}")
            if how == "hang":
                await asyncio.sleep(3600)
            if how == "before":
                raise Unavailable(f"a fault before {what}")
            result = await real(*arguments, **options)
            if how == "after":
                raise Unavailable(f"a fault after {what}")
            return result

        setattr(owner, name, step)


def _install(hook: _Hook) -> None:
    import moorage_cri.cni.netns
    import moorage_cri.cni.plugin
    import moorage_cri.context
    import mooraged.runtime.ttrpc_client

    hook.wrap(moorage_cri.context.Cri, "run", lambda cri, call, *_: f"thread {getattr(call, '__qualname__', call)}")
    hook.wrap(moorage_cri.cni.plugin.Plugins, "call", lambda plugins, command, *_: f"CNI {command}")
    hook.wrap(moorage_cri.cni.netns, "own_thread", lambda *_: "network namespace")
    hook.wrap(
        mooraged.runtime.ttrpc_client.TtrpcClient, "call", lambda client, *words: f"shim {words[1]}", bounded=True
    )


def main() -> None:
    """Run the daemon with the hook in it."""
    _install(_Hook(Path(os.environ[VARIABLE])))
    from mooraged.__main__ import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
