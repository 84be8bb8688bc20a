"""Turn tables of a TOML document into Structs; every error is collected, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from mooraged.config.problems import KeyPath, nearest

S = TypeVar("S", bound=msgspec.Struct)

Report = Callable[[KeyPath, str], None]


def decode(struct: type[S], table: Mapping[str, Any], path: KeyPath, report: Report) -> S | None:
    """An instance of `struct` from `table`, or None after at least one call of `report`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    values: dict[str, Any] = {}
    good = True
    for key, value in table.items():
        field = fields.get(key)
        if field is None:
            report((*path, key), f"unknown key{nearest(key, fields)}")
            good = False
            continue
        converted = _convert(field.type, value, (*path, key), report)
        good = good and converted is not _BAD
        values[field.name] = converted
    if not good:
        return None
    try:
        return struct(**values)
    except (TypeError, ValueError) as error:
        report(path, str(error))
        return None


_BAD: Any = object()


def _convert(hint: Any, value: Any, path: KeyPath, report: Report) -> Any:
    plain = _plain(hint)
    if _is_struct(plain) and isinstance(value, dict):
        return _or_bad(decode(plain, value, path, report))
    if get_origin(plain) is dict and isinstance(value, dict) and _is_struct(get_args(plain)[1]):
        members = {key: _convert(get_args(plain)[1], member, (*path, key), report) for key, member in value.items()}
        return _BAD if any(member is _BAD for member in members.values()) else members
    try:
        return msgspec.convert(value, hint, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        report(path, _expectation(plain, value, str(error)))
        return _BAD


def _or_bad(value: Any) -> Any:
    return _BAD if value is None else value


def _plain(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _decode_hook(hint: type, value: Any) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `{getattr(hint, '__name__', hint)}`, got `{type(value).__name__}`")


def _expectation(hint: Any, value: Any, message: str) -> str:
    """msgspec's message in this house's words; choices are listed."""
    if get_origin(hint) is Literal:
        choices = ", ".join(str(choice) for choice in get_args(hint))
        return f"expected {'one of ' if len(get_args(hint)) > 1 else ''}{choices}, got {value!r}"
    return message[:1].lower() + message[1:].replace("`", "")
