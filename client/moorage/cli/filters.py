"""`--filter KEY=VALUE`: what lists are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from moorage.times import parse_moment
from moorage_api.errors import InvalidArgument

_PRUNING = ("until", "label", "label!")

Pruned = Callable[[int, Mapping[str, str]], bool]
"""Whether something that was made at a time (Unix nanoseconds), with labels, is to be removed."""


def filters(texts: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """`KEY=VALUE` as `--filter` takes it, by key. `InvalidArgument` for a key that is not known."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise InvalidArgument(f"invalid filter {text!r}: expected {', '.join(f'{name}=' for name in known)}")
        found.setdefault(key, []).append(value)
    return found


def passes(wanted: Mapping[str, Sequence[str]], fits: Callable[[str, str], bool]) -> bool:
    """Whether something is wanted of which `fits` tells for a key and a value: any value of each key must fit, but each of
    the labels, as docker has it."""
    return all((all if key == "label" else any)(fits(key, value) for value in values) for key, values in wanted.items())


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether there is a label `KEY`, or `KEY=VALUE`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def named_and_labelled(name: str, labels: Mapping[str, str], wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether something passes the filters `name` (a part of it) and `label`."""
    known = {key: wanted[key] for key in ("name", "label") if key in wanted}
    return passes(known, lambda key, value: value in name if key == "name" else has_label(labels, value))


def prune_filter(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that removes what is not used docker's `--filter`; `pruned` reads it."""
    help = "until=TIME or until=24h, label=KEY[=VALUE], label!=KEY[=VALUE]."
    return click.option("--filter", "texts", multiple=True, metavar="KEY=VALUE", help=help)(command)


def pruned(texts: Iterable[str]) -> Pruned:
    """What the filters of `prune_filter` leave to be removed. `InvalidArgument`."""
    wanted = filters(texts, _PRUNING)
    now = time.time_ns()
    until = min((parse_moment(text, now) for text in wanted.get("until", ())), default=None)

    def fits(created: int, labels: Mapping[str, str]) -> bool:
        return (
            (until is None or created < until)
            and all(has_label(labels, tag) for tag in wanted.get("label", ()))
            and not any(has_label(labels, tag) for tag in wanted.get("label!", ()))
        )

    return fits
