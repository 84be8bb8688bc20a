"""Times and durations: read as people write them."""

from __future__ import annotations

import pytest

from moorage import times
from moorage_api.errors import InvalidArgument

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-02", 86400 * SECOND),
    ],
)
def test_times_are_read(text: str, nanoseconds: int) -> None:
    assert times.parse_time(text) == nanoseconds


def test_since_is_a_time_seconds_or_a_duration() -> None:
    now = 10_000 * SECOND
    assert times.parse_moment("5000.5", now) == 5000 * SECOND + SECOND // 2
    assert times.parse_moment("1h30m", now) == (10_000 - 5400) * SECOND
    assert times.parse_moment("250ms", now) == now - SECOND // 4
    assert times.parse_moment("1970-01-01T00:00:02Z", now) == 2 * SECOND
    for wrong in ("", "yesterday", "5 m", "1970-13-01"):
        with pytest.raises(InvalidArgument, match="invalid time"):
            times.parse_moment(wrong, now)


def test_durations_are_read() -> None:
    assert times.parse_duration("1m30s") == 90 * SECOND
    assert times.parse_duration("1.5s") == 1_500_000_000
    assert times.parse_duration("0") == 0
    for wrong in ("", "5", "1m30", "s"):
        with pytest.raises(InvalidArgument, match="invalid duration"):
            times.parse_duration(wrong)
