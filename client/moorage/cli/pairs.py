"""`KEY=VALUE` words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moorage_api.errors import InvalidArgument


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`; a bare `KEY` has the empty value. `InvalidArgument`."""
    key, _, value = text.partition("=")
    if not key:
        raise InvalidArgument(f"invalid label {text!r}: expected KEY=VALUE")
    return key, value


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Several; of one key the last counts. `InvalidArgument`."""
    return dict(map(pair, texts))


def joined(labels: Mapping[str, str]) -> str:
    """Labels as a list shows them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
