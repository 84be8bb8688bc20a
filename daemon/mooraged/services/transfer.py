"""`containerd.services.transfer.v1`: images from one place to another, named by the types of source and destination.

What is served: between a registry, the image store and archives, which are streams of bytes; and two of Moorage's own, an
image in another form and the explanation of a pull. Progress goes to the stream that the request names, and credentials
are asked for on the stream that the registry names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from moorage_api.errors import InvalidArgument, Unimplemented
from moorage_api.rpc import Call, Service
from moorage_api.transfer import (
    ConvertOptions,
    Credentials,
    CredentialSource,
    Explanation,
    ExportOptions,
    ImportOptions,
    NameRule,
    Progress,
    ProgressSink,
    PullOptions,
    PushOptions,
    Transfer,
)
from moorage_api.types import Platform
from moorage_api.wire import moorage_transfer_pb2 as own
from moorage_api.wire import transfer_pb2, types_pb2
from moorage_api.wire import transfer_types_pb2 as types
from mooraged.services import bytestream
from mooraged.services.streaming import Stream, StreamManager, read, type_name

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
            (source.DESCRIPTOR.full_name, destination.DESCRIPTOR.full_name): handler
            for source, destination, handler in (
                (types.OCIRegistry, types.ImageStore, self._pull),
                (types.ImageStore, types.OCIRegistry, self._push),
                (types.ImageStore, types.ImageStore, self._tag),
                (types.ImageImportStream, types.ImageStore, self._import),
                (types.ImageStore, types.ImageExportStream, self._export),
                (types.ImageStore, own.ConvertedImage, self._convert),
                (types.OCIRegistry, own.ExplanationStream, self._explain),
            )
        }

    async def Transfer(self, request: transfer_pb2.TransferRequest, call: Call) -> Empty:
        namespace = call.namespace
        route = (type_name(request.source), type_name(request.destination))
        if route not in self._routes:
            raise Unimplemented(f"transfer from {route[0] or 'nothing'} to {route[1] or 'nothing'} is not offered")
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
        registry, store = read(source, types.OCIRegistry), read(destination, types.ImageStore)
        resolver = registry.resolver
        transfer = self._engine.bind(namespace)
        unpacks = list(store.unpacks)
        options = PullOptions(
            platforms=_platforms(store.platforms),
            unpack=bool(unpacks),
            snapshotter=unpacks[0].snapshotter if unpacks else "",
            labels=dict(store.labels),
            credentials=self._credentials(registry, namespace),
            hosts_dir=resolver.host_dir,
            plain_http=_plain_http(resolver),
            names=_names(store, registry.reference),
        )
        image = await transfer.pull(registry.reference, options, progress)
        for unpack in unpacks[1:]:
            await transfer.unpack(image, unpack.snapshotter, _platform(unpack.platform))

    async def _push(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        store, registry = read(source, types.ImageStore), read(destination, types.OCIRegistry)
        options = PushOptions(
            platforms=_platforms(store.platforms),
            credentials=self._credentials(registry, namespace),
            hosts_dir=registry.resolver.host_dir,
            plain_http=_plain_http(registry.resolver),
        )
        await self._engine.bind(namespace).push(store.name, registry.reference, options, progress)

    async def _tag(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        store = read(destination, types.ImageStore)
        names = [store.name, *(extra.name for extra in store.extra_references if not extra.is_prefix)]
        wanted = [name for name in names if name]
        await self._engine.bind(namespace).tag(read(source, types.ImageStore).name, wanted, dict(store.labels))

    async def _import(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        archive, store = read(source, types.ImageImportStream), read(destination, types.ImageStore)
        unpacks = list(store.unpacks)
        options = ImportOptions(
            index_name=store.name,
            rules=[_rule(extra) for extra in store.extra_references],
            platforms=_platforms(store.platforms),
            labels=dict(store.labels),
            compress=archive.force_compress,
            unpack=bool(unpacks),
            snapshotter=unpacks[0].snapshotter if unpacks else "",
        )
        stream = self._streams.get(namespace, archive.stream)
        try:
            await self._engine.bind(namespace).import_archive(bytestream.received(stream), options, progress)
        finally:
            stream.close()

    async def _export(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        store, archive = read(source, types.ImageStore), read(destination, types.ImageExportStream)
        options = ExportOptions(
            platforms=_platforms(archive.platforms),
            all_platforms=archive.all_platforms,
            docker_manifest=not archive.skip_compatibility_manifest,
            non_distributable=not archive.skip_non_distributable,
        )
        if any(extra.is_prefix for extra in store.extra_references):
            raise Unimplemented("images to export are named one by one, not by a prefix")
        names = [name for name in (store.name, *(extra.name for extra in store.extra_references)) if name]
        stream = self._streams.get(namespace, archive.stream)
        try:
            await self._engine.bind(namespace).export_archive(names, bytestream.Sender(stream).send, options, progress)
        finally:
            stream.close()

    async def _convert(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        store, wanted = read(source, types.ImageStore), read(destination, own.ConvertedImage)
        options = ConvertOptions(wanted.compression, wanted.oci, _platforms(wanted.platforms), dict(wanted.labels))
        await self._engine.bind(namespace).convert(store.name, wanted.name, options, progress)

    async def _explain(self, source: Any, destination: Any, progress: ProgressSink | None, namespace: str) -> None:
        registry, wanted = read(source, types.OCIRegistry), read(destination, own.ExplanationStream)
        options = PullOptions(
            credentials=self._credentials(registry, namespace),
            hosts_dir=registry.resolver.host_dir,
            plain_http=_plain_http(registry.resolver),
        )
        stream = self._streams.get(namespace, wanted.stream)
        try:
            explained = await self._engine.bind(namespace).explain(registry.reference, options)
            await stream.send(_explanation(explained))
        finally:
            stream.close()

    def _credentials(self, registry: types.OCIRegistry, namespace: str) -> CredentialSource | None:
        name = registry.resolver.auth_stream
        return _credentials(self._streams.get(namespace, name), registry.reference) if name else None


def _plain_http(resolver: types.RegistryResolver) -> bool | None:
    if resolver.default_scheme not in _SCHEMES:
        raise InvalidArgument(f"default_scheme is {resolver.default_scheme!r}: expected http or https")
    return _SCHEMES[resolver.default_scheme]


def _rule(extra: types.ImageReference) -> NameRule:
    return NameRule(
        extra.name,
        is_prefix=extra.is_prefix,
        allow_overwrite=extra.allow_overwrite,
        add_digest=extra.add_digest,
        skip_named_digest=extra.skip_named_digest,
    )


def _explanation(explained: Explanation) -> own.Explanation:
    return own.Explanation(
        reference=explained.reference,
        config=explained.config,
        hosts=[
            own.HostStep(
                url=step.url,
                origin=step.origin,
                capabilities=step.capabilities,
                tls=step.tls,
                proxy=step.proxy,
                asked=step.asked,
                outcome=step.outcome,
                login=step.login,
                credentials=step.credentials,
                digest=step.digest,
            )
            for step in explained.hosts
        ],
        digest=explained.digest,
        media_type=explained.media_type,
    )


def _names(store: types.ImageStore, reference: str) -> list[str]:
    """The names that the client wants besides the reference; prefixes say how to name what an archive holds."""
    wanted = [store.name, *(extra.name for extra in store.extra_references if not extra.is_prefix)]
    return [name for name in dict.fromkeys(wanted) if name and name != reference]


def _platform(message: types_pb2.Platform) -> Platform:
    return Platform(message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features))


def _platforms(messages: Iterable[types_pb2.Platform]) -> tuple[Platform, ...]:
    return tuple(_platform(message) for message in messages)


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
        response = read(answer, types.AuthResponse)
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
