"""Stop signals: CRI's numbers, the names in images, and Linux's numbers."""

from __future__ import annotations

import signal

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2

DEFAULT = "SIGTERM"
_RTMIN, _RTMAX = 34, 64
_ALIASES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO", "SIGUNUSED": "SIGSYS"}


def stop_signal(wanted: cri_pb2.Signal.ValueType, image: str) -> str:
    """The name of a container's stop signal: the caller's, else the image's, else SIGTERM.

    `InvalidArgument` for a signal that is none; an image's that is none is passed over, as it only proposes.
    """
    if wanted != cri_pb2.SIGNAL_RUNTIME_DEFAULT:
        if wanted not in cri_pb2.Signal.values():
            raise InvalidArgument(f"unknown stop signal {wanted}")
        return cri_pb2.Signal.Name(wanted).removeprefix("SIGNAL_")
    try:
        number(image)
    except InvalidArgument:
        return DEFAULT
    return _name(image)


def number(name: str) -> int:
    """The number of a signal by its name (with or without SIG, `RTMIN+3`, `RTMAX-1`) or number. `InvalidArgument`."""
    if name.isascii() and name.isdecimal() and len(name) < 4 and 0 < int(name) <= _RTMAX:
        return int(name)
    full = _name(name)
    known = signal.Signals.__members__.get(_ALIASES.get(full, full))
    if known is not None:
        return int(known)
    for start, base, sign in (("SIGRTMINPLUS", _RTMIN, 1), ("SIGRTMAXMINUS", _RTMAX, -1)):
        offset = full.removeprefix(start)
        if offset != full and offset.isascii() and offset.isdecimal() and int(offset[:3]) <= _RTMAX - _RTMIN:
            return base + sign * int(offset[:3])
    raise InvalidArgument(f"unknown signal {name[:40]!r}")


def cri_signal(name: str) -> cri_pb2.Signal.ValueType:
    """As a status shows it; a signal that CRI has no name for is shown as the runtime's default."""
    try:
        wanted = number(name)
    except InvalidArgument:
        return cri_pb2.SIGNAL_RUNTIME_DEFAULT
    for entry in cri_pb2.Signal.keys():  # noqa: SIM118 - an enum wrapper has no iterator of its own
        if entry != "SIGNAL_RUNTIME_DEFAULT" and number(entry.removeprefix("SIGNAL_")) == wanted:
            return cri_pb2.Signal.Value(entry)
    return cri_pb2.SIGNAL_RUNTIME_DEFAULT


def _name(name: str) -> str:
    upper = name.upper().replace("+", "PLUS").replace("MAX-", "MAXMINUS")
    return upper if upper.startswith("SIG") or upper.isdecimal() else f"SIG{upper}"
