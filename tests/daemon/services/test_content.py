"""The content service: blobs and the sessions that write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from moorage_api.wire import content_pb2 as pb

from .conftest import Client, digest_of, failure

STAT, WRITE, COMMIT = pb.STAT, pb.WRITE, pb.COMMIT


def test_a_blob_from_write_to_delete(leased: Client) -> None:
    data = bytes(range(256)) * 9000
    digest = leased.put(data, labels={"a": "b"})
    info = leased.content.Info(pb.InfoRequest(digest=digest)).info
    assert (info.digest, info.size, dict(info.labels)) == (digest, len(data), {"a": "b"})
    assert info.created_at.seconds > 1_700_000_000
    assert leased.read(digest) == data
    assert [i.digest for r in leased.content.List(pb.ListContentRequest()) for i in r.info] == [digest]
    leased.content.Delete(pb.DeleteContentRequest(digest=digest))
    assert failure(lambda: leased.content.Info(pb.InfoRequest(digest=digest)))[0] is grpc.StatusCode.NOT_FOUND
    assert failure(lambda: leased.read(digest))[0] is grpc.StatusCode.NOT_FOUND


def test_reading_a_part(leased: Client) -> None:
    digest = leased.put(b"0123456789")
    assert leased.read(digest, 3) == b"3456789"
    assert leased.read(digest, 3, 4) == b"3456"
    assert leased.read(digest, 8, 400) == b"89"
    assert leased.read(digest, 10) == b""
    assert leased.read(digest, -5, 2) == b"01"
    assert failure(lambda: leased.read(digest, 11))[0] is grpc.StatusCode.OUT_OF_RANGE
    chunks = list(leased.content.Read(pb.ReadContentRequest(digest=digest, offset=4)))
    assert [chunk.offset for chunk in chunks] == [4]


def test_an_empty_blob(leased: Client) -> None:
    digest = leased.put(b"")
    assert leased.read(digest) == b""


def test_lists_come_in_pages(leased: Client) -> None:
    digests = {leased.put(str(number).encode()) for number in range(103)}
    pages = [[info.digest for info in page.info] for page in leased.content.List(pb.ListContentRequest())]
    assert [len(page) for page in pages] == [100, 3]
    assert {digest for page in pages for digest in page} == digests


def test_the_answers_of_a_session(leased: Client) -> None:
    data = b"hello world"
    stat, first, second, commit = leased.write(
        pb.WriteContentRequest(action=STAT, ref="r", total=11, expected=digest_of(data)),
        pb.WriteContentRequest(action=WRITE, data=b"hello"),
        pb.WriteContentRequest(action=WRITE, offset=5, data=b" wor"),
        pb.WriteContentRequest(action=COMMIT, offset=9, data=b"ld"),
    )
    assert (stat.action, stat.offset, stat.total, stat.digest) == (STAT, 0, 11, digest_of(b""))
    assert stat.started_at.seconds > 1_700_000_000
    assert (first.action, first.offset, first.digest) == (WRITE, 5, digest_of(b"hello"))
    assert (second.offset, second.digest) == (9, digest_of(b"hello wor"))
    assert (commit.action, commit.offset, commit.digest) == (COMMIT, 11, digest_of(data))
    assert failure(lambda: leased.content.Status(pb.StatusRequest(ref="r")))[0] is grpc.StatusCode.NOT_FOUND


def test_an_ingest_is_resumed_where_it_ended(leased: Client) -> None:
    leased.write(pb.WriteContentRequest(action=WRITE, ref="r", total=6, data=b"abc"))
    status = leased.content.Status(pb.StatusRequest(ref="r")).status
    assert (status.ref, status.offset, status.total) == ("r", 3, 6)
    assert [s.ref for s in leased.content.ListStatuses(pb.ListStatusesRequest()).statuses] == ["r"]
    stat, commit = leased.write(
        pb.WriteContentRequest(action=STAT, ref="r"),
        pb.WriteContentRequest(action=COMMIT, offset=3, data=b"def", total=6, expected=digest_of(b"abcdef")),
    )
    assert (stat.offset, commit.offset) == (3, 6)
    assert leased.read(digest_of(b"abcdef")) == b"abcdef"


def test_offset_zero_starts_again(leased: Client) -> None:
    leased.write(pb.WriteContentRequest(action=WRITE, ref="r", data=b"rubbish"))
    [answer] = leased.write(pb.WriteContentRequest(action=COMMIT, ref="r", data=b"good"))
    assert (answer.offset, answer.digest) == (4, digest_of(b"good"))


def test_another_offset_is_out_of_range(leased: Client) -> None:
    def write() -> None:
        leased.write(
            pb.WriteContentRequest(action=WRITE, ref="r", data=b"abc"),
            pb.WriteContentRequest(action=WRITE, offset=2, data=b"x"),
        )

    assert failure(write)[0] is grpc.StatusCode.OUT_OF_RANGE
    assert leased.content.Status(pb.StatusRequest(ref="r")).status.offset == 3


@pytest.mark.parametrize(
    ("total", "expected"), [(5, ""), (0, digest_of(b"other")), (2, digest_of(b"abc")), (3, digest_of(b"abd"))]
)
def test_what_was_announced_must_be_met(leased: Client, total: int, expected: str) -> None:
    request = pb.WriteContentRequest(action=COMMIT, ref="r", data=b"abc", total=total, expected=expected)
    assert failure(lambda: leased.write(request))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert leased.content.Status(pb.StatusRequest(ref="r")).status.offset == 3
    leased.content.Abort(pb.AbortRequest(ref="r"))
    assert not leased.content.ListStatuses(pb.ListStatusesRequest()).statuses


def test_a_blob_that_is_there_ends_the_ingest(leased: Client) -> None:
    digest = leased.put(b"abc")
    first = pb.WriteContentRequest(action=STAT, ref="r", expected=digest)
    assert failure(lambda: leased.write(first))[0] is grpc.StatusCode.ALREADY_EXISTS
    late = (
        pb.WriteContentRequest(action=WRITE, ref="r", data=b"abc"),
        pb.WriteContentRequest(action=COMMIT, offset=3, expected=digest),
    )
    assert failure(lambda: leased.write(*late))[0] is grpc.StatusCode.ALREADY_EXISTS
    unannounced = pb.WriteContentRequest(action=COMMIT, ref="s", data=b"abc")
    assert failure(lambda: leased.write(unannounced))[0] is grpc.StatusCode.ALREADY_EXISTS
    assert not leased.content.ListStatuses(pb.ListStatusesRequest()).statuses


def test_an_ingest_has_one_writer(leased: Client) -> None:
    done = threading.Event()

    def requests() -> Iterator[pb.WriteContentRequest]:
        yield pb.WriteContentRequest(action=WRITE, ref="r", data=b"abc")
        done.wait(20)

    answers = leased.content.Write(requests())
    next(answers)
    second = pb.WriteContentRequest(action=STAT, ref="r")
    assert failure(lambda: leased.write(second))[0] is grpc.StatusCode.UNAVAILABLE
    assert failure(lambda: leased.content.Abort(pb.AbortRequest(ref="r")))[0] is grpc.StatusCode.UNAVAILABLE
    done.set()
    list(answers)
    assert leased.write(second)[0].offset == 3


def test_a_writer_that_vanishes_frees_its_ingest(leased: Client) -> None:
    for _ in range(20):
        gone = threading.Event()

        def requests(gone: threading.Event = gone) -> Iterator[pb.WriteContentRequest]:
            yield pb.WriteContentRequest(action=WRITE, ref="r", data=b"abc")
            for _ in range(1000):
                yield pb.WriteContentRequest(action=WRITE, data=b"abc" * 1000)
            gone.wait(20)

        answers = leased.content.Write(requests())
        next(answers)
        answers.cancel()
        gone.set()
        assert offset_when_free(leased, "r") >= 3


def offset_when_free(client: Client, ref: str) -> int:
    """Where an ingest ends, once nobody has it open."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return client.write(pb.WriteContentRequest(action=STAT, ref=ref))[0].offset
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize(
    "digest", ["", "sha256", "sha256:", "sha256:" + "G" * 64, "sha256:" + "a" * 63, "md5:00", "../x"]
)
def test_malformed_digests(leased: Client, digest: str) -> None:
    calls = [
        lambda: leased.content.Info(pb.InfoRequest(digest=digest)),
        lambda: leased.content.Update(pb.UpdateRequest(info=pb.Info(digest=digest))),
        lambda: leased.content.Delete(pb.DeleteContentRequest(digest=digest)),
        lambda: leased.read(digest),
    ]
    if digest:
        calls.append(lambda: leased.write(pb.WriteContentRequest(action=STAT, ref="r", expected=digest)))
    for call in calls:
        assert failure(call)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert not leased.content.ListStatuses(pb.ListStatusesRequest()).statuses


def test_other_malformed_input(leased: Client) -> None:
    assert leased.write() == []
    assert failure(lambda: leased.write(pb.WriteContentRequest(action=STAT)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    filters = pb.ListContentRequest(filters=["labels.=="])
    assert failure(lambda: list(leased.content.List(filters)))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_labels_change_by_mask(leased: Client) -> None:
    digest = leased.put(b"x", labels={"a": "1", "b": "2"})

    def update(labels: dict[str, str], *paths: str) -> dict[str, str]:
        request = pb.UpdateRequest(info=pb.Info(digest=digest, labels=labels))
        request.update_mask.paths.extend(paths)
        return dict(leased.content.Update(request).info.labels)

    assert update({"a": "3", "c": "x"}, "labels.a") == {"a": "3", "b": "2"}
    assert update({"c.d": "4"}, "labels.c.d", "labels.b") == {"a": "3", "c.d": "4"}
    assert update({"e": "5"}) == {"e": "5"}
    assert failure(lambda: update({}, "size"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    listed = pb.ListContentRequest(filters=["labels.e==5"])
    assert [i.digest for r in leased.content.List(listed) for i in r.info] == [digest]
