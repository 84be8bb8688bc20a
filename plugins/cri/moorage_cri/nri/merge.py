"""What one plugin after another makes of a request, put together: each sees what those before it have set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from google.protobuf.message import Message

from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri import owners
from moorage_cri.nri.owners import Field, Owners

# Fields of which there is one: the first plugin that sets it owns it.
_SINGLE: Mapping[str, Field] = {
    "oom_score_adj": pb.OomScoreAdj,
    "io_priority": pb.IoPriority,
    "seccomp_policy": pb.SeccompPolicy,
    "scheduler": pb.LinuxSched,
    "memory_policy": pb.MemoryPolicy,
}
_RDT: Mapping[str, Field] = {
    "clos_id": pb.RdtClosID,
    "schemata": pb.RdtSchemata,
    "enable_monitoring": pb.RdtEnableMonitoring,
}


class _List(Protocol):
    """A repeated field of messages."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, index: int) -> Any: ...
    def __delitem__(self, index: int) -> None: ...
    def append(self, item: Any, /) -> None: ...


class Updates:
    """The updates and the ends of containers that plugins want beside what they are asked. `creating` is the id of the container
    that is being made, which cannot be updated; `request` is the update that is being relayed, whose resources change
    as plugins change them."""

    def __init__(self, known: Owners, *, creating: str = "", request: pb.UpdateContainerRequest | None = None) -> None:
        self.others: list[pb.ContainerUpdate] = []
        self.evictions: list[pb.ContainerEviction] = []
        self.changed = False
        self._owners = known
        self._creating = creating
        self._request = request

    def apply(self, plugin: str, updates: Iterable[pb.ContainerUpdate]) -> None:
        """Add what `plugin` wants. `InvalidArgument` for a conflict, unless the plugin lets its update fail."""
        for update in updates:
            id = update.container_id
            if id and id == self._creating:
                raise InvalidArgument(f"NRI plugin {plugin} asks for an update of {id}, which is being made")
            try:
                claim_resources(self._owners, id, plugin, update.linux.resources)
            except MoorageError:
                if not update.ignore_failure:
                    raise
                continue
            if self._request is not None and id == self._request.container.id:
                merge_resources(self._request.linux_resources, update.linux.resources)
                self.changed = True
            else:
                self._merge(update)

    def _merge(self, update: pb.ContainerUpdate) -> None:
        for found in self.others:
            if found.container_id == update.container_id:
                merge_resources(found.linux.resources, update.linux.resources)
                found.ignore_failure = found.ignore_failure and update.ignore_failure
                return
        self.others.append(update)


class Creation:
    """The adjustment of a container that is being made, from the adjustments of all plugins. The container in
    `request` changes with it."""

    def __init__(self, request: pb.CreateContainerRequest) -> None:
        self.adjustment = pb.ContainerAdjustment()
        self.owners = Owners()
        self._container = request.container
        self._id = request.container.id
        self.updates = Updates(self.owners, creating=self._id)

    def apply(self, plugin: str, response: pb.CreateContainerResponse) -> None:
        """Add what `plugin` wants. `InvalidArgument` where it sets what another has set."""
        wanted, mine, container = response.adjust, self.adjustment, self._container
        self._map(plugin, pb.Annotations, wanted.annotations, mine.annotations, container.annotations)
        self._list(plugin, pb.Mounts, "destination", wanted.mounts, mine.mounts, container.mounts)
        self._env(plugin, wanted.env)
        self._args(plugin, wanted.args)
        self._hooks(plugin, wanted.hooks)
        for limit in wanted.rlimits:
            self.owners.claim(self._id, pb.Rlimits, plugin, limit.type)
        mine.rlimits.extend(wanted.rlimits)
        container.rlimits.extend(wanted.rlimits)
        # Like a device of a vendor's, it is added by one plugin, and never removed.
        for device in wanted.CDI_devices:
            self.owners.claim(self._id, pb.CdiDevices, plugin, device.name)
        mine.CDI_devices.extend(wanted.CDI_devices)
        if wanted.HasField("linux"):
            self._linux(plugin, wanted.linux)
        self.updates.apply(plugin, response.update)
        self.updates.evictions.extend(response.evict)

    def _linux(self, plugin: str, wanted: pb.LinuxContainerAdjustment) -> None:
        mine, container = self.adjustment.linux, self._container.linux
        self._list(plugin, pb.Devices, "path", wanted.devices, mine.devices, container.devices)
        if wanted.HasField("resources"):
            claim_resources(self.owners, self._id, plugin, wanted.resources)
            merge_resources(mine.resources, wanted.resources)
            merge_resources(container.resources, wanted.resources)
        if wanted.cgroups_path:
            self.owners.claim(self._id, pb.CgroupsPath, plugin)
            mine.cgroups_path = container.cgroups_path = wanted.cgroups_path
        for name, field in _SINGLE.items():
            if wanted.HasField(name):  # type: ignore[arg-type]
                self.owners.claim(self._id, field, plugin)
                _copy(name, wanted, mine, container)
        self._namespaces(plugin, wanted.namespaces)
        self._map(plugin, pb.Sysctl, wanted.sysctl, mine.sysctl, container.sysctl)
        self._map(plugin, pb.LinuxNetDevices, wanted.net_devices, mine.net_devices, container.net_devices)
        if wanted.HasField("rdt"):
            self._rdt(plugin, wanted.rdt)

    def _map(
        self,
        plugin: str,
        field: Field,
        wanted: Mapping[str, Any],
        mine: MutableMapping[str, Any],
        container: MutableMapping[str, Any],
    ) -> None:
        """Removals come before what is set, so that a plugin may set what it has taken from another."""
        for key in filter(owners.marked, wanted):
            self.owners.clear(self._id, field, plugin, owners.name(key))
            mine.pop(owners.name(key), None)
            container.pop(owners.name(key), None)
            _put(mine, key, wanted[key])
        for key in wanted:
            if not owners.marked(key):
                self.owners.claim(self._id, field, plugin, key)
                _put(mine, key, wanted[key])
                _put(container, key, wanted[key])

    def _list(self, plugin: str, field: Field, member: str, wanted: _List, mine: _List, container: _List) -> None:
        """The same for entries that have their key in a member."""

        def key(entry: Message) -> str:
            return str(getattr(entry, member))

        removed, added = self._split(plugin, field, map(key, wanted))
        _drop(mine, removed, key)
        _drop(container, removed | added, key)
        for entry in wanted:
            mine.append(entry)
            if not owners.marked(key(entry)):
                container.append(entry)

    def _env(self, plugin: str, wanted: Iterable[pb.KeyValue]) -> None:
        """The container has its variables as text."""
        removed, added = self._split(plugin, pb.Env, (entry.key for entry in wanted))
        _drop(self.adjustment.env, removed, lambda entry: str(entry.key))
        self.adjustment.env.extend(wanted)
        kept = [text for text in self._container.env if text.partition("=")[0] not in removed | added]
        self._container.env[:] = [*kept, *(f"{each.key}={each.value}" for each in wanted if each.key in added)]

    def _split(self, plugin: str, field: Field, keys: Iterable[str]) -> tuple[set[str], set[str]]:
        """The names that are removed and those that are set, with their owners noted."""
        removed, added = set[str](), list[str]()
        for key in keys:
            if owners.marked(key):
                removed.add(owners.name(key))
            else:
                added.append(key)
        for name in removed:
            self.owners.clear(self._id, field, plugin, name)
        for name in added:
            self.owners.claim(self._id, field, plugin, name)
        return removed, set(added)

    def _args(self, plugin: str, wanted: Iterable[str]) -> None:
        """A first argument that is empty says that the others replace those of an earlier plugin."""
        args = list(wanted)
        if not args:
            return
        if not args[0]:
            self.owners.clear(self._id, pb.Args, plugin)
            args = args[1:]
        self.owners.claim(self._id, pb.Args, plugin)
        self.adjustment.args[:] = args
        self._container.args[:] = args

    def _hooks(self, plugin: str, wanted: pb.Hooks) -> None:
        """Every plugin may add its own."""
        for field, hooks in wanted.ListFields():
            getattr(self.adjustment.hooks, field.name).extend(hooks)
            getattr(self._container.hooks, field.name).extend(hooks)
        if wanted.ListFields():
            self.owners.join(self._id, pb.OciHooks, plugin)

    def _namespaces(self, plugin: str, wanted: Iterable[pb.LinuxNamespace]) -> None:
        for namespace in wanted:
            kind = owners.name(namespace.type)
            self.owners.claim(self._id, pb.Namespace, plugin, kind)
            self.adjustment.linux.namespaces.append(namespace)
            _drop(self._container.linux.namespaces, {kind}, lambda entry: str(entry.type))
            if not owners.marked(namespace.type):
                self._container.linux.namespaces.append(namespace)

    def _rdt(self, plugin: str, wanted: pb.LinuxRdt) -> None:
        mine = self.adjustment.linux.rdt
        if wanted.remove:
            for field in _RDT.values():
                self.owners.clear(self._id, field, plugin)
            mine.Clear()
            mine.remove = True
            self._container.linux.ClearField("rdt")
        for name, field in _RDT.items():
            if wanted.HasField(name):  # type: ignore[arg-type]
                self.owners.claim(self._id, field, plugin)
                _copy(name, wanted, mine, self._container.linux.rdt)


def claim_resources(known: Owners, id: str, plugin: str, wanted: pb.LinuxResources) -> None:
    """Note that `plugin` sets these resources of a container. `InvalidArgument` for a conflict."""
    for group, fields in ((wanted.memory, owners.MEMORY), (wanted.cpu, owners.CPU)):
        for field, _ in group.ListFields():
            known.claim(id, fields[field.name], plugin)
    for limit in wanted.hugepage_limits:
        known.claim(id, pb.HugepageLimits, plugin, limit.page_size)
    for key in wanted.unified:
        known.claim(id, pb.CgroupsUnified, plugin, key)
    for name, owned in (("blockio_class", pb.BlockioClass), ("rdt_class", pb.RdtClass), ("pids", pb.PidsLimit)):
        if wanted.HasField(name):  # type: ignore[arg-type]
            known.claim(id, owned, plugin)


def merge_resources(into: pb.LinuxResources, wanted: pb.LinuxResources) -> None:
    """Set in `into` what `wanted` has; a value of zero counts, since it was given."""
    for group in ("memory", "cpu"):
        target = getattr(into, group)
        for field, value in getattr(wanted, group).ListFields():
            if isinstance(value, Message):
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)
    _drop(into.hugepage_limits, {each.page_size for each in wanted.hugepage_limits}, lambda each: str(each.page_size))
    into.hugepage_limits.extend(wanted.hugepage_limits)
    into.devices.extend(wanted.devices)
    into.unified.update(wanted.unified)
    for name in ("blockio_class", "rdt_class", "pids"):
        if wanted.HasField(name):
            _copy(name, wanted, into)


def _copy(name: str, source: Message, *targets: Message) -> None:
    """Copy a member to those that have it, too."""
    for target in targets:
        if name in target.DESCRIPTOR.fields_by_name:
            getattr(target, name).CopyFrom(getattr(source, name))


def _put(into: MutableMapping[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Message):
        into[key].CopyFrom(value)
    else:
        into[key] = value


def _drop(entries: _List, keys: set[str], key: Callable[[Any], str]) -> None:
    for index in reversed(range(len(entries))):
        if key(entries[index]) in keys:
            del entries[index]
