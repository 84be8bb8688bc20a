"""The corpora of the fuzzer, replayed; and Hypothesis on the same targets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FRAGMENTS = {
    name: [eval(f"b{line}") for line in (CORPUS / f"{name}.dict").read_text().splitlines()] for name in TARGETS
}
"""What each input language is made of, as libFuzzer's dictionaries have it: quoted strings as C and Python write them."""


def _seeds(target: str) -> Iterator[Path]:
    yield from sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds(target: str) -> None:
    seeds = list(_seeds(target))
    assert len(seeds) > 10
    for seed in seeds:
        try:
            TARGETS[target](seed.read_bytes())
        except Exception as error:
            error.add_note(f"from {seed}")
            raise


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_put_together_from_its_words(target: str, data: st.DataObject) -> None:
    words = st.one_of(st.sampled_from(FRAGMENTS[target]), st.binary(max_size=20))
    TARGETS[target](b"".join(data.draw(st.lists(words, max_size=20))))


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_seed_with_a_part_replaced(target: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(sorted(_seeds(target)))).read_bytes()
    start = data.draw(st.integers(0, len(seed)))
    word = data.draw(st.one_of(st.sampled_from(FRAGMENTS[target]), st.binary(max_size=20)))
    TARGETS[target](seed[:start] + word + seed[start + len(word) :])
