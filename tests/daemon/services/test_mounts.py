"""`containerd.services.mounts.v1`, over real mounts in a running daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from moorage_api.linux import mount
from moorage_api.wire import mounts_pb2 as pb
from moorage_api.wire import types_pb2
from moorage_api.wire.mounts_pb2_grpc import MountsStub
from support.daemon import Daemon


class Client:
    """The service as one namespace sees it."""

    def __init__(self, daemon: Daemon, namespace: str = "default") -> None:
        self._stub = MountsStub(grpc.insecure_channel(f"unix:{daemon.address}"))
        self._options = {"metadata": (("containerd-namespace", namespace),), "timeout": 30, "wait_for_ready": True}

    def activate(self, name: str, *mounts: types_pb2.Mount, **more: object) -> types_pb2.ActivationInfo:
        request = pb.ActivateRequest(name=name, mounts=mounts, **more)  # type: ignore[arg-type]
        return self._stub.Activate(request, **self._options).info  # type: ignore[call-overload, no-any-return]

    def deactivate(self, name: str) -> None:
        self._stub.Deactivate(pb.DeactivateRequest(name=name), **self._options)  # type: ignore[call-overload]

    def info(self, name: str) -> types_pb2.ActivationInfo:
        return self._stub.Info(pb.InfoRequest(name=name), **self._options).info  # type: ignore[call-overload, no-any-return]

    def label(self, name: str, labels: dict[str, str], *paths: str) -> dict[str, str]:
        info = types_pb2.ActivationInfo(name=name, labels=labels)
        request = pb.UpdateRequest(info=info, update_mask=FieldMask(paths=paths))
        return dict(self._stub.Update(request, **self._options).info.labels)  # type: ignore[call-overload]

    def names(self, *filters: str) -> list[str]:
        return [m.info.name for m in self._stub.List(pb.ListRequest(filters=filters), **self._options)]  # type: ignore[call-overload]


@pytest.fixture
def client(shared_daemon: Daemon) -> Client:
    return Client(shared_daemon)


def bind(source: Path, *options: str) -> types_pb2.Mount:
    return types_pb2.Mount(type="bind", source=str(source), options=["rbind", *options])


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    found: grpc.StatusCode = failed.value.code()
    return found


def layers(folder: Path) -> list[types_pb2.Mount]:
    """Two folders, and an overlay of them that names them by template."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / f"from-{name}").write_text(name)
    overlay = types_pb2.Mount(type="format/overlay", source="overlay", options=["lowerdir={{ overlay 1 0 }}"])
    return [bind(folder / "a", "ro"), bind(folder / "b", "ro"), overlay]


def test_mounts_that_depend_on_each_other(client: Client, tmp_path: Path) -> None:
    info = client.activate("stack", *layers(tmp_path))
    points = [active.mount_point for active in info.active]
    assert [Path(points[0], "from-a").read_text(), Path(points[1], "from-b").read_text()] == ["a", "b"]
    [left] = info.system
    assert (left.type, list(left.options)) == ("overlay", [f"lowerdir={points[1]}:{points[0]}"])
    assert client.info("stack") == info
    assert code(lambda: client.activate("stack", *layers(tmp_path / "a"))) is grpc.StatusCode.ALREADY_EXISTS
    client.deactivate("stack")
    assert not any(mount.is_mountpoint(point) for point in points)
    assert code(lambda: client.info("stack")) is grpc.StatusCode.NOT_FOUND
    assert code(lambda: client.deactivate("stack")) is grpc.StatusCode.NOT_FOUND


def test_all_of_them_for_a_moment(client: Client, tmp_path: Path) -> None:
    info = client.activate("whole", *layers(tmp_path), temporary=True)
    assert len(info.active) == 3
    [left] = info.system
    assert (left.type, left.source) == ("bind", info.active[2].mount_point)
    assert sorted(entry.name for entry in Path(left.source).iterdir()) == ["from-a", "from-b"]
    client.deactivate("whole")


def test_folders_are_made_below_the_root_only(client: Client, shared_daemon: Daemon, tmp_path: Path) -> None:
    def with_folder(path: Path | str) -> types_pb2.Mount:
        return types_pb2.Mount(type="mkdir/bind", source="/x", options=["ro", f"X-containerd.mkdir.path={path}:0750"])

    made = shared_daemon.root / "made"
    [left] = client.activate("folder", with_folder(made)).system
    assert (left.type, list(left.options)) == ("bind", ["ro"])
    assert made.stat().st_mode & 0o777 == 0o750
    client.deactivate("folder")
    (shared_daemon.root / "out").symlink_to(tmp_path)
    for bad in (tmp_path / "x", f"{shared_daemon.root}/../x", shared_daemon.root / "out" / "x"):
        assert code(lambda bad=bad: client.activate("bad", with_folder(bad))) in (  # type: ignore[misc]
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.FAILED_PRECONDITION,
        )
    assert not (tmp_path / "x").exists()
    assert client.names() == []


def test_what_cannot_be_done_leaves_nothing(client: Client, shared_daemon: Daemon, tmp_path: Path) -> None:
    absent, good = bind(tmp_path / "absent"), bind(tmp_path)
    assert code(lambda: client.activate("x", good, absent, temporary=True)) is grpc.StatusCode.FAILED_PRECONDITION
    assert code(lambda: client.activate("x", good)) is grpc.StatusCode.UNIMPLEMENTED
    assert code(lambda: client.activate("", good, temporary=True)) is grpc.StatusCode.INVALID_ARGUMENT
    late = types_pb2.Mount(type="format/bind", source="{{ mount 1 }}")
    assert code(lambda: client.activate("x", good, late)) is grpc.StatusCode.INVALID_ARGUMENT
    broken = types_pb2.Mount(type="format/bind", source="{{ range }}")
    assert code(lambda: client.activate("x", good, broken)) is grpc.StatusCode.INVALID_ARGUMENT
    assert client.names() == []
    folder = shared_daemon.state / "io.containerd.mount-manager.v1.local"
    assert list(folder.iterdir()) == []


def test_labels_lists_and_namespaces(client: Client, shared_daemon: Daemon, tmp_path: Path) -> None:
    other = Client(shared_daemon, "other")
    client.activate("one", bind(tmp_path), labels={"a": "1"}, temporary=True)
    client.activate("two", bind(tmp_path), labels={"a": "2"}, temporary=True)
    other.activate("one", bind(tmp_path), temporary=True)
    assert client.names() == ["one", "two"]
    assert client.names("labels.a==2") == ["two"]
    assert other.names() == ["one"]
    assert client.label("one", {"b": "3"}, "labels.b") == {"a": "1", "b": "3"}
    assert client.label("one", {"c": "4"}) == {"c": "4"}
    assert code(lambda: client.label("one", {}, "name")) is grpc.StatusCode.INVALID_ARGUMENT
    for each, name in ((client, "one"), (client, "two"), (other, "one")):
        each.deactivate(name)


def test_a_restart_of_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    client = Client(daemon)
    info = client.activate("kept", bind(tmp_path), temporary=True)
    half = daemon.state / "io.containerd.mount-manager.v1.local" / "77"
    (half / "0").mkdir(parents=True)
    mount.mount(mount.Mount("bind", str(tmp_path), options=("bind",)), str(half / "0"))
    daemon.kill()
    daemon.start()
    assert client.info("kept") == info
    assert not half.exists()
    client.deactivate("kept")
    assert tmp_path.exists()
