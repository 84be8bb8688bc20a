"""Marking, and the labels that say who keeps whom."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mooraged.gc import labels
from mooraged.gc.graph import Graph, Kind, Node


def content(key: str, namespace: str = "ns") -> Node:
    return Node(Kind.CONTENT, namespace, key)


def snapshot(key: str) -> Node:
    return Node(Kind.SNAPSHOT, "ns", key)


def test_marking_follows_references_and_structure() -> None:
    graph = Graph()
    graph.objects = {content(key) for key in "abcd"} | {snapshot("s/1"), snapshot("s/2"), content("a", "other")}
    graph.roots = [content("a"), content("does not exist")]
    graph.refer(content("a"), content("b"))
    graph.refer(content("b"), content("a"))
    graph.refer(content("b"), snapshot("s/2"))
    graph.refer(content("c"), content("d"))
    graph.structure[snapshot("s/2")] = [snapshot("s/1")]
    assert graph.garbage() == {content("c"), content("d"), content("a", "other")}


def test_flat_marking_follows_structure_only() -> None:
    graph = Graph()
    graph.objects = {content("a"), content("b"), snapshot("s/1"), snapshot("s/2"), content("c")}
    graph.roots = [content("a").flattened(True), snapshot("s/2").flattened(True)]
    graph.refer(content("a"), content("b"))
    graph.refer(snapshot("s/1"), content("c"))
    graph.structure[snapshot("s/2")] = [snapshot("s/1")]
    assert graph.garbage() == {content("b"), content("c")}
    graph.roots.append(content("a"))
    assert graph.garbage() == {content("c")}, "what is reached both ways is kept both ways"


@pytest.mark.parametrize(
    ("label", "kind", "key"),
    [
        ("containerd.io/gc.ref.content", Kind.CONTENT, "v"),
        ("containerd.io/gc.ref.content.0", Kind.CONTENT, "v"),
        ("containerd.io/gc.ref.content.m.1", Kind.CONTENT, "v"),
        ("containerd.io/gc.ref.content/config", Kind.CONTENT, "v"),
        ("containerd.io/gc.ref.image", Kind.IMAGE, "v"),
        ("containerd.io/gc.ref.image/x", Kind.IMAGE, "v"),
        ("containerd.io/gc.ref.snapshot.overlayfs", Kind.SNAPSHOT, "overlayfs/v"),
        ("containerd.io/gc.ref.snapshot.overlayfs/x.y", Kind.SNAPSHOT, "overlayfs/v"),
        ("containerd.io/gc.ref.contents", None, ""),
        ("containerd.io/gc.ref.container", None, ""),
        ("containerd.io/gc.bref.content", None, ""),
        ("containerd.io/gc.root", None, ""),
    ],
)
def test_references(label: str, kind: Kind | None, key: str) -> None:
    expected = [Node(kind, "ns", key)] if kind else []
    assert list(labels.references("ns", {label: "v", "unrelated": "x"})) == expected
    back = label.replace(".ref.", ".bref.") if ".ref." in label else label.replace(".bref.", ".ref.")
    if label != "containerd.io/gc.ref.container":
        assert list(labels.back_references("ns", {back: "v"})) == expected


def test_containers_are_referred_to_backwards_only() -> None:
    assert list(labels.back_references("ns", {"containerd.io/gc.bref.container/x": "c1"})) == [
        Node(Kind.CONTAINER, "ns", "c1")
    ]


@pytest.mark.parametrize(
    ("value", "expired"),
    [
        ("2020-01-01T00:00:00Z", True),
        ("2020-01-01T00:00:00.123456789Z", True),
        ("2030-01-01T00:00:00+02:00", False),
        ("2025-06-01T12:00:00Z", False),
        ("2025-06-01T11:59:59Z", True),
        ("2025-06-01T13:59:59+02:00", True),
        ("tomorrow", False),
        ("", False),
    ],
)
def test_expiry(value: str, expired: bool) -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    assert labels.is_expired({"containerd.io/gc.expire": value}, now, "lease 'x'") is expired
    assert not labels.is_expired({}, now, "lease 'x'")
