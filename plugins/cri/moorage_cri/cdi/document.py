"""CDI specification files, JSON or YAML, as they are read."""

from __future__ import annotations

import msgspec

from moorage_api.errors import InvalidArgument
from moorage_cri.cdi.names import check_device, check_kind

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})
NO_PERMISSIONS = "none"
_FILE_MAX = 4 << 20


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Field names are those of the specification."""


class DeviceNode(_Struct, frozen=True):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Struct, frozen=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Struct, frozen=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class NetDevice(_Struct, frozen=True):
    host_interface_name: str
    name: str


class IntelRdt(_Struct, frozen=True, omit_defaults=True):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = msgspec.field(default="", name="memBwSchema")
    schemata: tuple[str, ...] = ()
    enable_monitoring: bool = False


class Edits(_Struct, frozen=True):
    """What a device changes in the configuration of a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    intel_rdt: IntelRdt | None = None
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGids")

    def check(self) -> None:
        """`InvalidArgument` for what cannot be applied."""
        for hook in self.hooks:
            if hook.hook_name not in HOOKS or not hook.path:
                raise InvalidArgument(f"hook {hook.hook_name!r} with path {hook.path!r}")
        for variable in (*self.env, *(variable for hook in self.hooks for variable in hook.env)):
            if variable.find("=") < 1:
                raise InvalidArgument(f"environment variable {variable[:80]!r}")
        for node in self.device_nodes:
            if not node.path or node.type not in ("", "b", "c", "u", "p"):
                raise InvalidArgument(f"device node {node.path!r} of type {node.type!r}")
            if node.permissions != NO_PERMISSIONS and set(node.permissions) - set("rwm"):
                raise InvalidArgument(f"device node {node.path!r}: permissions {node.permissions!r}")
        for mount in self.mounts:
            if not mount.host_path or not mount.container_path:
                raise InvalidArgument("a mount without one of its paths")


class Device(_Struct, frozen=True):
    name: str
    container_edits: Edits
    annotations: dict[str, str] = {}


class Document(_Struct, frozen=True):
    """One file: the devices of a kind; its own edits apply once to a container with any of them."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


def read(path: str) -> Document:
    """The document in a file. `InvalidArgument`, naming the file, for one that is not valid or too large; `OSError`."""
    with open(path, "rb") as file:
        data = file.read(_FILE_MAX + 1)
    try:
        if len(data) > _FILE_MAX:
            raise InvalidArgument(f"it has more than {_FILE_MAX} bytes")
        document = _decode(data, path)
        _check(document)
    except (InvalidArgument, msgspec.DecodeError) as error:
        raise InvalidArgument(f"{path}: {error}") from error
    return document


def _decode(data: bytes, path: str) -> Document:
    if path.endswith(".json"):
        return msgspec.json.decode(data, type=Document)
    return msgspec.yaml.decode(data, type=Document)


def _check(document: Document) -> None:
    if document.cdi_version.removeprefix("v") not in VERSIONS:
        raise InvalidArgument(f"version {document.cdi_version!r} is not one of {', '.join(VERSIONS)}")
    check_kind(document.kind)
    document.container_edits.check()
    names = [check_device(device.name) for device in document.devices]
    if not names:
        raise InvalidArgument("it has no devices")
    if len(set(names)) != len(names):
        raise InvalidArgument("two of its devices have the same name")
    for device in document.devices:
        device.container_edits.check()
