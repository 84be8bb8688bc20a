"""Images between registries, archives and the store, by the daemon's transfer service.

Progress, credentials and archives go over its streaming service.

Source of the protocol: containerd's `core/transfer` (types `containerd.types.transfer`) and
`containerd.services.streaming.v1`: a stream opens with `StreamInit`, is acknowledged by one message, and is named by
its id in the transfer's request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import grpc
from google.protobuf.any_pb2 import Any

from moorage import archives
from moorage.convert import pack, to_platform, type_name
from moorage.session import Session, translate
from moorage.stdio import Sink, Source
from moorage_api.errors import MoorageError, Unavailable
from moorage_api.oci.platforms import default_platform
from moorage_api.transfer import (
    ConvertOptions,
    Credentials,
    CredentialSource,
    Explanation,
    ExportOptions,
    HostStep,
    ImportOptions,
    Progress,
    ProgressSink,
    PullOptions,
    PushOptions,
)
from moorage_api.wire import moorage_transfer_pb2 as own
from moorage_api.wire import streaming_pb2, transfer_pb2
from moorage_api.wire import transfer_types_pb2 as types
from moorage_api.wire.streaming_pb2_grpc import StreamingStub
from moorage_api.wire.transfer_pb2_grpc import TransferStub

_LAST_PROGRESS = 2.0
_log = logging.getLogger(__name__)

Talk = Callable[[archives.Call], Awaitable[None]]
Answer = Callable[[Any], Awaitable[Any | None]]


class Transfers:
    """Images into the namespace and out of it, by the daemon's own hand."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = TransferStub(session.channel)

    async def pull(self, reference: str, options: PullOptions, progress: ProgressSink | None = None) -> None:
        """Fetch the normalised `reference` and unpack it; `progress` is called in this task's loop.

        Cancelling cancels the daemon's work; what was fetched stays for the next try. Errors: those of
        `moorage_api.transfer.Transfer.pull`.
        """
        async with contextlib.AsyncExitStack() as streams:
            resolver = await self._resolver(streams, options)
            request = transfer_pb2.TransferRequest(
                source=pack(types.OCIRegistry(reference=reference, resolver=resolver)),
                destination=pack(_destination(reference, options)),
            )
            await self._transfer(streams, request, progress)

    async def push(self, name: str, reference: str, options: PushOptions, progress: ProgressSink | None = None) -> None:
        """Send the image `name` to a registry as `reference`. Errors: those of `moorage_api.transfer.Transfer.push`."""
        async with contextlib.AsyncExitStack() as streams:
            resolver = await self._resolver(streams, options)
            platforms = [to_platform(platform) for platform in options.platforms]
            request = transfer_pb2.TransferRequest(
                source=pack(types.ImageStore(name=name, platforms=platforms)),
                destination=pack(types.OCIRegistry(reference=reference, resolver=resolver)),
            )
            await self._transfer(streams, request, progress)

    async def explain(self, reference: str, options: PullOptions = PullOptions()) -> Explanation:
        """Why a pull of `reference` would do what it does; nothing is fetched. Errors: those of
        `moorage_api.transfer.Transfer.explain`."""
        answers: list[Any] = []

        async def keep(message: Any) -> None:
            answers.append(message)

        async with contextlib.AsyncExitStack() as streams:
            resolver = await self._resolver(streams, options)
            stream = await streams.enter_async_context(self._stream("explanation", partial(_serve, answer=keep), None))
            request = transfer_pb2.TransferRequest(
                source=pack(types.OCIRegistry(reference=reference, resolver=resolver)),
                destination=pack(own.ExplanationStream(stream=stream)),
            )
            await self._transfer(streams, request, None)
        if not answers:
            raise Unavailable("the daemon explained nothing")
        return _explanation(own.Explanation.FromString(answers[0].value))

    async def convert(
        self, name: str, target: str, options: ConvertOptions, progress: ProgressSink | None = None
    ) -> None:
        """Make the image `target` of the image `name`, in another form. Errors: those of
        `moorage_api.transfer.Transfer.convert`."""
        wanted = own.ConvertedImage(
            name=target,
            compression=options.compression,
            oci=options.oci,
            platforms=[to_platform(platform) for platform in options.platforms],
            labels=dict(options.labels),
        )
        request = transfer_pb2.TransferRequest(source=pack(types.ImageStore(name=name)), destination=pack(wanted))
        async with contextlib.AsyncExitStack() as streams:
            await self._transfer(streams, request, progress)

    async def export(self, names: Sequence[str], sink: Sink, options: ExportOptions = ExportOptions()) -> None:
        """Write images as an OCI archive, which `docker load` reads too. Errors: those of
        `moorage_api.transfer.Transfer.export`; what `sink` raises."""
        async with contextlib.AsyncExitStack() as streams:
            stream = await streams.enter_async_context(
                self._stream("export", partial(archives.receive, sink=sink), None)
            )
            archive = types.ImageExportStream(
                stream=stream,
                platforms=[to_platform(platform) for platform in options.platforms],
                all_platforms=options.all_platforms,
                skip_compatibility_manifest=not options.docker_manifest,
                skip_non_distributable=not options.non_distributable,
            )
            store = types.ImageStore(extra_references=[types.ImageReference(name=name) for name in names])
            request = transfer_pb2.TransferRequest(source=pack(store), destination=pack(archive))
            await self._session.call(self._stub.Transfer, request, timeout=None)

    async def import_(self, source: Source, options: ImportOptions, progress: ProgressSink | None = None) -> None:
        """Read an archive of images, OCI's or docker's. Errors: those of `moorage_api.transfer.Transfer.import_`."""
        async with contextlib.AsyncExitStack() as streams:
            stream = await streams.enter_async_context(self._stream("import", partial(archives.send, source=source)))
            archive = types.ImageImportStream(stream=stream, force_compress=options.compress)
            request = transfer_pb2.TransferRequest(source=pack(archive), destination=pack(_imported(options)))
            await self._transfer(streams, request, progress)

    async def _resolver(
        self, streams: contextlib.AsyncExitStack, options: PullOptions | PushOptions
    ) -> types.RegistryResolver:
        """How to reach a registry; credentials are asked for over a stream."""
        resolver = types.RegistryResolver(host_dir=options.hosts_dir)
        if options.plain_http is not None:
            resolver.default_scheme = "http" if options.plain_http else "https"
        if options.credentials is not None:
            resolver.auth_stream = await streams.enter_async_context(
                self._stream("creds", partial(_serve, answer=_authentication(options.credentials)))
            )
        return resolver

    async def _transfer(
        self,
        streams: contextlib.AsyncExitStack,
        request: transfer_pb2.TransferRequest,
        progress: ProgressSink | None,
    ) -> None:
        if progress is not None:
            request.options.progress_stream = await streams.enter_async_context(
                self._stream("progress", partial(_serve, answer=_progress(progress)))
            )
        await self._session.call(self._stub.Transfer, request, timeout=None)

    @contextlib.asynccontextmanager
    async def _stream(self, kind: str, talk: Talk, patience: float | None = _LAST_PROGRESS) -> AsyncIterator[str]:
        """A stream with `talk` on our side; yields the stream's id. At the end `talk` has `patience` seconds (None: as
        long as it takes) for what is still on its way. What it raises is raised here, before all else."""
        call = StreamingStub(self._session.channel).Stream(metadata=self._session.metadata)
        id = f"{kind}-{uuid.uuid4().hex}"
        pump: asyncio.Task[None] | None = None
        try:
            try:
                await call.write(pack(streaming_pb2.StreamInit(id=id)))
                if await call.read() is grpc.aio.EOF:
                    raise Unavailable("the daemon closed a stream before it was open")
            except grpc.RpcError as error:
                raise translate(error) from None
            pump = asyncio.create_task(_talk(call, talk), name=f"moorage {kind} stream")
            yield id
            # The daemon closes the stream at the end of the transfer: what it said last is still on its way.
            await asyncio.wait([pump], timeout=patience)
            if pump.done():
                pump.result()
        except MoorageError:
            if pump is not None and pump.done():
                pump.result()
            raise
        finally:
            call.cancel()
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)


async def _talk(call: archives.Call, talk: Talk) -> None:
    """Talk to the end. Where our side fails, the daemon hears of it at once and gives up, too."""
    try:
        await talk(call)
    except (grpc.RpcError, asyncio.InvalidStateError) as error:
        # The transfer itself tells of whatever matters; without its progress it goes on.
        _log.debug("a stream of a transfer ended early: %s", error)
    except BaseException:
        call.cancel()
        raise


async def _serve(call: grpc.aio.StreamStreamCall[Any, Any], answer: Answer) -> None:
    while isinstance(message := await call.read(), Any):
        reply = await answer(message)
        if reply is not None:
            await call.write(reply)


def _explanation(message: own.Explanation) -> Explanation:
    hosts = tuple(
        HostStep(
            step.url,
            step.origin,
            tuple(step.capabilities),
            step.tls,
            step.proxy,
            step.asked,
            step.outcome,
            step.login,
            step.credentials,
            step.digest,
        )
        for step in message.hosts
    )
    return Explanation(message.reference, message.config, hosts, message.digest, message.media_type)


def _imported(options: ImportOptions) -> types.ImageStore:
    platforms = [to_platform(platform) for platform in options.platforms]
    rules = [
        types.ImageReference(
            name=rule.name,
            is_prefix=rule.is_prefix,
            allow_overwrite=rule.allow_overwrite,
            add_digest=rule.add_digest,
            skip_named_digest=rule.skip_named_digest,
        )
        for rule in options.rules
    ]
    store = types.ImageStore(
        name=options.index_name, labels=dict(options.labels), platforms=platforms, extra_references=rules
    )
    if options.unpack:
        unpacked = options.platforms or (default_platform(),)
        store.unpacks.extend(
            types.UnpackConfiguration(platform=to_platform(platform), snapshotter=options.snapshotter)
            for platform in unpacked
        )
    return store


def _destination(reference: str, options: PullOptions) -> types.ImageStore:
    platforms = [to_platform(platform) for platform in options.platforms or (default_platform(),)]
    store = types.ImageStore(
        name=reference,
        labels=dict(options.labels),
        platforms=platforms,
        extra_references=[types.ImageReference(name=name) for name in options.names],
    )
    if options.unpack:
        store.unpacks.extend(
            types.UnpackConfiguration(platform=platform, snapshotter=options.snapshotter) for platform in platforms
        )
    return store


def _progress(sink: ProgressSink) -> Answer:
    async def show(message: Any) -> None:
        if type_name(message) != types.Progress.DESCRIPTOR.full_name:
            return
        step = types.Progress.FromString(message.value)
        sink(
            Progress(
                event=step.event,
                name=step.name,
                digest=step.desc.digest,
                media_type=step.desc.media_type,
                parents=tuple(step.parents),
                progress=step.progress,
                total=step.total,
            )
        )

    return show


def _authentication(source: CredentialSource) -> Answer:
    async def reply(message: Any) -> Any | None:
        if type_name(message) != types.AuthRequest.DESCRIPTOR.full_name:
            return None
        request = types.AuthRequest.FromString(message.value)
        return pack(_auth_response(await source(request.host)))

    return reply


def _auth_response(credentials: Credentials | None) -> types.AuthResponse:
    if credentials is None:
        return types.AuthResponse(authType=types.NONE)
    if credentials.header:
        return types.AuthResponse(authType=types.HEADER, secret=credentials.header)
    if credentials.username:
        return types.AuthResponse(authType=types.CREDENTIALS, username=credentials.username, secret=credentials.secret)
    return types.AuthResponse(authType=types.REFRESH, secret=credentials.secret)
