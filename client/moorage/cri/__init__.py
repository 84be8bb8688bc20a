"""A client of any runtime that speaks the Kubernetes Container Runtime Interface: Moorage, containerd, CRI-O.

    from moorage import cri

    with cri.Client("/run/moorage/moorage.sock") as client:
        pod = cri.pod_config("web")
        id = client.run_pod(pod)
        container = client.start(id, pod, cri.container_config("busybox", "sleep", "60"))
        print(client.execute(container, "hostname").stdout)

`Client` blocks, `AsyncClient` is awaited. Messages are those of `v1`, made from the project's own protocol files.
Errors are those of `moorage_api.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.cri.aio import AsyncClient
    from moorage.cri.calls import Answers, AsyncAnswers, Pending
    from moorage.cri.client import Client
    from moorage.cri.requests import container_config, pod_config
    from moorage.cri.streaming.blocking import Port, Process
    from moorage.cri.streaming.connect import Via
    from moorage.cri.streaming.link import Piece, Stream
    from moorage.cri.streaming.ports import AsyncPort
    from moorage.cri.streaming.process import AsyncProcess, Output
    from moorage_api.errors import MoorageError
    from moorage_api.wire import cri_pb2 as v1

__all__ = [
    "Answers",
    "AsyncAnswers",
    "AsyncClient",
    "AsyncPort",
    "AsyncProcess",
    "Client",
    "MoorageError",
    "Output",
    "Pending",
    "Piece",
    "Port",
    "Process",
    "Stream",
    "Via",
    "container_config",
    "pod_config",
    "v1",
]

_MODULES = {
    "Answers": "moorage.cri.calls",
    "AsyncAnswers": "moorage.cri.calls",
    "AsyncClient": "moorage.cri.aio",
    "AsyncPort": "moorage.cri.streaming.ports",
    "AsyncProcess": "moorage.cri.streaming.process",
    "Client": "moorage.cri.client",
    "MoorageError": "moorage_api.errors",
    "Output": "moorage.cri.streaming.process",
    "Pending": "moorage.cri.calls",
    "Piece": "moorage.cri.streaming.link",
    "Port": "moorage.cri.streaming.blocking",
    "Process": "moorage.cri.streaming.blocking",
    "Stream": "moorage.cri.streaming.link",
    "Via": "moorage.cri.streaming.connect",
    "container_config": "moorage.cri.requests",
    "pod_config": "moorage.cri.requests",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for, as `moorage` does."""
    if name == "v1":
        return import_module("moorage_api.wire.cri_pb2")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
