"""What a control group has used, as containerd's messages tell it (`io.containerd.cgroups.v1` and `v2`)."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage

from moorage_shim import metrics_v1, metrics_v2
from moorage_shim.cgroups import Cgroup


def read_into(target: AnyMessage, cgroup: Cgroup) -> None:
    """Read the group's files and pack the message of its version. A file that is missing leaves its part empty."""
    message = metrics_v1.read(cgroup) if cgroup.version == 1 else metrics_v2.read(cgroup.path(""))
    target.type_url = message.DESCRIPTOR.full_name
    target.value = message.SerializeToString()
