"""Names and ids of containers."""

from __future__ import annotations

import pytest

from moorage import names
from moorage_api.errors import InvalidArgument


def test_random_names_are_names() -> None:
    found = {names.random_name() for _ in range(300)}
    assert all(names.check_name(name) == name and name.count("_") == 1 for name in found)
    assert len(found) > 200


def test_a_number_comes_behind_when_names_are_taken() -> None:
    assert any(names.random_name(9)[-1].isdigit() for _ in range(5))


def test_the_words_are_many_and_differ() -> None:
    assert len(set(names.ADJECTIVES)) == len(names.ADJECTIVES) > 60
    assert len(set(names.NOUNS)) == len(names.NOUNS) > 80


def test_ids_are_64_hexadecimal_digits_and_no_numbers() -> None:
    for _ in range(100):
        id = names.random_id()
        assert len(id) == 64
        assert set(id) <= set("0123456789abcdef")
        assert not id[:12].isdecimal()


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "ä", "x" * 129])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid container name"):
        names.check_name(name)
