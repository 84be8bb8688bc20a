"""Control groups, as seen by those who read them: where a process's are, and what a group has used (cgroups(7)).

Nothing here changes a group. The readers take folders, so that they work on any tree with the kernel's files in it.
"""

from __future__ import annotations

from moorage_api.cgroups import v1, v2
from moorage_api.cgroups.location import Group, locate
from moorage_api.wire import cgroups_v1_pb2, cgroups_v2_pb2

__all__ = ["Group", "locate", "metrics"]


def metrics(group: Group) -> cgroups_v1_pb2.Metrics | cgroups_v2_pb2.Metrics:
    """What a group has used, as containerd's message of its version. A file that is missing leaves its part empty."""
    return v1.read(group) if group.version == 1 else v2.read(group.path(""))
