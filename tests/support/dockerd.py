"""Debian's dockerd on a containerd socket: private roots, no bridge and no iptables."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from types import TracebackType
from typing import Self

from support.daemon import Daemon

READY_SECONDS = 60


class Dockerd:
    """A `dockerd` whose containers run in `daemon`. What it leaves is removed with the daemon: it has its tag, its
    folder and its cgroup."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.folder = daemon.folder / "dockerd"
        self.folder.mkdir()
        self.host = f"unix://{self.folder}/docker.sock"
        self.log_file = self.folder / "dockerd.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For dockerd and for its client, which keeps its configuration in the folder too."""
        return {**self.daemon.environment, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.folder / "client")}

    def start(self) -> Self:
        """Start it, and return when it answers."""
        (self.folder / "daemon.json").write_text("{}")
        folders = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "daemon.json"}
        flags = [f"--{flag}={self.folder / name}" for flag, name in folders.items()]
        flags += [f"--containerd={self.daemon.address}", f"--host={self.host}", "--live-restore"]
        flags += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        flags += [f"--cgroup-parent=/{self.daemon.cgroup_parent}", "--storage-driver=overlay2"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/dockerd", *flags], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.call("info").returncode == 0:
                return self
            time.sleep(0.1)
        log_text = self.log_file.read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"dockerd did not become ready:\n{log_text[-4000:]}")

    def stop(self) -> None:
        """SIGTERM: with live-restore, its containers run on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
            self.process = None

    def close(self) -> None:
        """Remove all containers, which also takes down their mounts, and stop."""
        if self.process is not None:
            ids = self.call("ps", "-aq").stdout.split()
            if ids:
                self.call("rm", "-f", *ids)
            self.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder / "pid")

    def command(self, *words: str) -> list[str]:
        """The command line of Debian's client."""
        return ["/usr/bin/docker", *words]

    def call(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `docker`; returns the finished process whatever its exit status."""
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *words: str, timeout: float = 60) -> str:
        """Run `docker`, which must succeed; returns its standard output without the last newline."""
        done = self.call(*words, timeout=timeout)
        assert done.returncode == 0, f"docker {words} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
