"""The parser of WWW-Authenticate."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooraged.transfer.challenges import Challenge, parse_challenges

DOCKER_HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            DOCKER_HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ("BASIC Realm=x", [Challenge("basic", {"realm": "x"})]),
        ('Basic realm=x, Bearer realm="y"', [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})]),
        ('Bearer realm = "a" , service= b', [Challenge("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a b\\"c\\\\d"', [Challenge("bearer", {"realm": 'a b"c\\d'})]),
        ("Negotiate", [Challenge("negotiate", {})]),
        ('Negotiate YWJj==, Basic realm="x"', [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})]),
        (',, Basic realm="x",,', [Challenge("basic", {"realm": "x"})]),
        ('Bearer realm="first",realm="second"', [Challenge("bearer", {"realm": "first"})]),
        ('Bearer realm="never closed', [Challenge("bearer", {})]),
        ("", []),
        ("=?", []),
    ],
)
def test_parses(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges([header]) == challenges


def test_several_headers_are_one_list() -> None:
    assert [c.scheme for c in parse_challenges(["Basic realm=a", DOCKER_HUB])] == ["basic", "bearer"]


def test_a_huge_header_is_not_read() -> None:
    assert parse_challenges(["Basic realm=" + "a" * 20_000]) == []


@pytest.mark.parametrize("piece", ['"', "\\", 'a="', "a=,", "Basic ", '\\"', " \t,", "=a"])
def test_time_is_linear(piece: str) -> None:
    header = ('Bearer realm="' + piece * 16_000)[: 16 << 10]
    start = time.monotonic()
    parse_challenges([header])
    assert time.monotonic() - start < 1


TOKEN = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
VALUE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)


@given(TOKEN, st.dictionaries(TOKEN.map(str.lower), VALUE, min_size=1, max_size=5))
def test_what_is_written_is_read(scheme: str, parameters: dict[str, str]) -> None:
    def quote(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"')

    header = f"{scheme} " + ", ".join(f'{name}="{quote(value)}"' for name, value in parameters.items())
    assert parse_challenges([header]) == [Challenge(scheme.lower(), parameters)]


@given(st.one_of(st.text(max_size=200), st.text('Bearer realm="\\=, x', max_size=200)))
def test_any_text_is_read(text: str) -> None:
    for challenge in parse_challenges([text]):
        assert challenge.scheme == challenge.scheme.lower()
