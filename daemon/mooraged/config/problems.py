"""What is wrong in a configuration, where, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage_api.errors import InvalidArgument

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One error. `line` counts from 1, zero where there is none (a flag, a file that cannot be read)."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(InvalidArgument):
    """The configuration cannot be used; `problems` has all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


def dotted(path: Iterable[str]) -> str:
    """A key path as TOML writes it; parts that are no bare keys are quoted."""
    return ".".join(part if _is_bare(part) else f'"{part}"' for part in path)


def _is_bare(key: str) -> bool:
    return bool(key) and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, or all known names where none is near and they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    if not names:
        return ""
    return f"; known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
