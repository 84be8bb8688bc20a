"""Content stores that are broken on purpose, at least one for each rule of the conformance suite.

docs/conformance.md is made from this by `./dev docs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from moorage_api.content import ContentStore, Info, IngestStatus
from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound, Unavailable
from moorage_api.testing.content import ContentStoreSuite
from moorage_api.types import Labels
from moorage_content import LocalContentStore
from support.mutations import mutants_of


class Through:
    """Something that does what it stands for does, but for what a derived class changes."""

    def __init__(self, inner: Any, *rest: Any) -> None:
        self.inner = inner
        self.rest = rest

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sound(LocalContentStore):
    """Nothing: it keeps every rule."""

    breaks: ClassVar[tuple[str, ...]] = ()
    Reader: ClassVar[type[Through]] = Through
    Writing: ClassVar[type[Through]] = Through

    def open(self, digest: str) -> Any:
        return self.Reader(super().open(digest), self)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        return self.Writing(super().writer(ref, total, expected), self)


class Incomplete:
    """It has no way to give up an ingest."""

    breaks = ("is_a_content_store",)

    def __init__(self, folder: Path) -> None:
        store = LocalContentStore(folder)
        for name in ("info", "update", "walk", "delete", "open", "status", "statuses", "writer"):
            setattr(self, name, getattr(store, name))


class ServesOtherBytes(Sound):
    """A blob is read with its first byte changed."""

    breaks = ("what_is_committed_can_be_read",)

    class Reader(Through):
        def pread(self, length: int, offset: int) -> bytes:
            data: bytes = self.inner.pread(length, offset)
            return bytes([data[0] ^ 1]) + data[1:] if data else data


class ForgetsAtItsStart(Sound):
    """Blobs do not survive a restart."""

    breaks = ("survives_a_restart",)

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        super().__init__(folder)


class LooksForAnything(Sound):
    """A malformed digest is one that is not there."""

    breaks = ("malformed_digests_are_refused",)

    def info(self, digest: str) -> Info:
        try:
            return super().info(digest)
        except InvalidArgument as error:
            raise NotFound(str(error)) from error


class InventsBlobs(Sound):
    """Whatever is asked for is there, and empty."""

    breaks = ("unknown_digests_are_not_found",)

    def info(self, digest: str) -> Info:
        try:
            return super().info(digest)
        except NotFound:
            return Info(digest, 0)


class KnowsOneAlgorithm(Sound):
    """Digests are sha256's, or none."""

    breaks = ("other_algorithms",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        if expected and not expected.startswith("sha256:"):
            raise InvalidArgument(f"unknown algorithm in {expected!r}")
        return super().writer(ref, total, expected)


class ListsBackwards(Sound):
    """A list goes from the last digest, or ref, to the first."""

    breaks = ("walk_is_sorted_and_filtered", "statuses_are_sorted_and_filtered")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return reversed(list(super().walk(filters)))

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        return super().statuses(filters)[::-1]


class KeepsDeleted(Sound):
    """A deletion succeeds, and deletes nothing."""

    breaks = ("deleted_blobs_are_gone",)

    def delete(self, digest: str) -> None:
        self.info(digest)


class ReadsFromTheBeginning(Sound):
    """A read begins at the first byte, wherever it is asked for."""

    breaks = ("reading_in_parts",)

    class Reader(Through):
        def pread(self, length: int, offset: int) -> bytes:
            data: bytes = self.inner.pread(length, 0)
            return data


class NamesAnotherFile(Sound):
    """The path of a blob is that of a file with other bytes."""

    breaks = ("the_path_holds_the_bytes",)

    class Reader(Through):
        path = Path("/proc/self/comm")


class ReadsAfterClose(Sound):
    """A closed reader goes on reading."""

    breaks = ("a_reader_may_be_closed_twice_but_not_read_after",)

    class Reader(Through):
        def close(self) -> None:
            return


class ReadsByName(Sound):
    """Each read opens the blob anew."""

    breaks = ("an_open_blob_outlives_its_deletion",)

    class Reader(Through):
        def pread(self, length: int, offset: int) -> bytes:
            with LocalContentStore.open(self.rest[0], self.inner.path.parent.name + ":" + self.inner.path.name) as blob:
                return blob.pread(length, offset)


class CountsNothing(Sound):
    """The offset of an ingest is zero until it is a blob."""

    breaks = ("status_follows_the_writer",)

    class Writing(Through):
        def status(self) -> IngestStatus:
            return replace(self.inner.status(), offset=0)


class HasNoClock(Sound):
    """Ingests have no times."""

    breaks = ("status_has_times",)

    def status(self, ref: str) -> IngestStatus:
        return replace(super().status(ref), started_at=0, updated_at=0)


class StartsOver(Sound):
    """An ingest that was left begins at zero again."""

    breaks = ("an_ingest_is_resumed_where_it_was_left",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        writer = super().writer(ref, total, expected)
        writer.truncate(0)
        return writer


class SharesIngests(Sound):
    """Who comes second to an ingest gets one beside it."""

    breaks = ("an_ingest_has_one_writer", "one_writer_wins_a_race_for_a_ref")

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        while True:
            try:
                return super().writer(ref, total, expected)
            except Unavailable:
                ref += "-beside"


class CutsNothing(Sound):
    """A cut is a success, and the bytes stay."""

    breaks = ("truncate",)

    class Writing(Through):
        def truncate(self, size: int) -> None:
            if size > self.inner.status().offset:
                self.inner.truncate(size)


class BelievesAnnouncements(Sound):
    """Neither size nor digest are compared with what was announced."""

    breaks = ("what_is_announced_must_be_met",)

    class Writing(Through):
        def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Any:
            return self.inner.commit(0, "", labels)


class ExpectsAnything(Sound):
    """A malformed digest that is announced is forgotten."""

    breaks = ("a_malformed_expected_digest_is_refused",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        try:
            return super().writer(ref, total, expected)
        except InvalidArgument:
            return super().writer(ref, total)


class TakesNamelessIngests(Sound):
    """An ingest without a ref gets one."""

    breaks = ("a_writer_needs_a_ref_and_a_sane_total",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        return super().writer(ref or "nameless", max(total, 0), expected)


class WritesAgain(Sound):
    """Nobody is told at the beginning that a blob is there."""

    breaks = ("a_blob_that_is_there_is_not_written_again",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        try:
            return super().writer(ref, total, expected)
        except AlreadyExists:
            return super().writer(ref, total)


class CommitsTwice(Sound):
    """A commit of what is committed is a success."""

    breaks = ("commit_and_close_may_follow_each_other",)

    class Writing(Through):
        done: Any = None

        def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Any:
            self.done = self.done or self.inner.commit(size, expected, labels)
            return self.done


class KeepsWhatIsGivenUp(Sound):
    """An ingest that is given up stays."""

    breaks = ("abort",)

    def abort(self, ref: str) -> None:
        self.status(ref)


class SwallowsLabels(Sound):
    """Labels are taken, and not kept."""

    breaks = ("labels",)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self.info(info.digest)


class WritesOneAtATime(Sound):
    """While somebody writes, nobody else may."""

    breaks = ("many_writers_at_once",)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        writer = super().writer(ref, total, expected)
        if len(self.statuses()) > 1:
            writer.close()
            with suppress(MoorageError):
                self.abort(ref)
            raise Unavailable("somebody writes")
        return writer


class MakesBlobsTwice(Sound):
    """Whoever commits a blob that is there has made it, too."""

    breaks = ("many_commits_of_one_blob_make_one_blob",)

    class Writing(Through):
        def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Any:
            digest = self.inner.digest()
            try:
                return self.inner.commit(size, expected, labels)
            except AlreadyExists:
                return self.rest[0].info(digest)


def broken() -> list[type]:
    """All of them, in the order in which they stand here."""
    return mutants_of(globals())


def suite(cls: type) -> type:
    """The suite on one of them."""

    def open_store(self: object, folder: Path) -> ContentStore:
        store: ContentStore = cls(folder)
        return store

    return type(f"Test{cls.__name__}", (ContentStoreSuite,), {"open_store": open_store, "keeps_labels": False})
