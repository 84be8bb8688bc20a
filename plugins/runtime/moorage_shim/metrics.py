"""What a control group has used, as containerd's messages tell it (`io.containerd.cgroups.v1` and `v2`)."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage

from moorage_api import cgroups


def read_into(target: AnyMessage, group: cgroups.Group) -> None:
    """Read the group's files and pack the message of its version. A file that is missing leaves its part empty."""
    message = cgroups.metrics(group)
    target.type_url = message.DESCRIPTOR.full_name
    target.value = message.SerializeToString()
