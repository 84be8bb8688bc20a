"""A client of one daemon, in one namespace."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from moorage.session import Session, open_channel, to_its_end
from moorage_api.errors import MoorageError, Unavailable

if TYPE_CHECKING:
    from moorage.container import ContainerHandle
    from moorage.containers import Containers
    from moorage.content import Content
    from moorage.events import Events
    from moorage.garbage import Garbage
    from moorage.image_config import ResolvedImage
    from moorage.images import Images
    from moorage.introspection import Introspection
    from moorage.leases import Leases
    from moorage.namespaces import Namespaces
    from moorage.network.definitions import Place
    from moorage.options import ContainerOptions
    from moorage.process import Output
    from moorage.snapshots import Snapshots
    from moorage.tasks import Tasks
    from moorage_api.images import Image
    from moorage_api.transfer import ProgressSink, PullOptions
    from moorage_api.types import Platform

ADDRESS = "/run/moorage/moorage.sock"
NAMESPACE = "default"
_SNAPSHOTTER, _INTERNAL = "io.containerd.snapshotter.v1", "io.containerd.internal.v1"
_SNAPSHOTTERS = ("overlayfs", "native")
_LEASE_HOURS = 24


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the daemon uses where a client does not say: the snapshotter, and the folders of logs and of volumes (empty:
    none); and where it keeps networks (None: nowhere)."""

    snapshotter: str
    logs: str
    volumes: str = ""
    networks: Place | None = None


def connect(address: str = "", namespace: str = "") -> Client:
    """A client of the daemon at `address`, the path of its socket, in `namespace`; use it with `async with`.

    Without an address it is MOORAGE_ADDRESS, CONTAINERD_ADDRESS or /run/moorage/moorage.sock; without a namespace
    MOORAGE_NAMESPACE, CONTAINERD_NAMESPACE or `default`. Nothing is dialled before the first call, which raises
    `Unavailable` where no daemon answers.

        async with moorage.connect() as client:
            await client.pull("busybox")
            output = await client.run("busybox", ["echo", "hello"])
    """
    address = address or _environment("ADDRESS") or ADDRESS
    namespace = namespace or _environment("NAMESPACE") or NAMESPACE
    return Client(Session(open_channel(address), address, namespace))


def _environment(what: str) -> str:
    return os.environ.get(f"MOORAGE_{what}") or os.environ.get(f"CONTAINERD_{what}", "")


def _place(exports: Mapping[str, str]) -> Place | None:
    if not exports:
        return None
    from moorage.network.definitions import Place

    return Place(
        conf_dir=exports["conf_dir"],
        state=exports["state"],
        bin_dirs=tuple(exports["bin_dirs"].split(":")),
        bridge=exports["bridge"],
        subnets=exports["subnets"],
    )


class Client:
    """The daemon's services, bound to a namespace. Errors are those of `moorage_api.errors`, everywhere.

    Each service is imported when it is first used: a program that lists containers needs no code of images.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._defaults: Defaults | None = None

    @cached_property
    def images(self) -> Images:
        """Images by name."""
        from moorage.images import Images

        return Images(self.session)

    @cached_property
    def containers(self) -> Containers:
        """Records of containers."""
        from moorage.containers import Containers

        return Containers(self.session)

    @cached_property
    def content(self) -> Content:
        """Blobs."""
        from moorage.content import Content

        return Content(self.session)

    @cached_property
    def leases(self) -> Leases:
        """What keeps things from being collected."""
        from moorage.leases import Leases

        return Leases(self.session)

    @cached_property
    def tasks(self) -> Tasks:
        """Processes of containers."""
        from moorage.tasks import Tasks

        return Tasks(self.session)

    @cached_property
    def events(self) -> Events:
        """What happens, as it happens."""
        from moorage.events import Events

        return Events(self.session)

    @cached_property
    def garbage(self) -> Garbage:
        """What is on disk, who keeps it, and what would go."""
        from moorage.garbage import Garbage

        return Garbage(self.session)

    @cached_property
    def namespaces(self) -> Namespaces:
        """The namespaces of the daemon."""
        from moorage.namespaces import Namespaces

        return Namespaces(self.session)

    @cached_property
    def introspection(self) -> Introspection:
        """What the daemon tells of itself."""
        from moorage.introspection import Introspection

        return Introspection(self.session)

    @property
    def address(self) -> str:
        """The path of the daemon's socket."""
        return self.session.address

    @property
    def namespace(self) -> str:
        return self.session.namespace

    def snapshots(self, snapshotter: str) -> Snapshots:
        """The snapshots of one snapshotter."""
        from moorage.snapshots import Snapshots

        return Snapshots(self.session, snapshotter)

    def in_namespace(self, namespace: str) -> Client:
        """The same connection, in another namespace."""
        return Client(self.session.bound(namespace=namespace))

    @contextlib.asynccontextmanager
    async def leased(self) -> AsyncIterator[Client]:
        """A client under a lease of its own: nothing that it makes is collected before the lease ends.

        The lease ends with the context, or after a day should this process die; after an error, what was made under
        it alone is gone when this returns.
        """
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=_LEASE_HOURS)
        id = f"moorage-{uuid.uuid4().hex}"
        labels = {"containerd.io/gc.expire": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        failed = True
        try:
            await to_its_end(self.leases.create(id, labels))
            yield Client(self.session.bound(lease=id))
            failed = False
        finally:
            # It ends by itself where the daemon is gone; why, the caller hears from its own call.
            with contextlib.suppress(MoorageError):
                await self.leases.delete(id, sync=failed)

    async def defaults(self) -> Defaults:
        """Asked of the daemon once."""
        if self._defaults is None:
            plugins = await self.introspection.plugins(f"type=={_SNAPSHOTTER}", f"type=={_INTERNAL}")
            running = {(plugin.type, plugin.id): plugin for plugin in plugins if plugin.error is None}
            snapshotters = [id for type, id in running if type == _SNAPSHOTTER]
            wanted = os.environ.get("CONTAINERD_SNAPSHOTTER", "")
            order = [wanted] if wanted else [*_SNAPSHOTTERS, *snapshotters]
            chosen = next((id for id in order if id in snapshotters), "")
            if not chosen:
                raise Unavailable(f"the daemon has no snapshotter {wanted or 'at all'}: see its plugins")
            exports = {id: plugin.exports for (type, id), plugin in running.items() if type == _INTERNAL}
            self._defaults = Defaults(
                chosen,
                exports.get("logs", {}).get("root", ""),
                exports.get("volumes", {}).get("root", ""),
                _place(exports.get("networks", {})),
            )
        return self._defaults

    async def pull(
        self, reference: str, options: PullOptions | None = None, progress: ProgressSink | None = None
    ) -> Image:
        """Fetch an image from its registry and unpack it; short references are docker's (`busybox`).

        `progress` is called for each step. What is here already is not fetched again. Errors: those of
        `moorage_api.transfer.Transfer.pull`.
        """
        from moorage.transfer import Transfers
        from moorage_api.oci.reference import parse
        from moorage_api.transfer import PullOptions

        name = parse(reference).canonical
        await Transfers(self.session).pull(name, options or PullOptions(), progress)
        return await self.images.get(name)

    async def image(self, reference: str, platform: Platform | None = None) -> ResolvedImage:
        """An image that is here, by name or id, for a platform (this machine's). `NotFound`, `InvalidArgument` for the
        reference."""
        from moorage.find import find_images
        from moorage.image_config import resolve

        return await resolve(self.content, (await find_images(self, reference))[0], platform)

    async def create(self, image: str, options: ContainerOptions | None = None) -> ContainerHandle:
        """Make a container of an image that is here; it does not run yet.

        `NotFound` for the image or its user, `AlreadyExists` for the name, `InvalidArgument`.
        """
        from moorage.create import create
        from moorage.options import ContainerOptions

        return (await create(self, await self.image(image), options or ContainerOptions())).handle

    async def container(self, id: str) -> ContainerHandle:
        """A container by its id. `NotFound`."""
        from moorage.container import ContainerHandle

        return ContainerHandle(self, await self.containers.get(id))

    async def run(
        self, image: str, args: list[str] | None = None, *, input: bytes = b"", options: ContainerOptions | None = None
    ) -> Output:
        """Run a command in a new container to its end, remove the container, and return exit status and output."""
        from moorage.create import create
        from moorage.options import ContainerOptions
        from moorage.stdio import Fifos

        options = options or ContainerOptions(args=args or ())
        created = await create(self, await self.image(image), options)
        container = created.handle
        try:
            async with Fifos(stdin=bool(input)) as fifos:
                process = await container.create_task(fifos.stdio, created.mounts)
                return await process.run_captured(fifos, input)
        finally:
            await container.remove(force=True)

    async def collect(self) -> None:
        """Collect what nothing refers to any more; it is gone when this returns."""
        id = f"moorage-{uuid.uuid4().hex}"
        await self.leases.create(id)
        await self.leases.delete(id, sync=True)

    async def close(self) -> None:
        """Close the connection, also for the clients derived from this one."""
        await self.session.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
