"""What a benchmark found, as a table that people read and as JSON that programs read."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


@dataclass
class Comparison:
    """One operation: samples of both sides in one unit, and the ratio that is aimed for, if one is."""

    name: str
    unit: str
    moorage: Sequence[float]
    peer: Sequence[float]
    target: float | None = None

    @property
    def ratio(self) -> float:
        """Moorage's median by the peer's: below 1, Moorage needs less."""
        return statistics.median(self.moorage) / statistics.median(self.peer)


@dataclass
class Report:
    """The comparisons of one benchmark."""

    title: str
    method: str
    rows: list[Comparison] = field(default_factory=list)

    def table(self) -> str:
        """Markdown, with medians."""
        lines = [f"# {self.title}", "", self.method, "", f"Machine: {machine()}.", ""]
        lines += ["| operation | unit | Moorage | containerd | ratio | aimed for |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            ours, theirs = statistics.median(row.moorage), statistics.median(row.peer)
            target = "" if row.target is None else f"at most {row.target}"
            lines.append(f"| {row.name} | {row.unit} | {ours:.2f} | {theirs:.2f} | {row.ratio:.2f} | {target} |")
        return "\n".join(lines) + "\n"

    def save(self, name: str) -> None:
        """Write `results/NAME.md` and `results/NAME.json`, the latter with every sample."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(self.table())
        samples = [
            {"name": r.name, "unit": r.unit, "moorage": list(r.moorage), "peer": list(r.peer), "ratio": r.ratio}
            for r in self.rows
        ]
        (RESULTS / f"{name}.json").write_text(json.dumps({"title": self.title, "rows": samples}, indent=1) + "\n")


def machine() -> str:
    """What the figures were taken on: cores, kernel, and the versions of the programs under test."""
    versions = []
    for program in ("containerd", "runc", "crun"):
        words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
        versions.append(f"{program} {next(word for word in words if word[0].isdigit())}")
    return f"{os.cpu_count()} cores, Linux {platform.release()}, {', '.join(versions)}"
