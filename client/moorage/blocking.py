"""The library without `await`: the same names, the same arguments, the same errors.

    from moorage import blocking

    with blocking.connect() as client:
        client.pull("busybox")
        print(client.run("busybox", ["echo", "hello"]).stdout.decode())

Each class stands for the one of the same name in `moorage`, and each method for the coroutine, asynchronous iterator or
context manager there; it is described there. Calls run in a loop of their own, in one thread for all clients of a program,
and may be made from any thread but that one.
"""

from __future__ import annotations

from collections.abc import Iterator

from moorage import (
    attachment,
    client,
    container,
    containers,
    content,
    events,
    garbage,
    images,
    introspection,
    leases,
    namespaces,
    process,
    snapshots,
    tasks,
)
from moorage import connect as connect_async
from moorage.attachment import Chunk
from moorage.portal import Facade, call, calls, enter, iterate, service, shared
from moorage_api.closing import Closing
from moorage_api.containers import Container


class Process(Facade[process.ProcessHandle]):
    """One process of a container."""

    start = call(process.ProcessHandle.start)
    get = call(process.ProcessHandle.get)
    wait = call(process.ProcessHandle.wait)
    kill = call(process.ProcessHandle.kill)
    resize = call(process.ProcessHandle.resize)
    close_stdin = call(process.ProcessHandle.close_stdin)
    delete = call(process.ProcessHandle.delete)

    @property
    def container_id(self) -> str:
        return self._inner.container_id

    @property
    def exec_id(self) -> str:
        """Empty for a container's first process."""
        return self._inner.exec_id


class Attachment(Facade[attachment.Attachment]):
    """The streams of one process. Iterating gives what it writes until it has ended."""

    write = call(attachment.Attachment.write)
    end_input = call(attachment.Attachment.end_input)
    resize = call(attachment.Attachment.resize)
    wait = call(attachment.Attachment.wait)

    @property
    def process(self) -> Process:
        return Process(self._inner.process)

    def __iter__(self) -> Iterator[Chunk]:
        return shared().iterate(aiter(self._inner))


class ContainerHandle(Facade[container.ContainerHandle]):
    """A container and its life."""

    process = call(container.ContainerHandle.process)
    state = call(container.ContainerHandle.state)
    start = call(container.ContainerHandle.start)
    wait = call(container.ContainerHandle.wait)
    kill = call(container.ContainerHandle.kill)
    stop = call(container.ContainerHandle.stop)
    finish = call(container.ContainerHandle.finish)
    remove = call(container.ContainerHandle.remove)
    exec = call(container.ContainerHandle.exec)
    attach = enter(container.ContainerHandle.attach, Attachment)
    spawn = enter(container.ContainerHandle.spawn, Attachment)
    logs = iterate(container.ContainerHandle.logs)

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def name(self) -> str:
        """The name that its maker gave, or the short id."""
        return self._inner.name

    @property
    def record(self) -> Container:
        """As it was when the handle was made."""
        return self._inner.record

    @property
    def main(self) -> Process:
        """Its first process."""
        return Process(self._inner.main)


class Images(Facade[images.Images]):
    """Images by name."""

    get = call(images.Images.get)
    list = call(images.Images.list)
    create = call(images.Images.create)
    update = call(images.Images.update)
    delete = call(images.Images.delete)


class Containers(Facade[containers.Containers]):
    """Records of containers."""

    get = call(containers.Containers.get)
    list = call(containers.Containers.list)
    create = call(containers.Containers.create)
    update = call(containers.Containers.update)
    delete = call(containers.Containers.delete)


class Content(Facade[content.Content]):
    """Blobs."""

    info = call(content.Content.info)
    ingests = call(content.Content.ingests)
    read = iterate(content.Content.read)
    read_all = call(content.Content.read_all)
    write = call(content.Content.write)
    write_from = call(content.Content.write_from)
    abort = call(content.Content.abort)
    delete = call(content.Content.delete)
    list = call(content.Content.list)


class Leases(Facade[leases.Leases]):
    """What keeps things from being collected."""

    create = call(leases.Leases.create)
    delete = call(leases.Leases.delete)
    resources = call(leases.Leases.resources)
    list = call(leases.Leases.list)


class Tasks(Facade[tasks.Tasks]):
    """Processes of containers."""

    create = call(tasks.Tasks.create)
    start = call(tasks.Tasks.start)
    exec = call(tasks.Tasks.exec)
    attach = call(tasks.Tasks.attach)
    get = call(tasks.Tasks.get)
    list = call(tasks.Tasks.list)
    wait = call(tasks.Tasks.wait)
    kill = call(tasks.Tasks.kill)
    delete = call(tasks.Tasks.delete)
    resize = call(tasks.Tasks.resize)
    close_io = call(tasks.Tasks.close_io)
    pids = call(tasks.Tasks.pids)
    metrics = call(tasks.Tasks.metrics)
    update = call(tasks.Tasks.update)
    pause = call(tasks.Tasks.pause)
    resume = call(tasks.Tasks.resume)


class Events(Facade[events.Events]):
    """What happens, as it happens."""

    subscribe = iterate(events.Events.subscribe)


class Garbage(Facade[garbage.Garbage]):
    """What is on disk, and what a collection would remove."""

    holdings = call(garbage.Garbage.holdings)
    plan = call(garbage.Garbage.plan)
    collect = call(garbage.Garbage.collect)


class Namespaces(Facade[namespaces.Namespaces]):
    """The namespaces of the daemon."""

    list = call(namespaces.Namespaces.list)
    create = call(namespaces.Namespaces.create)
    delete = call(namespaces.Namespaces.delete)


class Introspection(Facade[introspection.Introspection]):
    """What the daemon tells of itself."""

    version = call(introspection.Introspection.version)
    server = call(introspection.Introspection.server)
    plugins = call(introspection.Introspection.plugins)


class Snapshots(Facade[snapshots.Snapshots]):
    """The snapshots of one snapshotter."""

    stat = call(snapshots.Snapshots.stat)
    prepare = call(snapshots.Snapshots.prepare)
    view = call(snapshots.Snapshots.view)
    mounts = call(snapshots.Snapshots.mounts)
    commit = call(snapshots.Snapshots.commit)
    usage = call(snapshots.Snapshots.usage)
    remove = call(snapshots.Snapshots.remove)
    list = call(snapshots.Snapshots.list)


def _client(inner: client.Client) -> Client:
    return Client(inner)


class Client(Facade[client.Client], Closing):
    """The daemon's services, bound to a namespace."""

    pull = call(client.Client.pull)
    image = call(client.Client.image)
    create = calls(client.Client.create, ContainerHandle)
    container = calls(client.Client.container, ContainerHandle)
    run = call(client.Client.run)
    leased = enter(client.Client.leased, _client)
    defaults = call(client.Client.defaults)
    collect = call(client.Client.collect)
    close = call(client.Client.close)

    images = service(Images)
    containers = service(Containers)
    content = service(Content)
    leases = service(Leases)
    tasks = service(Tasks)
    events = service(Events)
    garbage = service(Garbage)
    namespaces = service(Namespaces)
    introspection = service(Introspection)

    @property
    def address(self) -> str:
        """The path of the daemon's socket."""
        return self._inner.address

    @property
    def namespace(self) -> str:
        return self._inner.namespace

    def snapshots(self, snapshotter: str) -> Snapshots:
        """The snapshots of one snapshotter."""
        return Snapshots(self._inner.snapshots(snapshotter))

    def in_namespace(self, namespace: str) -> Client:
        """The same connection, in another namespace."""
        return Client(self._inner.in_namespace(namespace))


def connect(address: str = "", namespace: str = "") -> Client:
    """As `moorage.connect`; use it with `with`."""

    async def open_client() -> client.Client:
        return connect_async(address, namespace)

    return Client(shared().call(open_client()))
