"""The formats of the kernel's small files: one number, or lines of a key and a number."""

from __future__ import annotations

import os
from contextlib import suppress

UNLIMITED = (1 << 64) - 1
"""What `max` stands for."""


def read_file(path: str) -> str:
    """A small file of the kernel's; empty where it is not there."""
    with suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""


def number(folder: str, name: str) -> int:
    """The number in a file; `max` is `UNLIMITED`, a missing file 0."""
    return parse(read_file(os.path.join(folder, name)).strip())


def parse(text: str) -> int:
    """A number or `max`; 0 for nothing. v1 says -1 where it means no limit."""
    if text == "max":
        return UNLIMITED
    try:
        return int(text) & UNLIMITED
    except ValueError:
        return 0


def keyed(folder: str, name: str) -> dict[str, int]:
    """`key number` lines; empty for a missing file."""
    return dict(_pairs(read_file(os.path.join(folder, name)).splitlines()))


def nested(line: str) -> tuple[str, dict[str, str]]:
    """`name key=value key=value` as v2 and rdma write it."""
    name, *rest = line.split()
    return name, dict(pair.split("=", 1) for pair in rest if "=" in pair)


def device(name: str) -> tuple[int, int]:
    """`major:minor`; zeros for what is no device."""
    major, _, minor = name.partition(":")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def huge_page_sizes(folder: str) -> list[str]:
    """Page sizes that the hugetlb controller accounts for here, as `2MB`."""
    if not folder or not os.path.isdir(folder):
        return []
    prefix = "hugetlb."
    return sorted({name.split(".")[1] for name in os.listdir(folder) if name.startswith(prefix)})


def _pairs(lines: list[str]) -> list[tuple[str, int]]:
    pairs = []
    for line in lines:
        key, _, value = line.partition(" ")
        if value:
            pairs.append((key, parse(value)))
    return pairs
