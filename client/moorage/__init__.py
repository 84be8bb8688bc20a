"""The client library of Moorage: containers of a daemon that speaks containerd's API.

    import asyncio
    import moorage

    async def main() -> None:
        async with moorage.connect() as client:
            await client.pull("busybox")
            output = await client.run("busybox", ["echo", "hello"])
            print(output.exit_status, output.stdout.decode())

    asyncio.run(main())

`moorage.blocking` is the same without `await`. What is named here is the public interface; errors are those of
`moorage_api.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage import blocking
    from moorage.attachment import Attachment, Chunk
    from moorage.client import ADDRESS, NAMESPACE, Client, Defaults, connect
    from moorage.container import ContainerHandle
    from moorage.events import decode_event
    from moorage.image_config import ResolvedImage
    from moorage.introspection import Plugin, Server, Version
    from moorage.logs import Record, follow, read
    from moorage.network.ports import Port
    from moorage.options import Bind, ContainerOptions, Tmpfs, Volume
    from moorage.process import Output, ProcessHandle, Streams
    from moorage.signals import signal_number
    from moorage.state import State
    from moorage.stdio import Fifos
    from moorage_api.containers import Container
    from moorage_api.errors import MoorageError
    from moorage_api.events import Envelope
    from moorage_api.images import Image
    from moorage_api.oci.image import Healthcheck
    from moorage_api.runtime import Exit, Process, Status, Stdio
    from moorage_api.transfer import Credentials, Progress, PullOptions

__all__ = [
    "ADDRESS",
    "NAMESPACE",
    "Attachment",
    "Bind",
    "Chunk",
    "Client",
    "Container",
    "ContainerHandle",
    "ContainerOptions",
    "Credentials",
    "Defaults",
    "Envelope",
    "Exit",
    "Fifos",
    "Healthcheck",
    "Image",
    "MoorageError",
    "Output",
    "Plugin",
    "Port",
    "Process",
    "ProcessHandle",
    "Progress",
    "PullOptions",
    "Record",
    "ResolvedImage",
    "Server",
    "State",
    "Status",
    "Stdio",
    "Streams",
    "Tmpfs",
    "Version",
    "Volume",
    "blocking",
    "connect",
    "decode_event",
    "follow",
    "read",
    "signal_number",
]

_MODULES = {
    "ADDRESS": "moorage.client",
    "Attachment": "moorage.attachment",
    "Bind": "moorage.options",
    "Chunk": "moorage.attachment",
    "Client": "moorage.client",
    "Container": "moorage_api.containers",
    "ContainerHandle": "moorage.container",
    "ContainerOptions": "moorage.options",
    "Credentials": "moorage_api.transfer",
    "Defaults": "moorage.client",
    "Envelope": "moorage_api.events",
    "Exit": "moorage_api.runtime",
    "Fifos": "moorage.stdio",
    "Healthcheck": "moorage_api.oci.image",
    "Image": "moorage_api.images",
    "MoorageError": "moorage_api.errors",
    "NAMESPACE": "moorage.client",
    "Output": "moorage.process",
    "Plugin": "moorage.introspection",
    "Process": "moorage_api.runtime",
    "ProcessHandle": "moorage.process",
    "Progress": "moorage_api.transfer",
    "Port": "moorage.network.ports",
    "PullOptions": "moorage_api.transfer",
    "Record": "moorage.logs",
    "ResolvedImage": "moorage.image_config",
    "Server": "moorage.introspection",
    "State": "moorage.state",
    "Status": "moorage_api.runtime",
    "Stdio": "moorage_api.runtime",
    "Streams": "moorage.process",
    "Tmpfs": "moorage.options",
    "Version": "moorage.introspection",
    "Volume": "moorage.options",
    "connect": "moorage.client",
    "decode_event": "moorage.events",
    "follow": "moorage.logs",
    "read": "moorage.logs",
    "signal_number": "moorage.signals",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: a command that lists containers needs no code that makes them."""
    if name == "blocking":
        return import_module("moorage.blocking")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
