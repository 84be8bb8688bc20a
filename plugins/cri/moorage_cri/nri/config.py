"""What can be configured of NRI: the table `[plugins."io.containerd.nri.v1.nri"]`. Keys have containerd's names."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]


class ValidatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The built-in validator, which refuses containers whose adjustments break these rules."""

    enable: Annotated[bool, Meta(description="Whether adjustments are validated at all.")] = False
    reject_oci_hook_adjustment: Annotated[bool, Meta(description="Refuse plugins' OCI hooks.")] = False
    reject_runtime_default_seccomp_adjustment: Annotated[
        bool, Meta(description="Refuse a seccomp policy in place of the runtime's default profile.")
    ] = False
    reject_unconfined_seccomp_adjustment: Annotated[
        bool, Meta(description="Refuse a seccomp policy for containers that have none.")
    ] = False
    reject_custom_seccomp_adjustment: Annotated[
        bool, Meta(description="Refuse a seccomp policy in place of a localhost profile.")
    ] = False
    reject_namespace_adjustment: Annotated[bool, Meta(description="Refuse changes of Linux namespaces.")] = False
    reject_sysctl_adjustment: Annotated[bool, Meta(description="Refuse changes of sysctls.")] = False
    required_plugins: Annotated[
        tuple[str, ...],
        Meta(description="Plugins, by name or `index-name`, without which no container is made."),
    ] = ()
    tolerate_missing_plugins_annotation: Annotated[
        str, Meta(description="The pod annotation by which a container does without required plugins; empty: none.")
    ] = ""


class NriConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Node Resource Interface: plugins that see and adjust pods and containers."""

    disable: Annotated[bool, Meta(description="Whether there is no NRI at all.")] = False
    socket_path: Annotated[str, Meta(description="The socket to which plugins connect.")] = "/var/run/nri/nri.sock"
    plugin_path: Annotated[
        str, Meta(description="Folder of plugins that the daemon starts itself, named `index-name`.")
    ] = "/opt/nri/plugins"
    plugin_config_path: Annotated[
        str, Meta(description="Folder of those plugins' configurations: `index-name.conf`, else `name.conf`.")
    ] = "/etc/nri/conf.d"
    plugin_registration_timeout: Annotated[
        Seconds, Meta(description="How many seconds a plugin that has connected may take to register.")
    ] = 5.0
    plugin_request_timeout: Annotated[
        Seconds, Meta(description="How many seconds a plugin may take to answer; one that takes longer is let go.")
    ] = 2.0
    disable_connections: Annotated[
        bool, Meta(description="Whether there is no socket, so that only plugins that the daemon starts take part.")
    ] = False
    default_validator: ValidatorConfig = ValidatorConfig()
