"""What can be configured of the CRI plugin: the table `[plugins."io.containerd.grpc.v1.cri"]`.

Keys have containerd's names where they mean the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moorage_api.containers import Runtime
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.types import TypedValue
from moorage_api.wire import runc_options_pb2

OWN_SHIM = frozenset({"io.containerd.runc.v2", "io.moorage.v2", "io.containerd.moorage.v2"})
"""The runtimes whose shim is Moorage's own."""

RUNC_OPTIONS = "containerd.runc.v1.Options"
_PORT_MAX = 0xFFFF
# What a socket's address holds (unix(7)), less its last byte.
_SOCKET_PATH_MAX = 107

Seconds = Annotated[float, Meta(gt=0)]


class CniConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pod network, made by CNI plugins."""

    bin_dirs: Annotated[tuple[str, ...], Meta(description="Folders in which CNI plugins are looked for, in order.")] = (
        "/opt/cni/bin",
        "/usr/lib/cni",
    )
    conf_dir: Annotated[
        str, Meta(description="Folder of network configurations; the first by name is used, and read anew on a change.")
    ] = "/etc/cni/net.d"
    timeout: Annotated[Seconds, Meta(description="How long one CNI plugin may run before it is killed.")] = 30.0
    ip_pref: Annotated[
        Literal["ipv4", "ipv6", "cni"],
        Meta(description="Which address is a pod's first: of that family, or the first that CNI reports."),
    ] = "ipv4"


class RuntimeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """Options of a runc-like shim (`containerd.runc.v1.Options`)."""

    binary_name: Annotated[str, Meta(description="The OCI runtime; empty: crun where it works, else runc.")] = ""
    systemd_cgroup: Annotated[bool, Meta(description="Whether systemd makes the cgroups.")] = False
    root: Annotated[str, Meta(description="The folder in which the OCI runtime keeps its state.")] = ""


class RuntimeHandler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One runtime handler, as a RuntimeClass names it."""

    runtime_type: Annotated[str, Meta(description="The shim.")] = "io.containerd.runc.v2"
    options: RuntimeOptions = RuntimeOptions()
    snapshotter: Annotated[str, Meta(description="Snapshotter for containers of this handler; empty: the default.")] = (
        ""
    )
    pod_annotations: Annotated[
        tuple[str, ...],
        Meta(description="Pod annotations that go into OCI specifications; `*` at the end matches any."),
    ] = ()
    container_annotations: Annotated[
        tuple[str, ...], Meta(description="Container annotations that go into OCI specifications, likewise.")
    ] = ()
    privileged_without_host_devices: Annotated[
        bool, Meta(description="Whether privileged containers are left without the host's devices.")
    ] = False

    def runtime(self, *, systemd_cgroup: bool | None = None) -> Runtime:
        """The runtime as container and sandbox records have it. `systemd_cgroup` is what a pod needs; None: as configured."""
        options = runc_options_pb2.Options(
            binary_name=self.options.binary_name,
            systemd_cgroup=self.options.systemd_cgroup if systemd_cgroup is None else systemd_cgroup,
            root=self.options.root,
        )
        value = options.SerializeToString()
        return Runtime(self.runtime_type, TypedValue(RUNC_OPTIONS, value) if value else None)


def _runtimes() -> dict[str, RuntimeHandler]:
    return {
        "default": RuntimeHandler(),
        "crun": RuntimeHandler(options=RuntimeOptions(binary_name="crun")),
        "runc": RuntimeHandler(options=RuntimeOptions(binary_name="runc")),
    }


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate with its key, as PEM files."""

    tls_cert_file: Annotated[str, Meta(description="The certificate, with those that it depends on.")] = ""
    tls_key_file: Annotated[str, Meta(description="Its private key.")] = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Kubernetes Container Runtime Interface."""

    snapshotter: Annotated[str, Meta(description="Snapshotter for images and containers; empty: the default.")] = ""
    default_runtime_name: Annotated[str, Meta(description="The handler of pods that name none.")] = "default"
    runtimes: Annotated[dict[str, RuntimeHandler], Meta(description="Runtime handlers, by name.")] = msgspec.field(
        default_factory=_runtimes
    )
    cgroup_parent: Annotated[
        str, Meta(description="Parent cgroup of pods for which the caller names none; a `.slice` with systemd.")
    ] = "/k8s.io"
    pinned_images: Annotated[
        tuple[str, ...], Meta(description="Images that a kubelet's garbage collection must leave alone.")
    ] = ()
    image_pull_progress_timeout: Annotated[
        Seconds, Meta(description="A pull without a byte of progress for so many seconds is given up.")
    ] = 300.0
    drain_exec_sync_io_timeout: Annotated[
        Seconds, Meta(description="How many seconds ExecSync waits for output that outlives the command.")
    ] = 5.0
    enable_unprivileged_ports: Annotated[
        bool, Meta(description="Whether every user of a pod may bind ports below 1024.")
    ] = True
    enable_unprivileged_icmp: Annotated[
        bool, Meta(description="Whether every user of a pod may send ping packets.")
    ] = True
    ignore_image_defined_volumes: Annotated[
        bool, Meta(description="Whether VOLUME entries of images are left without a volume.")
    ] = False
    device_ownership_from_security_context: Annotated[
        bool, Meta(description="Whether devices get the container's user and group as owners.")
    ] = False
    enable_selinux: Annotated[
        bool, Meta(description="Whether containers and their volumes get SELinux labels, where the kernel has SELinux.")
    ] = False
    hooks_dirs: Annotated[
        tuple[str, ...],
        Meta(
            description="Folders with OCI hooks for containers (oci-hooks(5)), as `/usr/share/containers/oci/hooks.d`."
        ),
    ] = ()
    cdi_spec_dirs: Annotated[
        tuple[str, ...],
        Meta(description="Folders with the specifications of CDI devices; a later one comes before an earlier one."),
    ] = ("/etc/cdi", "/var/run/cdi")
    unset_seccomp_profile: Annotated[
        str, Meta(description="Seccomp profile where the caller names none: empty, `unconfined` or `runtime/default`.")
    ] = ""
    timeout: Annotated[
        Seconds, Meta(description="The longest that making a pod or a container may take, in seconds.")
    ] = 240.0
    runtime_endpoint: Annotated[
        str, Meta(description="Path of a socket for the runtime service alone, besides the daemon's; empty: none.")
    ] = ""
    image_endpoint: Annotated[
        str, Meta(description="Path of a socket for the image service alone, likewise; both may be the same.")
    ] = ""
    stream_server_address: Annotated[
        str, Meta(description="Address at which exec, attach and port-forward are served; empty: all of this host's.")
    ] = "127.0.0.1"
    stream_server_port: Annotated[str, Meta(description="Its port; `0`: any that is free.", pattern="^[0-9]{1,5}$")] = (
        "0"
    )
    stream_idle_timeout: Annotated[
        Seconds, Meta(description="A streaming connection is closed when nothing has passed for so many seconds.")
    ] = 14400.0
    stream_creation_timeout: Annotated[
        Seconds, Meta(description="How many seconds a streaming client may take to open its streams.")
    ] = 30.0
    enable_tls_streaming: Annotated[
        bool, Meta(description="Whether streaming is served over TLS, with `x509_key_pair_streaming`.")
    ] = False
    x509_key_pair_streaming: KeyPair = KeyPair()
    cni: CniConfig = CniConfig()

    def handler(self, name: str) -> RuntimeHandler:
        """The handler of that name, or the default one for an empty name. `NotFound`, with the names there are."""
        found = self.runtimes.get(name or self.default_runtime_name)
        if found is None:
            known = ", ".join(sorted(self.runtimes)) or "none"
            raise NotFound(
                f"no runtime handler {name or self.default_runtime_name!r} is configured (there are: {known})"
            )
        return found

    def check(self) -> None:
        """`InvalidArgument` for what single fields cannot show to be wrong."""
        if self.default_runtime_name not in self.runtimes:
            raise InvalidArgument(f"default_runtime_name {self.default_runtime_name!r} is not among the runtimes")
        if self.unset_seccomp_profile not in ("", "unconfined", "runtime/default"):
            raise InvalidArgument(f"unset_seccomp_profile {self.unset_seccomp_profile!r} is not known")
        for name in ("runtime_endpoint", "image_endpoint"):
            path = getattr(self, name).removeprefix("unix://")
            if path and (not path.startswith("/") or len(path) > _SOCKET_PATH_MAX):
                raise InvalidArgument(f"{name} {path[:120]!r} is not a path of at most {_SOCKET_PATH_MAX} bytes")
        if int(self.stream_server_port) > _PORT_MAX:
            raise InvalidArgument(f"stream_server_port {self.stream_server_port} is not a port")
        pair = self.x509_key_pair_streaming
        if self.enable_tls_streaming and not (pair.tls_cert_file and pair.tls_key_file):
            raise InvalidArgument("enable_tls_streaming needs both files of x509_key_pair_streaming")
