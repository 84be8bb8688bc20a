"""Sizes and times, as people write and read them."""

from __future__ import annotations

import datetime as dt
import math
import re

import click

from moorage_api.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?", re.IGNORECASE)
_POWERS = " kmgtp"
_STEPS = (("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12))
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def check_seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """The callback of an option that is seconds: fractions are allowed, and negative or `inf` is for ever."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("it is no number of seconds", ctx, param)
    return value


def parse_size(text: str) -> int:
    """`512m`, `1.5g`, `1024`: bytes, in powers of 1024 as docker's limits are. `InvalidArgument`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"invalid size {text!r}: expected a number and perhaps k, m or g, as 512m")
    return int(float(match[1]) * 1024 ** _POWERS.index(match[2].lower() or " "))


def human_size(size: float) -> str:
    """Bytes in powers of 1000, three digits: `4.26MB`."""
    unit, scale = next((step for step in _STEPS if size < step[1] * 1000), _STEPS[-1])
    return f"{size / scale:.3g}{unit}"


def binary_size(size: float) -> str:
    """Bytes in powers of 1024: `1.5MiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = next((power for power in range(len(units)) if size < 1024 ** (power + 1)), len(units) - 1)
    return f"{size / 1024**power:.4g}{units[power]}"


def human_duration(seconds: float) -> str:
    """About how long, in docker's words: `3 minutes`, `About an hour`."""
    seconds = max(seconds, 0)
    if seconds < 1:
        return "Less than a second"
    if seconds < _MINUTE:
        return _count(seconds, "second")
    if seconds < 2 * _MINUTE:
        return "About a minute"
    if seconds < _HOUR:
        return _count(seconds / _MINUTE, "minute")
    if seconds < 1.5 * _HOUR:
        return "About an hour"
    if seconds < 2 * _DAY:
        return _count(seconds / _HOUR, "hour")
    if seconds < 14 * _DAY:
        return _count(seconds / _DAY, "day")
    if seconds < 60 * _DAY:
        return _count(seconds / (7 * _DAY), "week")
    if seconds < 730 * _DAY:
        return _count(seconds / (30 * _DAY), "month")
    return _count(seconds / (365 * _DAY), "year")


def _count(amount: float, unit: str) -> str:
    whole = int(amount)
    return f"{whole} {unit}" if whole == 1 else f"{whole} {unit}s"


def rfc3339(nanoseconds: int) -> str:
    """Unix nanoseconds as RFC 3339 in UTC; docker's zero time for zero."""
    if not nanoseconds:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def local_time(nanoseconds: int) -> str:
    """Unix nanoseconds in docker's form of a local time."""
    moment = dt.datetime.fromtimestamp(nanoseconds / 10**9).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S %z %Z}"
