"""The conformance suite notices every content store that is broken on purpose, and every rule has one that breaks it."""

from __future__ import annotations

import pytest

from moorage_api.testing.content import ContentStoreSuite
from support.broken_content import broken
from support.mutations import ROOT, Outcomes, broken_rules, check_noticed, rules, run, table


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return run(tmp_path_factory.mktemp("mutations"), "support.broken_content")


@pytest.mark.parametrize("cls", broken(), ids=lambda cls: cls.__name__)
def test_it_is_noticed(cls: type, outcomes: Outcomes) -> None:
    check_noticed(cls, outcomes, "moorage_api.content")


def test_every_rule_is_broken_by_one() -> None:
    assert broken_rules(broken()) == rules(ContentStoreSuite)


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    assert table(broken()) in (ROOT / "docs/conformance.md").read_text(), "run ./dev docs"
