"""The public client of CRI, with what only tests do."""

from __future__ import annotations

from moorage.cri import Client, container_config, pod_config

__all__ = ["CriClient", "container_config", "pod_config"]


class CriClient(Client):
    """A client whose runtime is the test's own."""

    def remove_all(self) -> None:
        """Stop and remove every pod with its containers."""
        for pod in self.ListPodSandbox().items:
            self.stop_pod(pod.id)
            self.remove_pod(pod.id)
