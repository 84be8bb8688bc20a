"""The snapshots and diff services."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from moorage_api.mounts import Mount
from moorage_api.wire import diff_pb2, types_pb2
from moorage_api.wire import snapshots_pb2 as pb
from moorage_snapshotter.overlay import OverlaySnapshotter

from .conftest import Client, failure

NOT_FOUND, EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(params=["overlayfs", "native"])
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def prepare(client: Client, name: str, key: str, parent: str = "") -> list[types_pb2.Mount]:
    return list(client.snapshots.Prepare(pb.PrepareSnapshotRequest(snapshotter=name, key=key, parent=parent)).mounts)


@pytest.mark.parametrize("prompt", [True, False])
def test_only_what_may_wait_has_a_thread(leased: Client, monkeypatch: pytest.MonkeyPatch, prompt: bool) -> None:
    threads: list[str] = []
    mounts = OverlaySnapshotter.mounts

    def watch(self: OverlaySnapshotter, key: str) -> list[Mount]:
        threads.append(threading.current_thread().name)
        return mounts(self, key)

    monkeypatch.setattr(OverlaySnapshotter, "mounts", watch)
    monkeypatch.setattr(OverlaySnapshotter, "prompt", prompt)
    prepare(leased, "overlayfs", "active")
    leased.snapshots.Mounts(pb.MountsRequest(snapshotter="overlayfs", key="active"))
    assert [name.startswith("core") for name in threads] == [not prompt]


def stat(client: Client, name: str, key: str) -> pb.Info:
    return client.snapshots.Stat(pb.StatSnapshotRequest(snapshotter=name, key=key)).info


def keys(client: Client, name: str, *filters: str) -> list[str]:
    request = pb.ListSnapshotsRequest(snapshotter=name, filters=filters)
    return [info.name for page in client.snapshots.List(request) for info in page.info]


def test_all_ten_methods(leased: Client, name: str) -> None:
    stub = leased.snapshots
    mounts = prepare(leased, name, "active")
    assert mounts == list(stub.Mounts(pb.MountsRequest(snapshotter=name, key="active")).mounts)
    (Path(mounts[0].source) / "file").write_bytes(b"x" * 10_000)
    assert stub.Usage(pb.UsageRequest(snapshotter=name, key="active")).size >= 10_000
    stub.Commit(pb.CommitSnapshotRequest(snapshotter=name, name="layer", key="active", labels={"a": "1"}))
    info = stat(leased, name, "layer")
    assert (info.kind, info.parent, dict(info.labels)) == (pb.COMMITTED, "", {"a": "1"})
    view = stub.View(pb.ViewSnapshotRequest(snapshotter=name, key="view", parent="layer")).mounts
    assert any("ro" in mount.options for mount in view)
    assert stat(leased, name, "view").kind == pb.VIEW
    given = pb.Info(name="view", labels={"b": "2", "c": "3"})
    request = pb.UpdateSnapshotRequest(snapshotter=name, info=given, update_mask=FieldMask(paths=["labels.b"]))
    assert dict(stub.Update(request).info.labels) == {"b": "2"}
    assert keys(leased, name) == ["layer", "view"]
    assert keys(leased, name, "kind==view") == ["view"]
    assert failure(lambda: stub.Remove(pb.RemoveSnapshotRequest(snapshotter=name, key="layer")))[0] is PRECONDITION
    for key in ("view", "layer"):
        stub.Remove(pb.RemoveSnapshotRequest(snapshotter=name, key=key))
    stub.Cleanup(pb.CleanupRequest(snapshotter=name))
    assert keys(leased, name) == []


def test_errors(leased: Client, name: str) -> None:
    prepare(leased, name, "a")
    assert failure(lambda: prepare(leased, name, "a"))[0] is EXISTS
    assert failure(lambda: prepare(leased, name, "b", "absent"))[0] is NOT_FOUND
    assert failure(lambda: prepare(leased, name, "b", "a"))[0] is INVALID
    assert failure(lambda: prepare(leased, name, ""))[0] is INVALID
    assert failure(lambda: stat(leased, name, "absent"))[0] is NOT_FOUND
    assert failure(lambda: leased.snapshots.Mounts(pb.MountsRequest(snapshotter=name, key="absent")))[0] is NOT_FOUND
    commit = pb.CommitSnapshotRequest(snapshotter=name, name="n", key="absent")
    assert failure(lambda: leased.snapshots.Commit(commit))[0] is NOT_FOUND
    rebase = pb.CommitSnapshotRequest(snapshotter=name, name="n", key="a", parent="p")
    assert failure(lambda: leased.snapshots.Commit(rebase))[0] is grpc.StatusCode.NOT_FOUND
    assert keys(leased, name) == ["a"]


@pytest.mark.parametrize("unknown", ["", "zfs"])
def test_a_snapshotter_that_is_not_there(leased: Client, unknown: str) -> None:
    assert failure(lambda: prepare(leased, unknown, "a"))[0] is INVALID
    assert failure(lambda: keys(leased, unknown))[0] is INVALID


def layer() -> tuple[bytes, str]:
    """A layer of one file, and its diff ID."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("hello")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"world"))
    return gzip.compress(buffer.getvalue()), "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()


def test_a_layer_in_and_out(leased: Client) -> None:
    data, diff_id = layer()
    descriptor = types_pb2.Descriptor(media_type=LAYER, digest=leased.put(data), size=len(data))
    lower = prepare(leased, "native", "lower")
    applied = leased.diff.Apply(diff_pb2.ApplyRequest(diff=descriptor, mounts=lower, sync_fs=True)).applied
    assert applied.digest == diff_id
    assert (Path(lower[0].source) / "hello").read_bytes() == b"world"
    leased.snapshots.Commit(pb.CommitSnapshotRequest(snapshotter="native", name="base", key="lower"))
    upper = prepare(leased, "native", "upper", "base")
    (Path(upper[0].source) / "new").write_bytes(b"!")
    view = leased.snapshots.View(pb.ViewSnapshotRequest(snapshotter="native", key="view", parent="base")).mounts
    request = diff_pb2.DiffRequest(left=view, right=upper, media_type=LAYER, ref="out", labels={"l": "m"})
    made = leased.diff.Diff(request).diff
    with tarfile.open(fileobj=io.BytesIO(leased.read(made.digest))) as archive:
        assert [member.name.strip("/") for member in archive if member.isfile()] == ["new"]


def test_a_layer_that_cannot_be_applied(leased: Client) -> None:
    mounts = prepare(leased, "native", "active")
    absent = types_pb2.Descriptor(media_type=LAYER, digest="sha256:" + "0" * 64, size=1)
    assert failure(lambda: leased.diff.Apply(diff_pb2.ApplyRequest(diff=absent, mounts=mounts)))[0] is NOT_FOUND
    data = b"this is no archive"
    wrong = types_pb2.Descriptor(media_type="text/plain", digest=leased.put(data), size=len(data))
    code, _ = failure(lambda: leased.diff.Apply(diff_pb2.ApplyRequest(diff=wrong, mounts=mounts)))
    assert code in (INVALID, grpc.StatusCode.UNIMPLEMENTED)
