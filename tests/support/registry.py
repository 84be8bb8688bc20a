"""A real registry (Debian's docker-registry) on a free port of the loopback interface."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY_SECONDS = 60


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Registry:
    """A `docker-registry` process; `address` is its host:port, `folder` holds its blobs, its configuration and its log.

    `http` and `extra` add keys to its configuration (TLS, authentication), which is YAML, so JSON serves.
    """

    def __init__(
        self, folder: Path, http: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._configuration = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.address, **(http or {})},
            **(extra or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "config.yml"
        configuration.write_text(json.dumps(self._configuration))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        host, port = self.address.split(":")
        deadline = time.monotonic() + READY_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return self
            time.sleep(0.02)
        self.stop()
        raise RuntimeError("docker-registry did not start: " + (self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Kill it; stopping twice is harmless."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
