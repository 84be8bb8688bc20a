"""The conformance suite of content stores. An author's test file:

    from moorage_api.testing.content import ContentStoreSuite

    class TestMine(ContentStoreSuite):
        def open_store(self, folder):
            return MyStore(folder)

Each test states one rule of `moorage_api.content`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from moorage_api.content import ContentStore, Info
from moorage_api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    OutOfRange,
    Unavailable,
    Unimplemented,
)
from moorage_api.types import Labels

MALFORMED = ("", "sha256", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def put(store: ContentStore, data: bytes, ref: str = "", labels: Labels | None = None) -> Info:
    """Write and commit a blob under an ingest of its own, from where the store says that it begins."""
    with store.writer(ref or f"put-{digest_of(data)}", len(data), digest_of(data)) as writer:
        writer.write(data[writer.status().offset :])
        return writer.commit(len(data), digest_of(data), labels)


def read(store: ContentStore, digest: str) -> bytes:
    """All bytes of a blob."""
    with store.open(digest) as reader:
        return reader.pread(reader.size + 1, 0)


class ContentStoreSuite:
    """Derive a class whose name begins with `Test`, and say how to open the store."""

    keeps_labels: ClassVar[bool] = True
    """False for a backend that leaves labels to the metadata layer: its `update` raises `Unimplemented`."""

    outlives_deletion: ClassVar[bool] = True
    """False where each read is a call to another process, so that an open blob goes when it is deleted."""
    cuts_anywhere: ClassVar[bool] = True
    """False where an ingest can be cut to nothing only, as over gRPC."""

    def open_store(self, folder: Path) -> ContentStore:
        """Open the store in `folder`, new or again; called again after the process would have died."""
        raise NotImplementedError

    def close_store(self, store: ContentStore) -> None:
        """Release what `open_store` took. Nothing by default."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def reopen(self, folder: Path) -> Iterator[Callable[[], ContentStore]]:
        """Close the store and open it again."""
        opened: list[ContentStore] = []

        def close() -> None:
            while opened:
                self.close_store(opened.pop())

        def again() -> ContentStore:
            close()
            opened.append(self.open_store(folder))
            return opened[-1]

        yield again
        close()

    @pytest.fixture
    def store(self, reopen: Callable[[], ContentStore]) -> ContentStore:
        return reopen()

    # Blobs

    def test_is_a_content_store(self, store: ContentStore) -> None:
        assert isinstance(store, ContentStore)

    @pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 1])
    def test_what_is_committed_can_be_read(self, store: ContentStore, size: int) -> None:
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        info = put(store, data)
        assert (info.digest, info.size) == (digest_of(data), size)
        assert read(store, info.digest) == data
        assert store.info(info.digest).size == size

    def test_survives_a_restart(self, store: ContentStore, reopen: Callable[[], ContentStore]) -> None:
        digest = put(store, b"kept").digest
        store = reopen()
        assert read(store, digest) == b"kept"
        assert [info.digest for info in store.walk()] == [digest]

    @pytest.mark.parametrize("digest", MALFORMED)
    def test_malformed_digests_are_refused(self, store: ContentStore, digest: str) -> None:
        for call in (store.info, store.open, store.delete):
            with pytest.raises(InvalidArgument):
                call(digest)
        with pytest.raises(InvalidArgument):
            store.update(Info(digest, 0))

    def test_unknown_digests_are_not_found(self, store: ContentStore) -> None:
        digest = digest_of(b"nobody wrote this")
        for call in (store.info, store.open, store.delete):
            with pytest.raises(NotFound, match=digest):
                call(digest)
        with pytest.raises(NotFound, match=digest):
            store.update(Info(digest, 0))

    @pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
    def test_other_algorithms(self, store: ContentStore, algorithm: str) -> None:
        digest = digest_of(b"data", algorithm)
        with store.writer("ref", 0, digest) as writer:
            writer.write(b"data")
            assert writer.commit(4, digest).digest == digest
        with store.writer("late") as writer:
            writer.write(b"more")
            assert writer.commit(4, digest_of(b"more", algorithm)).digest == digest_of(b"more", algorithm)
        assert read(store, digest) == b"data"

    def test_walk_is_sorted_and_filtered(self, store: ContentStore) -> None:
        digests = sorted(put(store, b"%d" % number).digest for number in range(5))
        assert [info.digest for info in store.walk()] == digests
        assert [info.digest for info in store.walk([f"digest=={digests[2]}"])] == [digests[2]]
        assert [info.digest for info in store.walk([f"digest!={digests[2]}"])] == digests[:2] + digests[3:]
        with pytest.raises(InvalidArgument):
            list(store.walk(["digest=="]))

    def test_deleted_blobs_are_gone(self, store: ContentStore) -> None:
        digest = put(store, b"gone").digest
        store.delete(digest)
        for call in (store.info, store.open, store.delete):
            with pytest.raises(NotFound):
                call(digest)
        assert list(store.walk()) == []
        assert put(store, b"gone").digest == digest, "a deleted blob can be written again"

    # Readers

    def test_reading_in_parts(self, store: ContentStore) -> None:
        digest = put(store, b"0123456789").digest
        with store.open(digest) as reader:
            assert reader.size == 10
            assert reader.pread(4, 0) == b"0123"
            assert reader.pread(100, 8) == b"89"
            assert reader.pread(4, 10) == b""
            with pytest.raises(OutOfRange):
                reader.pread(1, 11)

    def test_the_path_holds_the_bytes(self, store: ContentStore) -> None:
        digest = put(store, b"on this machine").digest
        with store.open(digest) as reader:
            if reader.path is not None:
                assert reader.path.read_bytes() == b"on this machine"

    def test_a_reader_may_be_closed_twice_but_not_read_after(self, store: ContentStore) -> None:
        reader = store.open(put(store, b"x").digest)
        reader.close()
        reader.close()
        with pytest.raises(MoorageError):
            reader.pread(1, 0)

    def test_an_open_blob_outlives_its_deletion(self, store: ContentStore) -> None:
        if not self.outlives_deletion:
            pytest.skip("the store does not promise it")
        digest = put(store, b"still here").digest
        with store.open(digest) as reader:
            store.delete(digest)
            assert reader.pread(10, 0) == b"still here"

    # Writers

    def test_status_follows_the_writer(self, store: ContentStore) -> None:
        with store.writer("ref", total=6, expected=digest_of(b"abcdef")) as writer:
            assert writer.status().offset == 0
            assert writer.write(b"abc") == 3
            assert writer.write(memoryview(b"_def_")[1:4]) == 3
            status = writer.status()
            assert (status.ref, status.offset, status.total) == ("ref", 6, 6)
            assert status.expected == digest_of(b"abcdef")
            assert writer.digest() == digest_of(b"abcdef")
            assert store.status("ref").offset == 6
            assert [found.ref for found in store.statuses()] == ["ref"]
            writer.commit()
        assert store.statuses() == []
        with pytest.raises(NotFound):
            store.status("ref")

    def test_status_has_times(self, store: ContentStore) -> None:
        with store.writer("ref") as writer:
            writer.write(b"x")
            status = store.status("ref")
            assert 0 < status.started_at <= status.updated_at

    def test_statuses_are_sorted_and_filtered(self, store: ContentStore) -> None:
        for ref in ("b", "a/x y", "c"):
            store.writer(ref).close()
        assert [status.ref for status in store.statuses()] == ["a/x y", "b", "c"]
        assert [status.ref for status in store.statuses(["ref==b", 'ref~="^a"'])] == ["a/x y", "b"]
        with pytest.raises(InvalidArgument):
            store.statuses(["ref=="])

    def test_an_ingest_is_resumed_where_it_was_left(
        self, store: ContentStore, reopen: Callable[[], ContentStore]
    ) -> None:
        with store.writer("ref", total=6) as writer:
            writer.write(b"abc")
        store = reopen()
        with store.writer("ref", total=6) as writer:
            assert writer.status().offset == 3
            assert writer.status().total == 6
            assert writer.digest() == digest_of(b"abc")
            writer.write(b"def")
            assert writer.commit(6, digest_of(b"abcdef")).size == 6
        assert read(store, digest_of(b"abcdef")) == b"abcdef"

    def test_an_ingest_has_one_writer(self, store: ContentStore) -> None:
        with store.writer("ref"):
            with pytest.raises(Unavailable, match="ref"):
                store.writer("ref")
            with pytest.raises(Unavailable, match="ref"):
                store.abort("ref")
            store.writer("other").close()
        store.writer("ref").close()

    def test_truncate(self, store: ContentStore) -> None:
        with store.writer("ref") as writer:
            writer.write(b"abcdef")
            with pytest.raises(OutOfRange):
                writer.truncate(7)
            if self.cuts_anywhere:
                writer.truncate(3)
                assert writer.status().offset == 3
                assert writer.digest() == digest_of(b"abc")
                writer.write(b"X")
                assert writer.digest() == digest_of(b"abcX")
            writer.truncate(0)
            writer.write(b"again")
            assert writer.commit(5).digest == digest_of(b"again")
        assert read(store, digest_of(b"again")) == b"again"

    @pytest.mark.parametrize(("size", "expected"), [(4, ""), (0, digest_of(b"other")), (5, digest_of(b"other"))])
    def test_what_is_announced_must_be_met(self, store: ContentStore, size: int, expected: str) -> None:
        with store.writer("ref") as writer:
            writer.write(b"bytes")
            with pytest.raises(FailedPrecondition, match="ref"):
                writer.commit(size, expected)
            with pytest.raises(FailedPrecondition):
                writer.write(b"after commit")
        assert list(store.walk()) == []
        assert store.status("ref").offset == 5, "the ingest stays until it is aborted"
        with store.writer("ref") as writer:
            assert writer.commit(5, digest_of(b"bytes")).size == 5

    def test_a_malformed_expected_digest_is_refused(self, store: ContentStore) -> None:
        with pytest.raises(InvalidArgument):
            store.writer("ref", expected="sha256:short")
        with pytest.raises(InvalidArgument):
            store.writer("ref").commit(0, "sha256:short")
        store.writer("ref").close()

    def test_a_writer_needs_a_ref_and_a_sane_total(self, store: ContentStore) -> None:
        with pytest.raises(InvalidArgument):
            store.writer("")
        with pytest.raises(InvalidArgument):
            store.writer("ref", total=-1)

    def test_a_blob_that_is_there_is_not_written_again(self, store: ContentStore) -> None:
        digest = put(store, b"once").digest
        with pytest.raises(AlreadyExists, match=digest):
            store.writer("ref", 4, digest)
        with store.writer("unannounced") as writer:
            writer.write(b"once")
            with pytest.raises(AlreadyExists, match=digest):
                writer.commit()
        assert store.statuses() == [], "the ingest of a blob that exists is removed"
        assert read(store, digest) == b"once"

    def test_commit_and_close_may_follow_each_other(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.write(b"x")
        writer.commit()
        writer.close()
        writer.close()
        with pytest.raises(FailedPrecondition):
            writer.commit()

    def test_abort(self, store: ContentStore) -> None:
        with pytest.raises(NotFound, match="ref"):
            store.abort("ref")
        with store.writer("ref") as writer:
            writer.write(b"abc")
        store.abort("ref")
        assert store.statuses() == []
        with store.writer("ref") as writer:
            assert writer.status().offset == 0

    # Labels

    def test_labels(self, store: ContentStore) -> None:
        info = put(store, b"labelled", labels={"a": "1", "b.c/d": "2"} if self.keeps_labels else None)
        if not self.keeps_labels:
            with pytest.raises(Unimplemented):
                store.update(info)
            return
        assert dict(store.info(info.digest).labels) == {"a": "1", "b.c/d": "2"}
        store.update(Info(info.digest, 0, labels={"b.c/d": "3", "a": "ignored"}), ["labels.b.c/d"])
        assert dict(store.info(info.digest).labels) == {"a": "1", "b.c/d": "3"}
        store.update(Info(info.digest, 0, labels={"a": ""}), ["labels.a"])
        assert dict(store.info(info.digest).labels) == {"b.c/d": "3"}
        updated = store.update(Info(info.digest, 0, labels={"new": "x"}))
        assert dict(updated.labels) == {"new": "x"}
        assert updated.size == 8
        assert [found.digest for found in store.walk(["labels.new==x"])] == [info.digest]
        with pytest.raises(InvalidArgument, match="size"):
            store.update(Info(info.digest, 0), ["size"])
        with pytest.raises(InvalidArgument):
            store.update(Info(info.digest, 0, labels={"k": "v" * 4096}))

    # Concurrency

    def test_many_writers_at_once(self, store: ContentStore) -> None:
        def work(number: int) -> str:
            return put(store, b"%d" % number * 5000, ref=f"ref-{number}").digest

        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(work, range(40)))
        assert [info.digest for info in store.walk()] == sorted(digests)

    def test_many_commits_of_one_blob_make_one_blob(self, store: ContentStore) -> None:
        barrier = threading.Barrier(8)

        def work(number: int) -> bool:
            with store.writer(f"ref-{number}") as writer:
                writer.write(b"the same")
                barrier.wait(timeout=20)
                try:
                    writer.commit(8, digest_of(b"the same"))
                except AlreadyExists:
                    return False
                return True

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
        assert results.count(True) == 1, "one commit makes the blob, the others find it there"
        assert store.statuses() == []
        assert read(store, digest_of(b"the same")) == b"the same"

    def test_one_writer_wins_a_race_for_a_ref(self, store: ContentStore) -> None:
        barrier = threading.Barrier(8)

        def work(_number: int) -> bool:
            barrier.wait(timeout=20)
            try:
                writer = store.writer("contended")
            except Unavailable:
                barrier.wait(timeout=20)
                return False
            barrier.wait(timeout=20)
            writer.close()
            return True

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))).count(True) == 1
