"""Client programs of a daemon: `ctr`, `moorage` and others, run in an environment that names its address."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Clients:
    """The base of daemons that have clients; they give `environment` and `log`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment for clients."""
        raise NotImplementedError

    def log(self) -> str:
        """What the daemon has logged so far, over all its starts."""
        raise NotImplementedError

    def run(self, *command: str | Path, timeout: float = 60, check: bool = True, input: str | None = None) -> str:
        """Run a client program (`moorage`, `ctr`) in the daemon's environment; returns its standard output."""
        done = self.call(*command, timeout=timeout, input=input)
        if check and done.returncode:
            raise AssertionError(
                f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()[-3000:]}"
            )
        return done.stdout

    def call(
        self, *command: str | Path, timeout: float = 60, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Like `run`, but returns the finished process whatever its exit status."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input if input is not None else "",
            check=False,
        )
