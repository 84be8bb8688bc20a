"""Who keeps what, and what would go and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from moorage_api.garbage import Doomed, Garbage, Holding, Keeper
from moorage_api.leases import Resource
from moorage_api.sandboxes import Sandbox
from mooraged.gc.report import Reporter
from mooraged.metadata import View
from mooraged.metadata.content import SharingPolicy
from support.storage import Storage, container, image, layer, put

REF = "containerd.io/gc.ref"
EXPIRE = "containerd.io/gc.expire"
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
BLOCK = 4096


@pytest.fixture
def reporter(storage: Storage) -> Reporter:
    made = Reporter(storage.metadata, storage.collector.collect)
    assert isinstance(made, Garbage)
    return made


def keepers(found: list[Holding]) -> dict[str, list[str]]:
    return {one.name: [f"{keeper.kind} {keeper.name}" for keeper in one.keepers] for one in found}


def reasons(found: list[Doomed]) -> dict[str, str]:
    return {one.name: one.why for one in found}


def test_everything_on_disk_has_its_keepers(view: View, storage: Storage, reporter: Reporter) -> None:
    blob = put(view, b"layer" * 2000).digest
    manifest = put(view, b"manifest", {f"{REF}.content.l.0": blob, f"{REF}.snapshot.native": "base"}).digest
    layer(view, "base")
    view.snapshotter().prepare("rootfs", "base")
    view.images.create(image("img", manifest))
    view.images.create(image("same", manifest))
    view.containers.create(container("c", snapshotter="native", snapshot_key="rootfs"))
    view.sandboxes.create(Sandbox("pod", container("c").runtime, labels={f"{REF}.content": blob}))
    view.leases.create("l")
    view.leases.add_resource("l", Resource("base", "snapshots/native"))
    labelled = put(view, b"labelled", {"containerd.io/gc.root": "yes"}).digest
    view.content.writer("unfinished").close()
    found = reporter.holdings()
    assert keepers(found) == {
        blob: ["image img", "image same", "sandbox pod"],
        manifest: ["image img", "image same"],
        "base": ["container c", "image img", "image same", "lease l"],
        "rootfs": ["container c"],
        labelled: [f"content {labelled}"],
        "unfinished": ["ingest unfinished"],
    }
    sizes = {one.name: one.size for one in found}
    assert (sizes[blob], sizes[manifest]) == (3 * BLOCK, BLOCK)
    assert {one.store for one in found} == {"", "native"}
    assert [one.size for one in found] == sorted(sizes.values(), reverse=True)


def test_a_namespace_is_told_of_its_own_alone(view: View, other: View, storage: Storage, reporter: Reporter) -> None:
    shared = put(view, b"both").digest
    put(other, b"both")
    alone = put(other, b"other's").digest
    view.images.create(image("one", shared))
    other.images.create(image("two", shared))
    assert keepers(reporter.holdings("one")) == {shared: ["image one"]}
    assert {one.name for one in reporter.holdings()} == {shared, alone}
    (found,) = (one for one in reporter.holdings() if one.name == shared)
    assert found.keepers == (Keeper("image", "one", "one"), Keeper("image", "two", "two"))


def test_a_plan_says_why_and_is_what_happens(view: View, storage: Storage, reporter: Reporter) -> None:
    blob = put(view, b"layer" * 2000).digest
    manifest = put(view, b"manifest", {f"{REF}.content.l.0": blob}).digest
    layer(view, "base")
    layer(view, "top", "base")
    view.leases.create("over", {EXPIRE: PAST})
    kept = put(view, b"kept", {"containerd.io/gc.root": "yes"}).digest
    plan = reporter.plan()
    assert reasons(plan) == {
        manifest: "no image, container or lease leads to it",
        blob: f"only the content {manifest} leads to it, which goes too",
        "top": "no image, container or lease leads to it",
        "base": "only the snapshot top leads to it, which goes too",
        "over": "its time is over (containerd.io/gc.expire)",
    }
    assert {one.name: one.size for one in plan}[blob] == 3 * BLOCK
    before = reporter.holdings()
    done = reporter.collect()
    assert (done.blobs, done.snapshots, dict(done.records)) == (2, 2, {"content": 2, "snapshot": 2, "lease": 1})
    assert reporter.plan() == []
    assert [one.name for one in reporter.holdings()] == [kept]
    assert sum(one.size for one in plan) == sum(one.size for one in before if one.name != kept)


def test_bytes_that_another_namespace_keeps_do_not_go(
    view: View, other: View, storage: Storage, reporter: Reporter
) -> None:
    digest = put(view, b"both").digest
    put(other, b"both")
    other.images.create(image("two", digest))
    assert [(one.namespace, one.size) for one in reporter.plan()] == [("one", 0)]
    other.images.delete("two")
    assert [(one.namespace, one.size) for one in reporter.plan()] == [("one", BLOCK), ("two", 0)]


def test_what_a_crash_has_left(storage: Storage, reporter: Reporter) -> None:
    with storage.content.writer("blob") as writer:
        writer.write(b"orphan")
        digest = writer.commit().digest
    storage.native.prepare("one/1/active")
    with storage.metadata.shared.gate.using("one/2/new"):
        storage.native.prepare("one/2/new")
        assert set(reasons(reporter.plan())) == {digest, "one/1/active"}, "what is being made is left out"
    found = reporter.plan()
    assert {one.namespace for one in found} == {""}
    assert "no namespace has a record of it" in found[0].why
    assert {one.name for one in reporter.holdings() if not one.keepers} == {one.name for one in found}
    assert reporter.holdings("one") == []


def test_sharing_counts_once(storage: Storage) -> None:
    storage.close()
    storage.policy = SharingPolicy.SHARED
    storage.open()
    reporter = Reporter(storage.metadata, storage.collector.collect)
    digest = put(storage.bind("one"), b"both").digest
    with storage.bind("two").content.writer("again", expected=digest) as writer:
        status = writer.status()
        assert [one.name for one in reporter.holdings()] == [digest], status
