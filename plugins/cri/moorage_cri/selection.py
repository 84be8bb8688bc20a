"""Which objects a list's filter means."""

from __future__ import annotations

from collections.abc import Mapping


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether `labels` has every label of `selector`, with the same value."""
    return all(labels.get(key) == value for key, value in selector.items()) if selector else True
