"""The public client of CRI, with what only tests do."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moorage.cri import Client, container_config, pod_config
from support.daemon import Daemon
from support.measure import heeds

__all__ = ["CriClient", "configured", "container_config", "pod_config", "until", "with_image"]

_TABLE = '[plugins."io.containerd.grpc.v1.cri"]\n'


class CriClient(Client):
    """A client whose runtime is the test's own."""

    def pid(self, container: str) -> int:
        """Of the container's first process."""
        return int(json.loads(self.ContainerStatus(container_id=container, verbose=True).info["info"])["pid"])

    def shim_pid(self, pod: str) -> int:
        """Of the shim that the pod runs in."""
        return int(json.loads(self.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"])["pid"])

    def until_heeded(self, container: str, number: signal.Signals) -> None:
        """Return when the shell that the container runs ignores the signal or has a trap for it."""
        pid = self.pid(container)
        until(lambda: heeds(pid, number))

    def remove_all(self) -> None:
        """Stop and remove every pod with its containers."""
        for pod in self.ListPodSandbox().items:
            self.stop_pod(pod.id)
            self.remove_pod(pod.id)


@contextmanager
def with_image(daemon: Daemon, image: str) -> Iterator[CriClient]:
    """A client of a daemon that has the image; whatever pods are left are removed in the end."""
    with CriClient(daemon.address) as client:
        client.pull(image)
        yield client
        client.remove_all()


def configured(keys: str, tables: str = "") -> Daemon:
    """A daemon, not started yet, with further keys in the CRI plugin's table; `HERE` in them is the daemon's folder."""
    daemon = Daemon(tables)
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace(_TABLE, f"{_TABLE}{keys.replace('HERE', str(daemon.folder))}\n"))
    return daemon


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Return when the condition holds; an assertion fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
