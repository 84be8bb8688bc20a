"""The transfer service: pulls and unpacks into any namespace of the daemon (`moorage_api.transfer.Transfer`)."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.content import ContentStore
from moorage_api.differ import Differ
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.images import Image
from moorage_api.oci import image
from moorage_api.oci.platforms import default_platform, format_platform, only
from moorage_api.oci.reference import Reference, parse
from moorage_api.transfer import (
    ByteSink,
    ByteSource,
    ConvertOptions,
    Explanation,
    ExportOptions,
    ImportOptions,
    ProgressSink,
    PullOptions,
    PushOptions,
)
from moorage_api.types import Descriptor, Labels, Platform
from mooraged.transfer.archive.exporter import Export
from mooraged.transfer.archive.importer import Import
from mooraged.transfer.arrival import Arrival
from mooraged.transfer.client import RegistryClient
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.convert import Conversion
from mooraged.transfer.documents import find_stored, read_blob
from mooraged.transfer.explain import explain
from mooraged.transfer.extraction import Target
from mooraged.transfer.hosts import config_for, hosts_for
from mooraged.transfer.leases import TransferLeases
from mooraged.transfer.progress import Reporter
from mooraged.transfer.pull import Pull, Workshop
from mooraged.transfer.push import Push
from mooraged.transfer.referrers import referrers
from mooraged.transfer.resolver import resolve
from mooraged.transfer.source import Source
from mooraged.transfer.stores import Metadata, save_image
from mooraged.transfer.threads import KeyedLocks, Threads
from mooraged.transfer.transport import Transport
from mooraged.transfer.unpack import Unpacker, layers_of
from mooraged.transfer.verifiers import Gate


class LocalTransfer:
    """The instance of the TRANSFER plugin `local`."""

    def __init__(
        self,
        config: TransferConfig,
        metadata: Metadata,
        differ: Differ,
        user_agent: str = "moorage",
        gate: Gate | None = None,
    ) -> None:
        self.config = config
        self.metadata = metadata
        self.gate = gate or Gate()
        self.transport = Transport(config.progress_timeout, user_agent)
        self.client = RegistryClient(self.transport)
        self.threads = Threads(config.threads)
        self.leases = TransferLeases(metadata, self.threads)
        unpacker = Unpacker(self.threads, differ, config.max_concurrent_unpacks)
        self.workshop = Workshop(
            self.threads, unpacker, config.max_concurrent_downloads, config.max_concurrent_parts, KeyedLocks()
        )

    def bind(self, namespace: str) -> BoundTransfer:
        """Transfers into one namespace."""
        return BoundTransfer(self, namespace)

    async def close(self) -> None:
        """Close all connections and take no more calls. Transfers still under way fail, and can be resumed later."""
        await self.transport.close()
        self.threads.close()


class _Stored:
    """The layers of an image that is in the store, for the unpacker."""

    def __init__(self, threads: Threads, content: ContentStore) -> None:
        self._threads = threads
        self._content = content

    async def fetched(self, layer: Descriptor, /) -> None:
        await self._threads.run(self._content.info, layer.digest)

    def arrival(self, layer: Descriptor, /) -> Arrival | None:
        return None

    def state(self, layer: Descriptor, event: str, /) -> None:
        return


class BoundTransfer:
    """`moorage_api.transfer.Transfer` for one namespace."""

    def __init__(self, service: LocalTransfer, namespace: str) -> None:
        self._service = service
        self._namespace = namespace

    async def pull(
        self, reference: str, options: PullOptions = PullOptions(), progress: ProgressSink | None = None
    ) -> Image:
        """See `moorage_api.transfer.Transfer.pull`."""
        parsed = parse(reference)
        snapshotter = self._snapshotter(options.snapshotter) if options.unpack else ""
        source = await self._source(parsed, options)
        reporter = Reporter(parsed.canonical, progress)
        reporter.image("resolving")
        resolved = await resolve(source)
        reporter.image("resolved", resolved.descriptor)
        await self._service.gate.check(parsed.canonical, resolved.descriptor)
        async with self._service.leases.hold(self._namespace, parsed.canonical) as (stores, lease):
            pull = Pull(self._service.workshop, source, stores, lease, options, reporter)
            return await pull.run(resolved, snapshotter)

    async def unpack(self, image: Image, snapshotter: str = "", platform: Platform | None = None) -> str:
        """See `moorage_api.transfer.Transfer.unpack`. `NotFound` where the image, or a blob of it, is not fetched."""
        name = self._snapshotter(snapshotter)
        wanted = platform or default_platform()
        async with self._service.leases.hold(self._namespace, f"unpack {image.target.digest}") as (stores, lease):
            return await self._unpack(image, Target(stores, lease, name), wanted)

    async def push(
        self, name: str, reference: str, options: PushOptions = PushOptions(), progress: ProgressSink | None = None
    ) -> Descriptor:
        """See `moorage_api.transfer.Transfer.push`."""
        parsed = parse(reference)
        stores = self._service.metadata.bind(self._namespace)
        stored = await self._service.threads.run(stores.images.get, name)
        source = await self._source(parsed, options, push=True)
        reporter = Reporter(str(parsed), progress)
        push = Push(self._service.threads, source, stores, options, reporter, self._service.config)
        return await push.run(stored)

    async def tag(self, name: str, names: Sequence[str], labels: Labels | None = None) -> list[Image]:
        """See `moorage_api.transfer.Transfer.tag`."""
        images = self._service.metadata.bind(self._namespace).images

        def work() -> list[Image]:
            target = images.get(name).target
            return [save_image(images, Image(wanted, target, labels or {})) for wanted in names]

        return await self._service.threads.run(work)

    async def import_archive(
        self, source: ByteSource, options: ImportOptions = ImportOptions(), progress: ProgressSink | None = None
    ) -> list[Image]:
        """See `moorage_api.transfer.Transfer.import_archive`."""
        snapshotter = self._snapshotter(options.snapshotter) if options.unpack else ""
        reporter = Reporter("archive", progress)
        async with self._service.leases.hold(self._namespace, "import", resumable=False) as (stores, lease):

            async def unpack(stored: Image, platform: Platform | None) -> str:
                return await self._unpack(stored, Target(stores, lease, snapshotter), platform or default_platform())

            return await Import(self._service.threads, stores, lease, options, reporter, unpack).run(source)

    async def export_archive(
        self,
        names: Sequence[str],
        sink: ByteSink,
        options: ExportOptions = ExportOptions(),
        progress: ProgressSink | None = None,
    ) -> None:
        """See `moorage_api.transfer.Transfer.export_archive`."""
        reporter = Reporter("archive", progress)
        stores = self._service.metadata.bind(self._namespace)
        await Export(self._service.threads, stores, options, reporter).run(names, sink)

    async def convert(
        self, name: str, target: str, options: ConvertOptions = ConvertOptions(), progress: ProgressSink | None = None
    ) -> Image:
        """See `moorage_api.transfer.Transfer.convert`."""
        reporter = Reporter(target, progress)
        async with self._service.leases.hold(self._namespace, f"convert {target}", resumable=False) as (stores, _):
            stored = await self._service.threads.run(stores.images.get, name)
            return await Conversion(self._service.threads, stores, options, reporter).run(stored, target)

    async def explain(self, reference: str, options: PullOptions = PullOptions()) -> Explanation:
        """See `moorage_api.transfer.Transfer.explain`."""
        source = await self._source(parse(reference), options)
        path = options.hosts_dir or self._service.config.config_path
        config = await self._service.threads.run(config_for, source.reference.domain, path)
        return await explain(source, self._service.client, config)

    async def referrers(
        self, reference: str, artifact_type: str = "", options: PullOptions = PullOptions()
    ) -> list[Descriptor]:
        """See `moorage_api.transfer.Transfer.referrers`."""
        source = await self._source(parse(reference), options)
        resolved = await resolve(source)
        return await referrers(source, resolved.descriptor, artifact_type)

    async def _unpack(self, stored: Image, target: Target, platform: Platform) -> str:
        run, content = self._service.threads.run, target.stores.content
        found = await run(find_stored, content, stored.target, only(platform))
        if found is None:
            raise NotFound(f"image {stored.name!r} has nothing for {format_platform(platform)}")
        config, *layers = found.manifest.children()
        if not image.is_config(config.media_type):
            raise InvalidArgument(f"image {stored.name!r} has no root file system: it is {config.media_type!r}")
        document = image.parse_config(await run(read_blob, content, config, image.CONFIG_MAX))
        supply = _Stored(self._service.threads, content)
        unpacked = await self._service.workshop.unpacker.unpack(target, config, layers_of(layers, document), supply)
        return unpacked.chain_id

    async def _source(self, reference: Reference, options: PullOptions | PushOptions, *, push: bool = False) -> Source:
        config_path = options.hosts_dir or self._service.config.config_path
        hosts = await self._service.threads.run(hosts_for, reference.domain, config_path, options.plain_http)
        client = self._service.client
        repository = client.repository(reference.domain, reference.path, options.credentials, push=push)
        return Source(reference, hosts, repository)

    def _snapshotter(self, name: str) -> str:
        """The name of the snapshotter meant, which labels need. `NotFound`, before anything is fetched."""
        name = name or self._service.metadata.default_snapshotter
        self._service.metadata.bind(self._namespace).snapshotter(name)
        return name
