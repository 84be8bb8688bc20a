"""The filter grammar, with containerd's own examples and corner cases."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api.errors import InvalidArgument
from moorage_api.filters import parse

OBJECTS = {
    "foo": {"name": "foo", "other": "foo", "labels": {"foo": "true"}},
    "bar": {"name": "bar", "labels": {"bar": "true"}},
    "bazo": {"name": "bazo", "labels": {"foo": "present", "bar": "true"}},
    "compound": {"name": "compound", "labels": {"foo": "omg_asdf.asdf-qwer"}},
    "quoted": {"name": "quoted", "labels": {"more complex label with \\ and .": "present", "containerd.io/x": "a,b"}},
    "empty": {"name": "", "other": ""},
}


def names(*filters: str) -> list[str]:
    def adaptor(obj: dict[str, object]):
        def value(path: Sequence[str]) -> str | None:
            if path[0] == "labels":
                return obj.get("labels", {}).get(".".join(path[1:]))  # type: ignore[attr-defined]
            return obj.get(".".join(path))  # type: ignore[return-value]

        return value

    parsed = parse(filters)
    return [key for key, obj in OBJECTS.items() if parsed.matches(adaptor(obj))]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("", list(OBJECTS)),
        ("name", list(OBJECTS)),
        ("other", ["foo", "empty"]),
        ('other==""', ["empty"]),
        ("name==bar", ["bar"]),
        ("name!=bar", ["foo", "bazo", "compound", "quoted", "empty"]),
        ("labels.foo", ["foo", "bazo", "compound"]),
        ("labels.foo,labels.bar", ["bazo"]),
        ("labels.foo==present", ["bazo"]),
        ("labels.foo==omg_asdf.asdf-qwer", ["compound"]),
        ('name~="ba."', ["bar", "bazo"]),
        ("name~=^ba", ["bar", "bazo"]),
        ("name~=/^ba/", ["bar", "bazo"]),
        ("name~=|^ba|", ["bar", "bazo"]),
        ("name== bar", ["bar"]),
        ("name==bar, labels.bar", ["bar"]),
        ("other~=^$", ["bar", "bazo", "compound", "quoted", "empty"]),
        ('labels."more complex label with \\\\ and ."==present', ["quoted"]),
        ('labels."containerd.io/x"=="a,b"', ["quoted"]),
        ('"name"==bar', ["bar"]),
        ('name=="\\x62\\141\\u0072"', ["bar"]),
        ("labels.foo~=/f\\\\.a/", ["compound"]),
    ],
)
def test_matches(filter: str, expected: list[str]) -> None:
    assert names(filter) == expected


def test_several_filters_match_any() -> None:
    assert names("name==foo", "labels.bar") == ["foo", "bar", "bazo"]
    assert names() == list(OBJECTS)
    assert names("name==nothing", "") == list(OBJECTS)


def test_everything_is_known_without_looking() -> None:
    assert parse([]).everything
    assert parse(["name==x", ""]).everything
    assert not parse(["name"]).everything


@pytest.mark.parametrize(
    ("filter", "position", "message"),
    [
        ("name==", 6, "expected a value"),
        ("name===x", 4, "unsupported operator '==='"),
        ("name=x", 4, "unsupported operator '='"),
        ("name foo", 5, "expected an operator"),
        ("name ,x", 5, "expected an operator"),
        ("name==foo bar", 9, "unexpected ' '"),
        ("name==foo ,x", 9, "unexpected ' '"),
        (".name", 0, "expected a field name"),
        ("labels.", 7, "expected a field name"),
        ("name,", 5, "expected a field name"),
        (",", 0, "expected a field name"),
        ("==x", 0, "expected a field name"),
        ("name==/x/", 6, "only ~= takes"),
        ("/name/==x", 0, "expected a field name"),
        ('name=="x', 6, "not terminated"),
        ('name=="x\ny"', 6, "not terminated"),
        ('name=="\\q"', 7, "illegal escape"),
        ('name=="\\x4"', 7, "illegal escape"),
        ('name=="\\x+4"', 7, "illegal escape"),
        ('name=="\\400"', 7, "illegal escape"),
        ('name=="\\U00110000"', 7, "illegal escape"),
        ("name~=/(/", 6, "invalid regular expression"),
        ("na\0me", 2, "unexpected null"),
        ("labels.containerd.io/gc.root", 20, "not terminated"),
        ("name==.x", 6, "expected a value"),
        ("é==x", 0, "expected a field name"),
    ],
)
def test_errors_name_the_position(filter: str, position: int, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(["name==fine", filter])
    assert f"at position {position}: " in caught.value.message
    assert message in caught.value.message


@given(st.text(alphabet=st.sampled_from('ab.,=!~"/|\\ x0\n\0é('), max_size=30))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = parse([text])
    except InvalidArgument:
        return
    parsed.matches(lambda path: "ab")


@given(st.text(max_size=20))
def test_a_quoted_value_is_the_value(text: str) -> None:
    quoted = "".join(f"\\U{ord(char):08x}" for char in text)
    expected = "".join("�" if 0xD800 <= ord(char) <= 0xDFFF else char for char in text)
    assert parse([f'name=="{quoted}"']).matches(lambda path: expected)
    assert not parse([f'name!="{quoted}"']).matches(lambda path: expected)
