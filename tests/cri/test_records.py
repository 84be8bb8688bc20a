"""What the plugin writes down and reads again: metadata in records, runs on disk, labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moorage_api import containers, sandboxes
from moorage_api.containers import Runtime
from moorage_api.errors import DataLoss
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri import labels, metadata
from moorage_cri.container import journal
from moorage_cri.model import Container, Run, Sandbox
from support.cri import container_config, pod_config

RUNTIME = Runtime("io.containerd.runc.v2")


def _container() -> Container:
    return Container(
        id="c",
        name="n",
        sandbox_id="s",
        config=container_config("image", "sh", envs=[cri_pb2.KeyValue(key="A", value=b"\x00\xff")], tty=True),
        image_id="sha256:x",
        image_name="image",
        log_path="/l/0.log",
        stop_signal="SIGTERM",
        snapshotter="overlayfs",
        created_at=5,
        user=cri_pb2.LinuxContainerUser(uid=1, gid=2, supplemental_groups=[2, 3]),
    )


def _container_record(value: TypedValue) -> containers.Container:
    extensions = {labels.CONTAINER_METADATA: value}
    return containers.Container(
        "c", RUNTIME, image="image", snapshotter="overlayfs", extensions=extensions, sandbox_id="s"
    )


def test_a_pod_comes_back_as_it_was() -> None:
    pod = Sandbox("s", "n", pod_config(labels={"a": "b"}, annotations={"c": "d"}), "crun", RUNTIME, 7, boot="b")
    record = sandboxes.Sandbox("s", RUNTIME, extensions={labels.SANDBOX_METADATA: metadata.encode_sandbox(pod)})
    found = metadata.decode_sandbox(record)
    for name in ("id", "name", "config", "handler", "runtime", "created_at", "boot"):
        assert getattr(found, name) == getattr(pod, name), name


def test_a_container_comes_back_as_it_was() -> None:
    container = _container()
    found = metadata.decode_container(_container_record(metadata.encode_container(container)))
    for name in ("id", "name", "sandbox_id", "config", "image_id", "log_path", "stop_signal", "created_at", "user"):
        assert getattr(found, name) == getattr(container, name), name


def test_fields_of_a_later_version_are_passed_over() -> None:
    value = metadata.encode_container(_container())
    document = json.loads(value.value)
    document["later"] = document["config"]["later"] = {"x": 1}
    found = metadata.decode_container(_container_record(replace(value, value=json.dumps(document).encode())))
    assert found.config == _container().config


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"version":2}', b'{"version":1}', b'{"version":1,"name":"n"}'])
def test_metadata_that_cannot_be_read_is_an_error(text: bytes) -> None:
    with pytest.raises(DataLoss):
        metadata.decode_container(_container_record(TypedValue("", text)))
    with pytest.raises(DataLoss):
        metadata.decode_sandbox(sandboxes.Sandbox("s", RUNTIME))


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    assert journal.load(tmp_path) is None
    run = Run(pid=4, started_at=1, finished_at=2, exit_code=3, reason="Error", message="m")
    journal.save(tmp_path, run)
    journal.save(tmp_path, run, sync=True)
    assert journal.load(tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9}', '{"version": 1, "other": 1}'])
def test_a_damaged_run_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    assert journal.load(tmp_path) is None


def test_a_run_of_a_removed_container_is_not_written(tmp_path: Path) -> None:
    journal.save(tmp_path / "gone", Run())
    assert not (tmp_path / "gone").exists()


def test_labels_that_control_the_daemon_are_left_out() -> None:
    given = {
        "app": "x",
        "containerd.io/gc.root": "y",
        "moorage.io/name": "z",
        "io.containerd.x": "1",
        "": "e",
        "l": "x" * 9999,
    }
    assert labels.record_labels("container", given, {"app": "later"}) == {
        "app": "later",
        "io.cri-containerd.kind": "container",
    }


def test_annotations_are_passed_on_by_pattern() -> None:
    given = {"a.b/c": "1", "a.b/d": "2", "x": "3", "xy": "4"}
    assert labels.passed_on(given, ("a.b/*", "x")) == {"a.b/c": "1", "a.b/d": "2", "x": "3"}
    assert labels.passed_on(given, ()) == {}
