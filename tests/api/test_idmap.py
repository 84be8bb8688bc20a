"""Mappings of ids."""

from __future__ import annotations

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.idmap import IdMapping, IdRange, parse


def test_text_and_lines() -> None:
    mapping = parse("0:1000:10,20:5000:1")
    assert mapping == IdMapping((IdRange(0, 1000, 10), IdRange(20, 5000, 1)))
    assert str(mapping) == "0:1000:10,20:5000:1"
    assert mapping.lines == "0 1000 10\n20 5000 1\n"


def test_ids_on_the_host() -> None:
    mapping = parse("0:1000:10,20:5000:1")
    assert [mapping.to_host(id) for id in (0, 9, 20)] == [1000, 1009, 5000]
    with pytest.raises(InvalidArgument, match=r"id 10 .* not mapped"):
        mapping.to_host(10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0:1",
        "0:1:2:3",
        "a:b:c",
        "0:1000:0",
        "-1:0:1",
        "0:-1:1",
        "0:4294967295:1",
        "0:0:1,0:5:1",
        "0:5:9,9:8:1",
    ],
)
def test_what_is_no_mapping(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_the_kernel_takes_so_many_ranges() -> None:
    ranges = [IdRange(number, 1000 + number, 1) for number in range(341)]
    IdMapping(tuple(ranges[:340]))
    with pytest.raises(InvalidArgument, match="341 ranges"):
        IdMapping(tuple(ranges))
