"""Names of CDI devices: `VENDOR/CLASS=NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2

_ANNOTATION = "cdi.k8s.io/"
_WORD = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_KIND = re.compile(f"{_WORD}/{_WORD}")
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")


def check_kind(kind: str) -> str:
    """Return `VENDOR/CLASS`, or raise `InvalidArgument`."""
    if _KIND.fullmatch(kind) is None:
        raise InvalidArgument(f"{kind[:80]!r} is no kind of CDI devices: expected VENDOR/CLASS")
    return kind


def check_device(name: str) -> str:
    """Return a device's name within its kind, or raise `InvalidArgument`."""
    if _DEVICE.fullmatch(name) is None:
        raise InvalidArgument(f"{name[:80]!r} is no name of a CDI device")
    return name


def check_qualified(name: str) -> str:
    """Return `VENDOR/CLASS=NAME`, or raise `InvalidArgument`."""
    kind, equals, device = name.partition("=")
    if not equals or _KIND.fullmatch(kind) is None or _DEVICE.fullmatch(device) is None:
        raise InvalidArgument(f"{name[:120]!r} is no CDI device: expected VENDOR/CLASS=NAME")
    return name


def wanted(devices: Iterable[cri_pb2.CDIDevice], annotations: Mapping[str, str]) -> list[str]:
    """What a container asks for, by field and by annotations (`cdi.k8s.io/…`, names with a comma between), each device
    once. `InvalidArgument` for what is no name."""
    named = [device.name for device in devices]
    for key in sorted(annotations):
        if key.startswith(_ANNOTATION):
            named += annotations[key].split(",")
    return list(dict.fromkeys(check_qualified(name) for name in named))
