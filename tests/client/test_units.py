"""Sizes and times, as docker writes them."""

from __future__ import annotations

import pytest

from moorage.cli import units
from moorage_api.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("6m", 6 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("10KB", 10240), ("7b", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 0"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (4_261_000, "4.26MB"), (1_500, "1.5kB"), (7 * 10**15, "7e+03TB")]
)
def test_sizes_are_written_with_three_digits(size: int, text: str) -> None:
    assert units.human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "Less than a second"),
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (179, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_are_dockers(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_times_keep_their_nanoseconds() -> None:
    assert units.rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    assert units.rfc3339(0) == "0001-01-01T00:00:00Z"
