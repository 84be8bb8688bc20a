"""Write a configuration as TOML, each key with its description."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, get_args, get_origin

import msgspec

from moorage_api.plugin import Registration
from mooraged.config.problems import dotted
from mooraged.config.schema import Config

_WIDTH = 100


def render(config: Config, plugins: Mapping[str, Any], registrations: Sequence[Registration]) -> str:
    """The file that says `config` and, by URI, what the plugins are configured with; descriptions as comments."""
    lines = list(_table(config, ()))
    for registration in sorted(registrations, key=lambda r: r.uri):
        if registration.config is None:
            continue
        lines.append("")
        lines.extend(_comment(registration.documentation or registration.config.__doc__))
        lines.extend(_table(plugins[registration.uri], ("plugins", registration.uri), header=True))
    return "\n".join(lines) + "\n"


def _table(struct: msgspec.Struct, path: tuple[str, ...], *, header: bool = False) -> Iterator[str]:
    if header:
        yield f"[{dotted(path)}]"
    tables: list[tuple[tuple[str, ...], msgspec.Struct]] = []
    first = True
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        here = (*path, field.encode_name)
        if isinstance(value, msgspec.Struct):
            tables.append((here, value))
            continue
        if here in {("plugins",), ("proxy_plugins",)}:
            tables.extend(((*here, name), member) for name, member in value.items() if here == ("proxy_plugins",))
            continue
        if not first:
            yield ""
        first = False
        yield from _comment(_description(field.type))
        assignment = f"{dotted((field.encode_name,))} ="
        yield f"# {assignment}" if value is None else f"{assignment} {_value(value)}"
    for here, table in tables:
        yield ""
        yield from _comment(type(table).__doc__)
        yield from _table(table, here, header=True)


def _comment(text: str | None) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _description(hint: Any) -> str:
    while get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, msgspec.Meta) and extra.description:
                return extra.description
        hint = get_args(hint)[0]
    return ""


def _value(value: Any) -> str:
    """A value in TOML; Structs and mappings inside it as inline tables, without what is None."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PurePath):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, msgspec.Struct):
        value = {f.encode_name: getattr(value, f.name) for f in msgspec.structs.fields(type(value))}
    if isinstance(value, Mapping):
        members = ", ".join(f"{dotted((str(k),))} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {members} }}" if members else "{}"
    return f"[{', '.join(_value(member) for member in value)}]"
