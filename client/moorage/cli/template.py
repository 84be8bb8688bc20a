"""Go templates, as far as docker's users need them: text with `{{.Field}}`, `{{json .Field}}`, `{{.A | upper}}`.

No control structures: rows are one template each. Source of the forms: https://docs.docker.com/engine/cli/formatting/.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from moorage_api.errors import InvalidArgument

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\||[^\s|"]+')
_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\r": "\r", r"\\": "\\"}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "upper": lambda value: _text(value).upper(),
    "lower": lambda value: _text(value).lower(),
    "title": lambda value: _text(value).title(),
    "len": len,
    "println": lambda *values: " ".join(map(_text, values)) + "\n",
    "join": lambda values, separator: separator.join(map(_text, values)),
    "split": lambda value, separator: _text(value).split(separator),
    "index": lambda value, *keys: _index(value, keys),
    "truncate": lambda value, length: _text(value)[: int(length)],
}


class Template:
    """A parsed template. `InvalidArgument` where it does not parse, and where a row lacks a field; a `defaultdict` in it lacks
    none."""

    def __init__(self, source: str) -> None:
        text = re.sub(r"\\[tnr\\]", lambda match: _ESCAPES[match[0]], source)
        self._parts: list[str | list[list[str]]] = []
        end = 0
        for match in _ACTION.finditer(text):
            self._parts += [text[end : match.start()], _pipeline(match[1], source)]
            end = match.end()
        rest = text[end:]
        if "{{" in rest:
            raise InvalidArgument(f"invalid template {source!r}: a {{{{ is not closed")
        self._parts.append(rest)

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row."""
        return "".join(part if isinstance(part, str) else _text(_evaluate(part, row)) for part in self._parts)

    @property
    def headings(self) -> dict[str, str]:
        """What a row of headings has in place of each field: `RunningFor` is `RUNNING FOR`."""
        words = [word for part in self._parts if not isinstance(part, str) for command in part for word in command]
        fields = [word[1:].partition(".")[0] for word in words if word.startswith(".")]
        return {field: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", field).upper() for field in fields if field}


def _pipeline(action: str, source: str) -> list[list[str]]:
    """`json .A | upper` as `[["json", ".A"], ["upper"]]`."""
    commands: list[list[str]] = [[]]
    for word in _WORD.findall(action):
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    if not all(commands):
        raise InvalidArgument(f"invalid template {source!r}: nothing to show in {{{{{action}}}}}")
    for command in commands:
        head = command[0]
        if head not in _FUNCTIONS and not head.startswith((".", '"')) and not head.isdecimal():
            known = ", ".join(sorted(_FUNCTIONS))
            raise InvalidArgument(f"invalid template {source!r}: unknown function {head!r}; there are {known}")
    return commands


def _evaluate(commands: list[list[str]], row: Mapping[str, Any]) -> Any:
    value: Any = None
    for number, command in enumerate(commands):
        head, *words = command
        if head not in _FUNCTIONS:
            value = _operand(head, row)
            continue
        arguments = [_operand(word, row) for word in words]
        if number:
            # Go puts what is piped last; these functions take the value first.
            arguments = [value, *arguments]
        try:
            value = _FUNCTIONS[head](*arguments)
        except (TypeError, ValueError, LookupError) as error:
            raise InvalidArgument(f"the template's function {head} fails: {error}") from None
    return value


def _operand(word: str, row: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if word.isdecimal():
        return int(word)
    value: Any = row
    for name in word.strip(".").split(".") if word != "." else ():
        if not isinstance(value, Mapping) or (name not in value and not isinstance(value, defaultdict)):
            known = ", ".join(value) if isinstance(value, Mapping) else "none"
            raise InvalidArgument(f"the template asks for {word!r}, but there is no field {name!r}; there are: {known}")
        value = value[name]
    return value


def _index(value: Any, keys: tuple[Any, ...]) -> Any:
    """As Go's `index`: a missing key of a map is empty."""
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[int(key)]
    return value


def _text(value: Any) -> str:
    """A value as Go's templates print it."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None:
            return "<no value>"
        case list() | tuple():
            return f"[{' '.join(map(_text, value))}]"
        case Mapping():
            return f"map[{' '.join(f'{key}:{_text(value[key])}' for key in sorted(value))}]"
        case _:
            return str(value)
