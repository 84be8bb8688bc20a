"""Console examples in Markdown, as commands that can be run and output that can be compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"<!-- executed[^>]*-->\n```console\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One command line, and the lines that it is shown to print; none where the output changes from run to run."""

    command: str
    output: tuple[str, ...]


def steps(page: Path) -> list[Step]:
    """The commands of every block that is marked as executed, in order."""
    found: list[Step] = []
    for block in _BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line.removeprefix("$ "), ()))
            else:
                last = found.pop()
                found.append(Step(last.command, (*last.output, line)))
    return found
