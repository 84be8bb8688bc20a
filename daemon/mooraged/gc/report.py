"""Answers about garbage and what is none: `moorage_api.garbage.Garbage`, over the collector's own graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from moorage_api.garbage import Collected, Doomed, Holding, Keeper
from mooraged.gc.collector import Stats
from mooraged.gc.graph import Graph, Kind, Node
from mooraged.gc.inventory import Inventory, Key, take
from mooraged.metadata import Metadata

_EXPIRED = "its time is over (containerd.io/gc.expire)"
_WHY = {
    Kind.LEASE: _EXPIRED,
    Kind.IMAGE: _EXPIRED,
    Kind.INGEST: "nobody writes it, no lease holds it, and its day is over",
}
_UNKNOWN = "no namespace has a record of it: it was removed a moment ago, or a crash has left it"
_UNREFERENCED = "no image, container or lease leads to it"


class Reporter:
    """See `moorage_api.garbage.Garbage`."""

    def __init__(self, metadata: Metadata, collect: Callable[[], Stats]) -> None:
        self._metadata = metadata
        self._collect = collect

    def holdings(self, namespace: str = "") -> list[Holding]:
        inventory = take(self._metadata)
        keepers = _keepers(inventory.graph)
        found = []
        for key, size in inventory.sizes.items():
            nodes = [n for n in inventory.records.get(key, ()) if namespace in ("", n.namespace)]
            if nodes or not namespace:
                kept_by = {keeper for node in nodes for keeper in keepers.get(node, ())}
                name = _name(nodes[0]) if nodes else key.name
                found.append(Holding(key.kind.value, key.store, name, size, tuple(sorted(kept_by))))
        return sorted(found, key=lambda holding: (-holding.size, holding.kind, holding.name))

    def plan(self) -> list[Doomed]:
        inventory = take(self._metadata)
        garbage = inventory.graph.garbage()
        why = _Reasons(inventory.graph, garbage)
        freed = _freed(inventory, garbage)
        doomed = [
            Doomed(node.kind.value, node.namespace, _name(node), freed.get(node, 0), why.of(node)) for node in garbage
        ]
        doomed += [Doomed(key.kind.value, "", key.name, inventory.sizes[key], _UNKNOWN) for key in inventory.orphans]
        return sorted(doomed, key=lambda one: (one.namespace, one.kind, -one.size, one.name))

    def collect(self) -> Collected:
        return self._collect()


class _Reasons:
    """Why each of some garbage is garbage."""

    def __init__(self, graph: Graph, garbage: set[Node]) -> None:
        self._referrers: dict[Node, Node] = {}
        for source, targets in (*graph.structure.items(), *graph.references.items()):
            if source in garbage:
                self._referrers.update((target.flattened(False), source) for target in targets)

    def of(self, node: Node) -> str:
        known = _WHY.get(node.kind)
        if known:
            return known
        referrer = self._referrers.get(node)
        if referrer is None:
            return _UNREFERENCED
        return f"only the {referrer.kind.value} {_name(referrer)} leads to it, which goes too"


def _keepers(graph: Graph) -> dict[Node, set[Keeper]]:
    """For each record, for whom it is kept."""
    found: dict[Node, set[Keeper]] = {}
    for root in dict.fromkeys(graph.roots):
        keepers = {Keeper(node.kind.value, node.namespace, _name(node)) for node in graph.keepers[root]}
        for node in graph.reached([root]):
            found.setdefault(node, set()).update(keepers)
    return found


def _freed(inventory: Inventory, garbage: Iterable[Node]) -> dict[Node, int]:
    """The bytes that go with each record: those of an object go with the last record of it."""
    gone, keys = set(garbage), inventory.keys
    freed: dict[Node, int] = {}
    counted: set[Key] = set()
    for node in sorted(gone, key=lambda node: (node.namespace, node.kind.value, node.key)):
        key = keys.get(node)
        if key is not None and key not in counted and gone.issuperset(inventory.records[key]):
            counted.add(key)
            freed[node] = inventory.sizes.get(key, 0)
    return freed


def _name(node: Node) -> str:
    """As clients know it: a snapshot without its snapshotter."""
    return node.key.partition("/")[2] if node.kind is Kind.SNAPSHOT else node.key
