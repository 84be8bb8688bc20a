"""SELinux labels of containers, and of volumes that are to be theirs."""

from __future__ import annotations

import errno
import os

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.oci.spec import Spec
from moorage_api.wire import cri_pb2

_ATTRIBUTE = "security.selinux"
_USER, _ROLE, _TYPE, _LEVEL = "system_u", "system_r", "container_t", "s0"
_FILE_ROLE, _FILE_TYPE = "object_r", "container_file_t"
# Relabelling these would break the host.
_HOST_FOLDERS = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp"}
    | {"/usr", "/var"}
)


def check(options: cri_pb2.SELinuxOption) -> None:
    """`InvalidArgument` for a label that cannot be written."""
    for value in (options.user, options.role, options.type):
        if ":" in value or "\0" in value or len(value) > 255:
            raise InvalidArgument(f"{value[:80]!r} cannot be part of an SELinux label")
    if "\0" in options.level or len(options.level) > 4096:
        raise InvalidArgument("the SELinux level is too long")


def apply(spec: Spec, options: cri_pb2.SELinuxOption) -> str:
    """Label the process and its files; what `options` leave out is a container's usual. Returns the files' label."""
    level = options.level or _LEVEL
    user = options.user or _USER
    label = f"{user}:{_FILE_ROLE}:{_FILE_TYPE}:{level}"
    spec["process"]["selinuxLabel"] = f"{user}:{options.role or _ROLE}:{options.type or _TYPE}:{level}"
    spec["linux"]["mountLabel"] = label
    return label


def relabel(path: str, label: str) -> None:
    """Give a volume and all in it a label; links are labelled, not followed. `InvalidArgument` for a folder of the host's
    own, `FailedPrecondition` where it cannot be. A file system without labels is left as it is."""
    if os.path.realpath(path) in _HOST_FOLDERS:
        raise InvalidArgument(f"relabelling {path} is not allowed")
    try:
        _set(path, label)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                _set(os.path.join(folder, name), label)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise FailedPrecondition(f"volume {path} cannot be relabelled: {error}") from error


def _set(path: str, label: str) -> None:
    try:
        os.setxattr(path, _ATTRIBUTE, label.encode() + b"\0", follow_symlinks=False)
    except FileNotFoundError:
        # Who uses the volume may remove a file meanwhile.
        return
