"""What every checkpoint needs of the host and of its caller."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_cri.model import Sandbox

_CRIU = "criu"


def require_criu() -> None:
    """`FailedPrecondition` where it is missing."""
    if shutil.which(_CRIU) is None:
        raise FailedPrecondition("checkpoints need criu, which is not installed on this host")


def require_host_ids(sandbox: Sandbox) -> None:
    """`FailedPrecondition` for a pod with a user namespace: criu makes one anew, and cannot join the pod's."""
    if sandbox.user_namespace is not None:
        raise FailedPrecondition("pods with a user namespace of their own cannot be checkpointed or restored")


def refuse_options(options: Mapping[str, str]) -> None:
    """`InvalidArgument`: there are none, and what is not understood must not be passed over."""
    if options:
        raise InvalidArgument(f"option {min(options)[:80]!r} of checkpoints is not known: there are none")


def absolute(path: str, what: str) -> Path:
    """`InvalidArgument` for a path that is not absolute."""
    if not os.path.isabs(path):
        raise InvalidArgument(f"{what} {path[:80]!r} is not an absolute path")
    return Path(path)
