"""A crash between the commit of a blob in the backend and in the database: the blob is there, and whose it is."""

from __future__ import annotations

import pytest

from moorage_api.errors import NotFound
from mooraged.metadata import View
from support.storage import Storage, digest_of

DATA = b"all of it"
DIGEST = digest_of(DATA)


class Crash(BaseException):
    """The end of the process."""


def commit_until_the_backend(
    view: View, storage: Storage, monkeypatch: pytest.MonkeyPatch, expected: str = DIGEST, data: bytes = DATA
) -> None:
    """As a commit goes until its last step, the write to the database."""

    def ends(*_: object) -> bool:
        raise Crash

    with monkeypatch.context() as dying, view.content.writer("layer", len(data), expected) as writer:
        writer.write(data)
        dying.setattr("mooraged.metadata.content.Content._save_blob", ends)
        with pytest.raises(Crash):
            writer.commit(len(data), expected)


def test_the_blob_is_its_namespaces(view: View, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    view.leases.create("pull")
    commit_until_the_backend(storage.bind("one", "pull"), storage, monkeypatch)
    with pytest.raises(NotFound):
        view.content.info(DIGEST)
    storage.restart()
    view = storage.bind("one")
    storage.collector.collect()
    assert view.content.info(DIGEST).size == len(DATA)
    assert view.content.statuses() == []
    assert [(held.type, held.id) for held in view.leases.resources("pull")] == [("content", DIGEST)]
    view.leases.delete("pull", sync=True)
    assert list(storage.content.walk()) == []


def test_without_a_lease_it_goes(view: View, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_until_the_backend(view, storage, monkeypatch)
    storage.restart()
    storage.collector.collect()
    assert list(storage.content.walk()) == []
    assert storage.bind("one").content.statuses() == []


def test_it_becomes_nobody_elses(view: View, other: View, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two were writing the same, it is not known whose it has become: to give it to the wrong one would show that
    the other has it."""
    for writing in (view, other):
        writing.leases.create("pull")
    begun = storage.bind("two", "pull").content.writer("layer", len(DATA), DIGEST)
    begun.close()
    storage.content.abort(*[status.ref for status in storage.content.statuses()])
    commit_until_the_backend(storage.bind("one", "pull"), storage, monkeypatch)
    storage.restart()
    for name in ("one", "two"):
        with pytest.raises(NotFound):
            storage.bind(name).content.info(DIGEST)


def test_an_ingest_that_is_still_one_stays(view: View, storage: Storage) -> None:
    view.leases.create("pull")
    with storage.bind("one", "pull").content.writer("layer", len(DATA), DIGEST) as writer:
        writer.write(DATA[:3])
    storage.restart()
    (status,) = storage.bind("one").content.statuses()
    assert (status.offset, status.expected) == (3, DIGEST)
