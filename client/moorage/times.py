"""Times and durations as people write them."""

from __future__ import annotations

import contextlib
import datetime as dt
import re

from moorage_api.errors import InvalidArgument

_SECOND = 1_000_000_000
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": _SECOND, "m": 60 * _SECOND, "h": 3600 * _SECOND}
_UNITS["d"] = 24 * _UNITS["h"]


def parse_time(text: str) -> int:
    """RFC 3339, with any number of fractional digits, as Unix time in nanoseconds. `InvalidArgument`."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?)?", text)
    try:
        if match is None:
            raise ValueError(text)
        day, clock, fraction, zone = match.groups()
        offset = "+00:00" if zone in (None, "Z") else zone
        moment = dt.datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{offset}")
    except ValueError:
        raise InvalidArgument(f"invalid time {text!r}: expected RFC 3339, as 2026-01-31T12:00:00Z") from None
    return int(moment.timestamp()) * _SECOND + int((fraction or "0").ljust(9, "0"))


def parse_duration(text: str) -> int:
    """`1h30m`, `250ms`, `0`: nanoseconds. `InvalidArgument`."""
    parts = list(_DURATION.finditer(text))
    if text == "0":
        return 0
    if not text or "".join(part[0] for part in parts) != text:
        raise InvalidArgument(f"invalid duration {text!r}: expected numbers with units, as 10s, 1m30s or 250ms")
    return int(sum(float(part[1]) * _UNITS[part[2]] for part in parts))


def parse_moment(text: str, now: int) -> int:
    """What `--since` means, as Unix time in nanoseconds: a time, Unix seconds, or a duration before `now` (`1h30m`)."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * _SECOND)
    with contextlib.suppress(InvalidArgument):
        return now - parse_duration(text)
    with contextlib.suppress(InvalidArgument):
        return parse_time(text)
    raise InvalidArgument(
        f"invalid time {text!r}: expected RFC 3339 (2026-01-31T12:00:00Z), Unix seconds, or a duration (10m, 1h30m)"
    )
