"""Who a container runs as: what the caller says, else what the image says, by the accounts of the image."""

from __future__ import annotations

import os

from moorage_api.errors import InvalidArgument
from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from moorage_api.oci.user import Accounts, User, check_id
from moorage_api.wire import cri_pb2

_CACHED_MAX = 128


class AccountCache:
    """The accounts of images, by image id: a fresh container's are its image's. Keeps the latest 128."""

    def __init__(self) -> None:
        self._known: dict[str, Accounts] = {}

    def get(self, image_id: str, mounts: list[Mount]) -> Accounts:
        """The accounts of an image; `mounts` are those of a container's snapshot of it, mounted where they are needed.

        This does I/O. Errors: those of mounting, and of `Accounts.read`.
        """
        known = self._known.pop(image_id, None)
        if known is None:
            with temporary_mount(mounts) as target:
                root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    known = Accounts.read(root)
                finally:
                    os.close(root)
        self._known[image_id] = known
        while len(self._known) > _CACHED_MAX:
            self._known.pop(next(iter(self._known)))
        return known


def check(context: cri_pb2.LinuxContainerSecurityContext) -> None:
    """`InvalidArgument` for ids out of range, and for a group without a user, which CRI forbids."""
    if context.HasField("run_as_user"):
        check_id(context.run_as_user.value, "run_as_user")
    if context.HasField("run_as_group"):
        check_id(context.run_as_group.value, "run_as_group")
        if not context.HasField("run_as_user") and not context.run_as_username:
            raise InvalidArgument("run_as_group needs run_as_user or run_as_username")
    for group in context.supplemental_groups:
        check_id(group, "supplemental group")


def resolve(context: cri_pb2.LinuxContainerSecurityContext, image_user: str, accounts: Accounts) -> User:
    """The user with all its groups. With the policy `Strict`, the memberships in the image's /etc/group do not count.

    Errors: those of `Accounts.resolve`.
    """
    if context.run_as_username:
        who = context.run_as_username
    elif context.HasField("run_as_user"):
        who = str(context.run_as_user.value)
    else:
        who = image_user or "0"
    group = str(context.run_as_group.value) if context.HasField("run_as_group") else ""
    found = accounts.resolve(who, group)
    own = found.groups if context.supplemental_groups_policy == cri_pb2.Merge else (found.gid,)
    groups = tuple(sorted({*own, *context.supplemental_groups}))
    return User(found.uid, found.gid, groups, found.name, found.home)
