"""`containerd.services.transfer.v1`: images from one place to another, named by the types of source and destination.

What is served: a registry into the image store, which is a pull. Progress goes to the stream that the request names,
and credentials are asked for on the stream that the source names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from moorage_api.errors import InvalidArgument, Unimplemented
from moorage_api.rpc import Call, Service
from moorage_api.transfer import Credentials, CredentialSource, Progress, ProgressSink, PullOptions, Transfer
from moorage_api.types import Platform
from moorage_api.wire import transfer_pb2, types_pb2
from moorage_api.wire import transfer_types_pb2 as types
from mooraged.services.streaming import Stream, StreamManager, type_name

M = TypeVar("M", bound=Message)

_SCHEMES = {"": None, "http": True, "https": False}


class Transferrer(Protocol):
    """The engine: the instance of the TRANSFER plugin."""

    def bind(self, namespace: str) -> Transfer: ...


class Transfers:
    """The handlers. Which one answers depends on the types of source and destination."""

    def __init__(self, engine: Transferrer, streams: StreamManager) -> None:
        self._engine = engine
        self._streams = streams
        self._routes: dict[tuple[str, str], Callable[[Any, Any, ProgressSink | None, str], Awaitable[None]]] = {
            (types.OCIRegistry.DESCRIPTOR.full_name, types.ImageStore.DESCRIPTOR.full_name): self._pull,
        }

    async def Transfer(self, request: transfer_pb2.TransferRequest, call: Call) -> Empty:
        route = (type_name(request.source), type_name(request.destination))
        if route not in self._routes:
            raise Unimplemented(f"transfer from {route[0] or 'nothing'} to {route[1] or 'nothing'} is not offered")
        namespace = call.namespace
        stream = None
        if request.options.progress_stream:
            stream = self._streams.get(namespace, request.options.progress_stream)
        loop = asyncio.get_running_loop()
        try:
            sink = _progress_sink(loop, stream) if stream else None
            await self._routes[route](request.source, request.destination, sink, namespace)
        finally:
            if stream is not None:
                # After the progress that other threads have queued, which takes the same way.
                loop.call_soon(stream.close)
        return Empty()

    async def _pull(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        registry, store = _read(source, types.OCIRegistry), _read(destination, types.ImageStore)
        resolver = registry.resolver
        if resolver.default_scheme not in _SCHEMES:
            raise InvalidArgument(f"default_scheme is {resolver.default_scheme!r}: expected http or https")
        credentials = None
        if resolver.auth_stream:
            credentials = _credentials(self._streams.get(namespace, resolver.auth_stream), registry.reference)
        transfer = self._engine.bind(namespace)
        unpacks = list(store.unpacks)
        options = PullOptions(
            platforms=tuple(_platform(platform) for platform in store.platforms),
            unpack=bool(unpacks),
            snapshotter=unpacks[0].snapshotter if unpacks else "",
            labels=dict(store.labels),
            credentials=credentials,
            hosts_dir=resolver.host_dir,
            plain_http=_SCHEMES[resolver.default_scheme],
            names=_names(store, registry.reference),
        )
        image = await transfer.pull(registry.reference, options, progress)
        for unpack in unpacks[1:]:
            await transfer.unpack(image, unpack.snapshotter, _platform(unpack.platform))


def _names(store: types.ImageStore, reference: str) -> list[str]:
    """The names that the client wants besides the reference; prefixes say how to name what an archive holds."""
    wanted = [store.name, *(extra.name for extra in store.extra_references if not extra.is_prefix)]
    return [name for name in dict.fromkeys(wanted) if name and name != reference]


def _platform(message: types_pb2.Platform) -> Platform:
    return Platform(message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features))


def _read(value: Any, kind: type[M]) -> M:
    try:
        return kind.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"the {kind.DESCRIPTOR.full_name} cannot be read: {error}") from None


def _progress_sink(loop: asyncio.AbstractEventLoop, stream: Stream) -> ProgressSink:
    """Progress to a stream, from any thread, in order."""

    def sink(step: Progress) -> None:
        message = types.Progress(
            event=step.event, name=step.name, parents=step.parents, progress=step.progress, total=step.total
        )
        if step.digest:
            message.desc.CopyFrom(types_pb2.Descriptor(media_type=step.media_type, digest=step.digest, size=step.total))
        loop.call_soon_threadsafe(stream.offer, message)

    return sink


def _credentials(stream: Stream, reference: str) -> CredentialSource:
    """Ask the client on its stream; one question at a time, since an answer does not say what it answers."""
    asking = asyncio.Lock()

    async def ask(host: str) -> Credentials | None:
        async with asking:
            await stream.send(types.AuthRequest(host=host, reference=reference))
            answer = await stream.receive()
        if answer is None:
            return None
        if type_name(answer) != types.AuthResponse.DESCRIPTOR.full_name:
            raise InvalidArgument(f"a question for credentials was answered with {type_name(answer)[:80]!r}")
        response = _read(answer, types.AuthResponse)
        match response.authType:
            case types.CREDENTIALS:
                return Credentials(username=response.username, secret=response.secret)
            case types.REFRESH if response.secret:
                return Credentials(secret=response.secret)
            case types.HEADER:
                return Credentials(header=response.secret)
        return None

    return ask


def service(engine: Transferrer, streams: StreamManager) -> Service:
    """What the daemon serves."""
    return Service(transfer_pb2.DESCRIPTOR.services_by_name["Transfer"], Transfers(engine, streams))
