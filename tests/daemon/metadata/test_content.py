"""Content between namespaces: what is shared on disk, and what a namespace must bring itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, FailedPrecondition, NotFound
from mooraged.metadata import SharingPolicy, View
from support.storage import Storage, digest_of, put

DATA = b"some bytes"
DIGEST = digest_of(DATA)


@pytest.fixture
def sharing(tmp_path: Path):
    opened = Storage(tmp_path / "sharing", SharingPolicy.SHARED)
    yield opened
    opened.close()


def test_a_blob_is_on_disk_once(storage: Storage, view: View, other: View) -> None:
    put(view, DATA, {"of": "one"})
    with pytest.raises(NotFound, match="'two'"):
        other.content.info(DIGEST)
    put(other, DATA, {"of": "two", "containerd.io/gc.root": "now"})
    assert [info.digest for info in storage.content.walk()] == [DIGEST]
    assert dict(view.content.info(DIGEST).labels) == {"of": "one"}
    assert other.content.info(DIGEST).labels["of"] == "two"
    view.content.delete(DIGEST)
    storage.collector.collect()
    with other.content.open(DIGEST) as reader:
        assert reader.pread(100, 0) == DATA


def test_isolated_wants_every_byte(view: View, other: View) -> None:
    put(view, DATA)
    with other.content.writer("ref", len(DATA), DIGEST) as writer:
        assert writer.status().offset == 0
        with pytest.raises(FailedPrecondition):
            writer.commit(len(DATA), DIGEST)
    with pytest.raises(NotFound):
        other.content.info(DIGEST)


def test_shared_takes_the_digest_for_the_bytes(sharing: Storage) -> None:
    one, two = sharing.bind("one"), sharing.bind("two")
    put(one, DATA)
    with two.content.writer("ref", 0, DIGEST) as writer:
        assert (writer.status().offset, writer.status().total, writer.digest()) == (len(DATA), len(DATA), DIGEST)
        assert two.content.status("ref").offset == len(DATA)
        with pytest.raises(NotFound):
            two.content.info(DIGEST)
        one.content.delete(DIGEST)
        sharing.collector.collect()
        assert writer.commit(len(DATA), DIGEST, {"a": "1"}).size == len(DATA)
    assert dict(two.content.info(DIGEST).labels) == {"a": "1"}
    with two.content.open(DIGEST) as reader:
        assert reader.pread(100, 0) == DATA
    assert two.content.statuses() == []


@pytest.mark.parametrize(("size", "expected"), [(3, ""), (0, digest_of(b"other"))])
def test_shared_still_wants_what_was_announced(sharing: Storage, size: int, expected: str) -> None:
    put(sharing.bind("one"), DATA)
    with sharing.bind("two").content.writer("ref", 0, DIGEST) as writer, pytest.raises(FailedPrecondition):
        writer.commit(size, expected)
    with pytest.raises(NotFound):
        sharing.bind("two").content.info(DIGEST)


def test_shared_may_be_written_on(sharing: Storage) -> None:
    put(sharing.bind("one"), DATA)
    two = sharing.bind("two").content
    with two.writer("longer", 0, DIGEST) as writer:
        writer.write(b" and more")
        assert writer.commit().digest == digest_of(DATA + b" and more")
    with two.writer("shorter", 0, DIGEST) as writer:
        writer.truncate(4)
        writer.write(b"!")
        assert writer.digest() == digest_of(DATA[:4] + b"!")
    assert two.status("shorter").offset == 5
    two.abort("shorter")
    with two.writer("of another size", 3, DIGEST) as writer:
        assert writer.status().offset == 0


def test_a_namespace_may_share_what_it_has(storage: Storage, view: View, other: View) -> None:
    put(view, DATA)
    storage.metadata.namespaces.set_labels("one", {"containerd.io/namespace.shareable": "true"})
    with other.content.writer("ref", len(DATA), DIGEST) as writer:
        assert writer.commit(len(DATA), DIGEST).digest == DIGEST
    storage.metadata.namespaces.set_labels("one", {"containerd.io/namespace.shareable": "false"})
    with storage.bind("three").content.writer("ref", len(DATA), DIGEST) as writer:
        assert writer.status().offset == 0


def test_an_ingest_belongs_to_its_namespace(view: View, other: View) -> None:
    with view.content.writer("ref") as writer, other.content.writer("ref") as theirs:
        writer.write(b"mine")
        theirs.write(b"other")
        assert (view.content.status("ref").offset, other.content.status("ref").offset) == (4, 5)
    other.content.abort("ref")
    assert view.content.status("ref").offset == 4


def test_backend_keys_stay_inside(view: View) -> None:
    with view.content.writer("the ref"):
        with pytest.raises(Exception, match=r"^ingest 'the ref' is open"):
            view.content.writer("the ref")
        with pytest.raises(Exception, match=r"^ingest 'the ref' is open"):
            view.content.abort("the ref")
    with view.content.writer("the ref") as writer, pytest.raises(FailedPrecondition, match=r"^ingest 'the ref' has"):
        writer.commit(5)


def test_an_orphan_in_the_backend_is_as_good_as_written(storage: Storage, view: View) -> None:
    """A crash between the backend's commit and the database's leaves such a blob."""
    with storage.content.writer("by itself") as writer:
        writer.write(DATA)
        writer.commit()
    assert list(view.content.walk()) == []
    put(view, DATA)
    assert view.content.info(DIGEST).size == len(DATA)


def test_events(storage: Storage, view: View) -> None:
    put(view, DATA)
    view.content.delete(DIGEST)
    with pytest.raises(NotFound):
        view.content.delete(DIGEST)
    assert storage.bus.take() == [("one", "/content/create"), ("one", "/content/delete")]


def test_a_commit_without_its_lease_is_undone(storage: Storage, view: View) -> None:
    view.leases.create("l")
    writer = storage.bind("one", "l").content.writer("ref")
    writer.write(DATA)
    view.leases.delete("l")
    with pytest.raises(NotFound, match="lease"):
        writer.commit()
    with pytest.raises(NotFound):
        view.content.info(DIGEST)
    put(view, DATA)
    with pytest.raises(AlreadyExists):
        put(view, DATA)
