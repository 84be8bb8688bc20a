"""Field masks: which parts of a record an update changes (`google.protobuf.FieldMask`, as containerd reads it).

A path is a field (`labels`) or one key of a field that is a map (`labels.KEY`; KEY may contain dots).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from moorage_api.errors import InvalidArgument
from moorage_api.types import Labels, check_labels

V = TypeVar("V")


def split(path: str) -> tuple[str, str]:
    """`labels.a.b` as (`labels`, `a.b`); a path without a key has an empty one."""
    field, _, key = path.partition(".")
    return field, key


def merge(current: Mapping[str, V], given: Mapping[str, V], key: str) -> dict[str, V]:
    """A map field after an update: `given` as a whole where `key` is empty, else `current` with that one key taken from
    `given`, or without it where `given` lacks it."""
    if not key:
        return dict(given)
    merged = {name: value for name, value in current.items() if name != key}
    if key in given:
        merged[key] = given[key]
    return merged


def without_empty(labels: Labels) -> dict[str, str]:
    """Labels as they are stored: one given empty is one removed. `InvalidArgument` where the label rules forbid one."""
    return {key: value for key, value in check_labels(labels).items() if value}


def update_labels(current: Labels, given: Labels, fieldpaths: Sequence[str], what: str) -> dict[str, str]:
    """The labels of a record whose only mutable field they are, after an update.

    No paths mean all labels. `InvalidArgument` for a path that is not `labels` or `labels.KEY` (`what` names the
    record in the message) and for labels that the rules forbid.
    """
    result = dict(current)
    for path in fieldpaths or ("labels",):
        field, key = split(path)
        if field != "labels" or path.endswith("."):
            raise immutable(path, what)
        result = merge(result, given, key)
    return without_empty(result)


def immutable(path: str, what: str) -> InvalidArgument:
    """The error for a path that names no mutable field of the record."""
    return InvalidArgument(f"cannot update field {path!r} of {what}: it is not mutable or does not exist")
