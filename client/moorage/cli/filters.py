"""`--filter KEY=VALUE`: what lists are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from moorage_api.errors import InvalidArgument


def filters(texts: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """`KEY=VALUE` as `--filter` takes it, by key: of several values of one key any must fit, of different keys all.
    `InvalidArgument` for a key that is not known."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise InvalidArgument(f"invalid filter {text!r}: expected {', '.join(f'{name}=' for name in known)}")
        found.setdefault(key, []).append(value)
    return found


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether there is a label `KEY`, or `KEY=VALUE`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def named_and_labelled(name: str, labels: Mapping[str, str], wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether something passes the filters `name` (a part of it) and `label`."""
    names, tags = wanted.get("name", ()), wanted.get("label", ())
    return (not names or any(part in name for part in names)) and (
        not tags or any(has_label(labels, tag) for tag in tags)
    )
