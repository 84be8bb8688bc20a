"""Users and groups of a root file system: what `user[:group]` in an image or a request means.

The rules are those of Docker's and containerd's clients. A number needs no entry in `/etc/passwd`; a name does. The
files come from an image and are not trusted: they are opened with `openat2` so that no link leads out of the root,
read up to a limit, and a line that is not well-formed is passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted
from moorage_api.linux import syscalls

MAX_ID = 2**31 - 1
_FILE_MAX = 4 << 20
# open(2) results that mean the file is not there: missing, a link in a circle, or a path through a file.
_ABSENT = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `groups` are all its groups, sorted, the primary one among them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str = ""
    home: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The users and groups that one root file system knows."""

    users: tuple[_Entry, ...] = ()
    groups: tuple[_Group, ...] = ()

    @classmethod
    def read(cls, root: int) -> Self:
        """From `/etc/passwd` and `/etc/group` below the directory descriptor `root`; a missing file is an empty one.

        `InvalidArgument` for what is not a regular file, `ResourceExhausted` for one over 4 MiB.
        """
        return cls.parse(_read(root, "etc/passwd"), _read(root, "etc/group"))

    @classmethod
    def parse(cls, passwd: bytes, group: bytes) -> Self:
        """From the contents of the two files (passwd(5), group(5))."""
        return cls(tuple(_users(passwd)), tuple(_groups(group)))

    def resolve(self, user: str, group: str = "") -> User:
        """What `user` (a name or number, or `user:group`) means; `group`, if given, is the primary group.

        Without a group it is the one in `/etc/passwd`, or 0 for a number that has no entry there. `NotFound` for an
        unknown name, `InvalidArgument` for a number out of range. An empty user is root.
        """
        who, _, own_group = user.partition(":")
        entry = self._user(who or "0")
        wanted = group or own_group
        gid = self._group(wanted) if wanted else entry.gid
        return User(entry.uid, gid, self._memberships(entry.name, gid), entry.name, entry.home)

    def _user(self, who: str) -> _Entry:
        number = _number(who, "user id")
        for entry in self.users:
            if entry.uid == number if number is not None else entry.name == who:
                return entry
        if number is None:
            raise NotFound(f"no user {who[:64]!r} in the image's /etc/passwd")
        return _Entry("", number, 0, "/root" if number == 0 else "/")

    def _group(self, wanted: str) -> int:
        number = _number(wanted, "group id")
        if number is not None:
            return number
        for group in self.groups:
            if group.name == wanted:
                return group.gid
        raise NotFound(f"no group {wanted[:64]!r} in the image's /etc/group")

    def _memberships(self, name: str, gid: int) -> tuple[int, ...]:
        found = {group.gid for group in self.groups if name and name in group.members}
        return tuple(sorted(found | {gid}))


def check_id(number: int, what: str) -> int:
    """Return a user or group id that lies in 0 to 2^31-1, else raise `InvalidArgument`."""
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"{what} {number} is out of range: 0 to {MAX_ID}")
    return number


def _number(text: str, what: str) -> int | None:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return None
    if len(digits) > len(str(MAX_ID)):
        raise InvalidArgument(f"{what} {text[:32]} is out of range: 0 to {MAX_ID}")
    return check_id(int(text), what)


def _read(root: int, path: str) -> bytes:
    # O_NONBLOCK: a FIFO in an image must not hold up whoever opens it.
    try:
        fd = syscalls.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in _ABSENT:
            return b""
        raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"/{path} in the image is not a regular file")
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise ResourceExhausted(f"/{path} in the image is larger than {_FILE_MAX} bytes")
    return data


def _lines(data: bytes, fields: int) -> Iterator[list[str]]:
    for line in data.decode("utf-8", "replace").split("\n"):
        parts = line.strip().split(":")
        if len(parts) >= fields and parts[0] and not parts[0].startswith("#"):
            yield parts


def _entry_id(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_ID))):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def _users(data: bytes) -> Iterator[_Entry]:
    for parts in _lines(data, 4):
        uid, gid = _entry_id(parts[2]), _entry_id(parts[3])
        if uid is not None and gid is not None:
            yield _Entry(parts[0], uid, gid, parts[5] if len(parts) > 5 else "/")


def _groups(data: bytes) -> Iterator[_Group]:
    for parts in _lines(data, 4):
        gid = _entry_id(parts[2])
        if gid is not None:
            yield _Group(parts[0], gid, frozenset(parts[3].split(",")) - {""})
