"""The labels that garbage collection reads (containerd's documentation, "Garbage Collection").

| label | on | meaning |
|---|---|---|
| `containerd.io/gc.root` | content, snapshots | is a root |
| `containerd.io/gc.ref.content[.x\\|/x]` | all | keeps the content whose digest is the value |
| `containerd.io/gc.ref.image[.x\\|/x]` | all | keeps the image whose name is the value |
| `containerd.io/gc.ref.snapshot.SNAPSHOTTER[/x]` | all | keeps the snapshot whose key is the value |
| `containerd.io/gc.bref.{content,image,container}[.x\\|/x]`, `…gc.bref.snapshot.SNAPSHOTTER[/x]` | all | is kept by it |
| `containerd.io/gc.expire` | leases, images | RFC 3339: until then a root, after it not |
| `containerd.io/gc.flat` | leases | keeps its resources, not what their labels refer to |
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from moorage_api.types import Labels
from mooraged.gc.graph import Kind, Node

_log = logging.getLogger(__name__)

PREFIX = "containerd.io/gc."
ROOT = "containerd.io/gc.root"
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"

_REFERENCE = "containerd.io/gc.ref."
_BACK_REFERENCE = "containerd.io/gc.bref."
_REFERENCE_KINDS = {"content": Kind.CONTENT, "image": Kind.IMAGE}
_BACK_REFERENCE_KINDS = {**_REFERENCE_KINDS, "container": Kind.CONTAINER}
_SNAPSHOT = "snapshot."


def references(namespace: str, labels: Labels) -> Iterator[Node]:
    """What the object with these labels keeps."""
    for key, value in labels.items():
        if key.startswith(_REFERENCE):
            yield from _target(namespace, key[len(_REFERENCE) :], value, _REFERENCE_KINDS)


def back_references(namespace: str, labels: Labels) -> Iterator[Node]:
    """What keeps the object with these labels."""
    for key, value in labels.items():
        if key.startswith(_BACK_REFERENCE):
            yield from _target(namespace, key[len(_BACK_REFERENCE) :], value, _BACK_REFERENCE_KINDS)


def _target(namespace: str, what: str, value: str, kinds: dict[str, Kind]) -> Iterator[Node]:
    if what.startswith(_SNAPSHOT):
        snapshotter = what[len(_SNAPSHOT) :].partition("/")[0]
        yield Node(Kind.SNAPSHOT, namespace, f"{snapshotter}/{value}")
        return
    for name, kind in kinds.items():
        # A suffix after a dot or a slash tells references of one kind apart; anything else is another label.
        if what == name or (what.startswith(name) and what[len(name)] in "./"):
            yield Node(kind, namespace, value)


def is_root(labels: Labels) -> bool:
    """True for an object that says so itself."""
    return any(key.startswith(ROOT) for key in labels)


def is_expired(labels: Labels, now: datetime, what: str) -> bool:
    """True when the time of `gc.expire` is past. A time that cannot be read does not expire; `what` names the object."""
    text = labels.get(EXPIRE)
    if text is None:
        return False
    try:
        expires = datetime.fromisoformat(text)
    except ValueError:
        _log.info("%s: ignoring the invalid expiry %r", what, text)
        return False
    return now > (expires if expires.tzinfo is not None else expires.replace(tzinfo=UTC))
