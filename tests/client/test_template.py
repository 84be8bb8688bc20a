"""Go templates as docker's users write them."""

from __future__ import annotations

import pytest

from moorage.cli.template import Template
from moorage_api.errors import InvalidArgument

ROW = {
    "ID": "0123456789abcdef",
    "Names": "steady_keel",
    "Labels": {"a": "1", "b": "2"},
    "State": {"Running": True, "Pid": 42},
    "Args": ["sh", "-c"],
    "Nothing": None,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.ID}}", "0123456789abcdef"),
        ("{{ .Names }}: {{.State.Pid}}", "steady_keel: 42"),
        (r"{{.Names}}\t{{.State.Running}}", "steady_keel\ttrue"),
        ("{{json .Labels}}", '{"a": "1", "b": "2"}'),
        ("{{.Names | upper}}", "STEADY_KEEL"),
        ("{{upper .Names}}", "STEADY_KEEL"),
        ('{{join .Args " "}}', "sh -c"),
        ('{{index .Labels "a"}}', "1"),
        ('{{index .Labels "none"}}', ""),
        ("{{index .Args 1}}", "-c"),
        ("{{len .Args}}", "2"),
        ("{{.Args}} {{.Labels}} {{.Nothing}}", "[sh -c] map[a:1 b:2] <no value>"),
        ("{{.ID | lower | json}}", '"0123456789abcdef"'),
        ("{{truncate .ID 4}}", "0123"),
        ("no action", "no action"),
    ],
)
def test_renders(template: str, text: str) -> None:
    assert Template(template).render(ROW) == text


@pytest.mark.parametrize("template", ["{{.ID", "{{}}", "{{ | upper}}", "{{nofunction .ID}}"])
def test_what_does_not_parse_is_refused(template: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid template"):
        Template(template)


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{.State.Nope}}", "{{.ID.Deeper}}"])
def test_a_missing_field_is_named_with_those_there_are(template: str) -> None:
    with pytest.raises(InvalidArgument, match="there is no field"):
        Template(template).render(ROW)


def test_a_function_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="len fails"):
        Template("{{len .State.Pid}}").render(ROW)


def test_headings_are_the_words_of_the_fields() -> None:
    template = Template("{{.RunningFor}} {{.ID}} {{json .Names}} {{.State.Pid}}")
    assert template.headings == {"RunningFor": "RUNNING FOR", "ID": "ID", "Names": "NAMES", "State": "STATE"}
