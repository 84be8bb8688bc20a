"""The graph of objects, and marking: what can be reached from the roots stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What can be collected, or keeps others from being collected. Strings: nodes are hashed much, and other members of
    enumerations are hashed in Python."""

    CONTENT = "content"
    SNAPSHOT = "snapshot"
    IMAGE = "image"
    CONTAINER = "container"
    SANDBOX = "sandbox"
    LEASE = "lease"
    INGEST = "ingest"


class Node(NamedTuple):
    """An object. `key` of a snapshot is SNAPSHOTTER/NAME. A flat node stands for the object without what its labels
    refer to."""

    kind: Kind
    namespace: str
    key: str
    flat: bool = False

    def flattened(self, flat: bool) -> Node:
        """The same object, flat or not."""
        return self if self.flat == flat else self._replace(flat=flat)


@dataclass(slots=True)
class Graph:
    """Objects, roots and who refers to whom. Roots and targets may name what does not exist."""

    objects: set[Node] = field(default_factory=set)
    """What is there and may be collected; never flat."""

    roots: list[Node] = field(default_factory=list)
    keepers: dict[Node, list[Node]] = field(default_factory=dict)
    """For whom each root is one: a container for its snapshot, a lease for what it holds; mostly the root itself."""

    references: dict[Node, list[Node]] = field(default_factory=dict)
    """From labels; followed from nodes that are not flat."""

    structure: dict[Node, list[Node]] = field(default_factory=dict)
    """A snapshot's parent, an image's target: followed from flat nodes too, and reached flat from there."""

    def root(self, node: Node, keeper: Node | None = None) -> None:
        """`node` is kept, and all that it reaches."""
        self.roots.append(node)
        self.keepers.setdefault(node, []).append(keeper or node)

    def refer(self, source: Node, target: Node) -> None:
        """`source` keeps `target` from being collected."""
        self.references.setdefault(source, []).append(target)

    def garbage(self) -> set[Node]:
        """The objects that no root reaches."""
        return self.objects - self.reached(self.roots)

    def reached(self, roots: Iterable[Node]) -> set[Node]:
        """All that can be reached from `roots`, themselves included; none of it flat."""
        seen: set[Node] = set()
        grey = list(roots)
        while grey:
            node = grey.pop()
            if node in seen:
                continue
            seen.add(node)
            grey.extend(self._next(node))
        return {node.flattened(False) for node in seen}

    def _next(self, node: Node) -> Iterable[Node]:
        solid = node.flattened(False)
        for target in self.structure.get(solid, ()):
            yield target.flattened(node.flat)
        if not node.flat:
            yield from self.references.get(node, ())
