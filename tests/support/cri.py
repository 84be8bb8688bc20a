"""The public client of CRI, with what only tests do."""

from __future__ import annotations

import time
from collections.abc import Callable

from moorage.cri import Client, container_config, pod_config
from support.daemon import Daemon

__all__ = ["CriClient", "configured", "container_config", "pod_config", "until"]

_TABLE = '[plugins."io.containerd.grpc.v1.cri"]\n'


class CriClient(Client):
    """A client whose runtime is the test's own."""

    def remove_all(self) -> None:
        """Stop and remove every pod with its containers."""
        for pod in self.ListPodSandbox().items:
            self.stop_pod(pod.id)
            self.remove_pod(pod.id)


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
