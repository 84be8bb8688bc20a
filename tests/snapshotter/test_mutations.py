"""The conformance suite notices every snapshotter that is broken on purpose, and every rule has one that breaks it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moorage_api.testing.snapshots import SnapshotterSuite
from support.broken_snapshotters import broken, table

ROOT = Path(__file__).resolve().parent.parent.parent
# Said of the class; there is no way to break it that could be opened.
_RULES = {name.removeprefix("test_") for name in dir(SnapshotterSuite) if name.startswith("test_")}

_TESTS = """
from moorage_api.testing.snapshots import SnapshotterSuite
from support.broken_snapshotters import broken

def suite(cls):
    members = {"open_snapshotter": lambda self, folder: cls(folder), "holds_only_changes": not hasattr(cls, "flags")}
    return type(f"Test{cls.__name__}", (SnapshotterSuite,), members)

globals().update({f"Test{cls.__name__}": suite(cls) for cls in broken()})
"""
_CONFTEST = """
import json
from support.broken_snapshotters import broken

WANTED = {(f"Test{cls.__name__}", f"test_{rule}") for cls in broken() for rule in cls.breaks}
outcomes = {}

def pytest_collection_modifyitems(items):
    items[:] = [i for i in items if {(i.cls.__name__, i.name), (i.cls.__name__, i.originalname)} & WANTED]

def pytest_runtest_logreport(report):
    if report.when == "call":
        outcomes[report.nodeid] = [report.outcome, report.longreprtext[-300:], [name for name, _ in report.sections]]

def pytest_sessionfinish(session):
    (session.config.rootpath / "outcomes.json").write_text(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[tuple[str, list[str]]]]:
    """By mutant and rule: how each test of the rule ended, and the sections of its report."""
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "test_broken.py").write_text(_TESTS)
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}/tests\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found: dict[tuple[str, str], list[tuple[str, list[str]]]] = {}
    assert (folder / "outcomes.json").exists(), done.stdout[-3000:]
    for node, (outcome, _, sections) in json.loads((folder / "outcomes.json").read_text()).items():
        _, suite, test = node.split("::", 2)
        for rule in {test, test.partition("[")[0]}:
            key = (suite.removeprefix("Test"), rule.removeprefix("test_"))
            found.setdefault(key, []).append((outcome, sections))
    return found


@pytest.mark.parametrize("cls", broken(), ids=lambda cls: cls.__name__)
def test_it_is_noticed(cls: type, outcomes: dict[tuple[str, str], list[tuple[str, list[str]]]]) -> None:
    breaks: tuple[str, ...] = getattr(cls, "breaks", ())
    for rule in breaks:
        ends = outcomes[cls.__name__, rule]
        failed = [sections for outcome, sections in ends if outcome == "failed"]
        assert failed, f"{rule} does not notice {cls.__name__}: {cls.__doc__}"
        assert "Rule of moorage_api.snapshots" in failed[0], "the report says which rule"


def test_every_rule_is_broken_by_one() -> None:
    covered = {rule.partition("[")[0] for cls in broken() for rule in getattr(cls, "breaks", ())}
    assert covered == _RULES


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    assert table() in (ROOT / "docs/conformance.md").read_text(), "run ./dev docs"
