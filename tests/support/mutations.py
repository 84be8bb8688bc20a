"""Runs a conformance suite on backends that are broken on purpose, and tells which rules noticed.

A broken backend is a class: its docstring says what is wrong with it, and `breaks` which rules must notice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
Outcomes = dict[tuple[str, str], list[tuple[str, list[str]]]]
"""By mutant and rule: how each test of the rule ended, and the sections of its report."""

_TESTS = """
from {broken} import broken, suite

globals().update({{f"Test{{cls.__name__}}": suite(cls) for cls in broken()}})
"""
_CONFTEST = """
import json
from {broken} import broken

WANTED = {{(f"Test{{cls.__name__}}", f"test_{{rule}}") for cls in broken() for rule in cls.breaks}}
outcomes = {{}}

def pytest_collection_modifyitems(items):
    items[:] = [i for i in items if {{(i.cls.__name__, i.name), (i.cls.__name__, i.originalname)}} & WANTED]

def pytest_runtest_logreport(report):
    if report.when == "call":
        outcomes[report.nodeid] = [report.outcome, report.longreprtext[-300:], [name for name, _ in report.sections]]

def pytest_sessionfinish(session):
    (session.config.rootpath / "outcomes.json").write_text(json.dumps(outcomes))
"""


def run(folder: Path, broken: str) -> Outcomes:
    """Try every mutant of the module `broken` with the rules that it breaks, in a process of its own."""
    (folder / "test_broken.py").write_text(_TESTS.format(broken=broken))
    (folder / "conftest.py").write_text(_CONFTEST.format(broken=broken))
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}/tests\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found: Outcomes = {}
    assert (folder / "outcomes.json").exists(), done.stdout[-3000:]
    for node, (outcome, _, sections) in json.loads((folder / "outcomes.json").read_text()).items():
        _, suite, test = node.split("::", 2)
        for rule in {test, test.partition("[")[0]}:
            key = (suite.removeprefix("Test"), rule.removeprefix("test_"))
            found.setdefault(key, []).append((outcome, sections))
    return found


def check_noticed(cls: type, outcomes: Outcomes, contract: str) -> None:
    """Each rule that the mutant breaks has failed, and said which it is."""
    breaks: tuple[str, ...] = getattr(cls, "breaks", ())
    for rule in breaks:
        ends = outcomes[cls.__name__, rule]
        failed = [sections for outcome, sections in ends if outcome == "failed"]
        assert failed, f"{rule} does not notice {cls.__name__}: {cls.__doc__}"
        assert f"Rule of {contract}" in failed[0], "the report says which rule"


def rules(suite: type) -> set[str]:
    """The rules of a suite."""
    return {name.removeprefix("test_") for name in dir(suite) if name.startswith("test_")}


def broken_rules(mutants: Sequence[type]) -> set[str]:
    """The rules that some mutant breaks."""
    return {rule.partition("[")[0] for cls in mutants for rule in getattr(cls, "breaks", ())}


def mutants_of(names: dict[str, object]) -> list[type]:
    """The mutants among what a module has, in the order in which they stand there."""
    return [cls for cls in names.values() if isinstance(cls, type) and getattr(cls, "breaks", ())]


def table(mutants: Sequence[type]) -> str:
    """The mutation table, in Markdown."""
    rows = ["| broken on purpose | what is wrong | noticed by the rules |", "|---|---|---|"]
    for cls in mutants:
        noticed = "; ".join(rule.replace("_", " ") for rule in getattr(cls, "breaks", ()))
        rows.append(f"| `{cls.__name__}` | {(cls.__doc__ or '').strip()} | {noticed} |")
    return "\n".join(rows) + "\n"
