"""The pytest plugin of the conformance suites: installed with Moorage, it needs no line in an author's project.

It has pytest rewrite the suites' assertions, so that a failure shows the values; and to the report of a test that
failed it adds which rule was broken, where the rule is written down, and what the tree of snapshots was.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "moorage_api.testing.content",
    "moorage_api.testing.differ",
    "moorage_api.testing.snapshot_crashes",
    "moorage_api.testing.snapshot_files",
    "moorage_api.testing.snapshots",
)

_SUITES = "moorage_api.testing."
_CONTRACTS = {"SnapshotterSuite": "snapshots", "ContentStoreSuite": "content", "DifferSuite": "differ"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    instance = getattr(item, "instance", None)
    if report.when != "call" or not report.failed or not isinstance(item, pytest.Function) or instance is None:
        return
    contract = contract_of(type(instance))
    if not contract:
        return
    report.sections.append((f"Rule of moorage_api.{contract}", rule(item)))
    for snapshotter in getattr(instance, "shown_on_failure", []):
        report.sections.append(("Snapshots at the end", draw(snapshotter)))


def contract_of(suite: type) -> str:
    """The contract's module, for a class that an author derived from a suite; else empty."""
    for base in suite.__mro__:
        if base.__module__.startswith(_SUITES) and base.__name__ in _CONTRACTS:
            return _CONTRACTS[base.__name__]
    return ""


def rule(item: pytest.Function) -> str:
    """The rule that a test stands for, in words: its name, its parameters, and what its docstring adds."""
    words = item.originalname.removeprefix("test_").replace("_", " ")
    parameters = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""
    explanation = getattr(item.function, "__doc__", None)
    return f"{words}{parameters}" + (f"\n{explanation}" if explanation else "")


def draw(snapshotter: Any) -> str:
    """The tree of snapshots, children under their parents; also for a snapshotter that keeps no rule at all."""
    try:
        infos = list(snapshotter.walk())
    except Exception as error:  # noqa: BLE001 - what is shown must not hide what failed
        return f"walk() raised {error!r}"
    names = {info.name for info in infos}
    lines: list[str] = []

    def add(parent: str, depth: int) -> None:
        for info in infos:
            if info.parent == parent or (depth == 0 and info.parent not in names):
                labels = "".join(f" {key}={value}" for key, value in info.labels.items())
                missing = f" (its parent {info.parent!r} is not there)" if depth == 0 and info.parent else ""
                lines.append(f"{'  ' * depth}{info.name}: {info.kind.value}{labels}{missing}")
                if depth < len(infos):
                    add(info.name, depth + 1)

    add("", 0)
    return "\n".join(lines) or "(none)"
