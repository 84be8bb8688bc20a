"""Where a key stands in a TOML text, so that an error can name its line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any


def line_of(text: str, path: Sequence[str]) -> int:
    """The line (from 1) on which `path` is first set; that of its nearest parent where it is not; 0 for none.

    The parser itself is asked, with ever longer beginnings of the text: the first beginning that parses and has the
    key ends with the key's value. Slow (quadratic), and right for every way to write a key; used only for errors.
    """
    wanted = list(path)
    while wanted:
        found = _first_line(text, wanted)
        if found:
            return found
        wanted.pop()
    return 0


def _first_line(text: str, path: Sequence[str]) -> int:
    lines = text.splitlines(keepends=True)
    start = 0  # the first line after the last beginning that parsed: where a value of many lines starts
    for end in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(document, path):
            return start + 1 + _skippable(lines[start:end])
        start = end
    return 0


def _has(document: dict[str, Any], path: Sequence[str]) -> bool:
    value: Any = document
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _skippable(lines: Sequence[str]) -> int:
    """How many of the first lines are blank or comments."""
    count = 0
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            break
        count += 1
    return count
