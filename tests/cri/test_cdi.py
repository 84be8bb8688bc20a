"""CDI devices: specification files, and containers that ask for what is in them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import Code, FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.oci import spec as oci
from moorage_api.wire import cri_pb2
from moorage_cri.cdi import names
from moorage_cri.cdi.document import VERSIONS
from moorage_cri.cdi.registry import DeviceRegistry
from support.cri import CriClient, configured, container_config, pod_config
from support.daemon import Daemon

NULL = {"deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null"}]}


def document(kind: str = "vendor.com/device", version: str = "0.6.0", **fields: Any) -> dict[str, Any]:
    return {"cdiVersion": version, "kind": kind, "devices": [{"name": "one", "containerEdits": NULL}]} | fields


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / "etc", tmp_path / "run"]


@pytest.fixture
def known(folders: list[Path]) -> DeviceRegistry:
    return DeviceRegistry([str(folder) for folder in folders])


def edited(known: DeviceRegistry, *devices: str, user: tuple[int, int] = (0, 0)) -> oci.Spec:
    spec = oci.default_spec(args=["true"])
    oci.set_user(spec, *user)
    known.inject(spec, devices)
    return spec


def test_every_kind_of_edit(known: DeviceRegistry, folders: list[Path], tmp_path: Path) -> None:
    edits = {
        "env": ["VENDOR=yes", "PATH=/vendor"],
        "deviceNodes": [
            {"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw", "uid": 5, "gid": 6},
            {"path": "/dev/whole", "type": "c", "major": 240, "minor": 7, "fileMode": 0o600, "permissions": "none"},
            {"path": "/dev/pipe", "type": "p"},
        ],
        "netDevices": [{"hostInterfaceName": "eno9", "name": "fast0"}],
        "mounts": [
            {"hostPath": "/opt/lib", "containerPath": "/usr/lib/vendor", "options": ["ro", "bind"]},
            {"hostPath": "tmpfs", "containerPath": "/vendor", "type": "tmpfs"},
        ],
        "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook"], "env": ["A=b"], "timeout": 3}],
        "intelRdt": {"closID": "gold", "l3CacheSchema": "L3:0=f"},
        "additionalGids": [44, 0],
    }
    write(folders[0], "vendor.json", document(version="1.1.0", devices=[{"name": "all", "containerEdits": edits}]))
    spec = edited(known, "vendor.com/device=all")
    assert {"VENDOR=yes", "PATH=/vendor"} <= set(spec["process"]["env"])
    nodes = {node["path"]: node for node in spec["linux"]["devices"]}
    assert nodes["/dev/vendor0"] | {"fileMode": 0} == {
        "path": "/dev/vendor0",
        "type": "c",
        "major": 1,
        "minor": 3,
        "fileMode": 0,
        "uid": 5,
        "gid": 6,
    }
    assert nodes["/dev/whole"] == {"path": "/dev/whole", "type": "c", "major": 240, "minor": 7, "fileMode": 0o600}
    assert nodes["/dev/pipe"] == {"path": "/dev/pipe", "type": "p"}
    allowed = [rule for rule in spec["linux"]["resources"]["devices"] if rule["allow"]]
    assert allowed == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]
    assert spec["linux"]["netDevices"] == {"eno9": {"name": "fast0"}}
    assert [mount["destination"] for mount in spec["mounts"]][-1] == "/usr/lib/vendor"
    assert {"destination": "/vendor", "source": "tmpfs", "type": "tmpfs", "options": []} in spec["mounts"]
    hook = {"path": "/bin/hook", "args": ["hook"], "env": ["A=b"], "timeout": 3}
    assert spec["hooks"] == {"createContainer": [hook]}
    assert spec["linux"]["intelRdt"] == {"closID": "gold", "l3CacheSchema": "L3:0=f"}
    assert spec["process"]["user"]["additionalGids"] == [44]


def test_a_node_belongs_to_the_user_of_the_container(known: DeviceRegistry, folders: list[Path]) -> None:
    write(folders[0], "vendor.json", document())
    [node] = edited(known, "vendor.com/device=one", user=(33, 34))["linux"]["devices"]
    assert (node["uid"], node["gid"]) == (33, 34)
    assert node["fileMode"] == stat.S_IMODE(os.stat("/dev/null").st_mode)


def test_mounts_are_mapped_in_a_user_namespace(known: DeviceRegistry, folders: list[Path]) -> None:
    edits = {"mounts": [{"hostPath": "/opt", "containerPath": "/opt", "options": ["bind"]}]}
    write(folders[0], "vendor.json", document(containerEdits=edits))
    spec = oci.default_spec(args=["true"])
    mapping = [{"containerID": 0, "hostID": 1000, "size": 10}]
    spec["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    known.inject(spec, ["vendor.com/device=one"])
    [mount] = [each for each in spec["mounts"] if each["destination"] == "/opt"]
    assert (mount["uidMappings"], mount["gidMappings"]) == (mapping, mapping)


def test_a_document_s_own_edits_come_first_and_once(known: DeviceRegistry, folders: list[Path]) -> None:
    devices = [{"name": name, "containerEdits": {"env": [f"LAST={name}"]}} for name in ("one", "two")]
    hook = {"hookName": "poststop", "path": "/bin/x"}
    write(folders[0], "vendor.json", document(containerEdits={"env": ["LAST=none"], "hooks": [hook]}, devices=devices))
    spec = edited(known, "vendor.com/device=one", "vendor.com/device=two")
    assert "LAST=two" in spec["process"]["env"]
    assert spec["hooks"]["poststop"] == [{"path": "/bin/x"}]


def test_yaml(known: DeviceRegistry, folders: list[Path]) -> None:
    folders[0].mkdir()
    text = "---\ncdiVersion: 0.3.0\nkind: vendor.com/device\ndevices:\n- name: y1\n  containerEdits:\n    env: [A=1]\n"
    (folders[0] / "vendor.yaml").write_text(text)
    assert "A=1" in edited(known, "vendor.com/device=y1")["process"]["env"]


def test_changes_are_seen(known: DeviceRegistry, folders: list[Path]) -> None:
    with pytest.raises(NotFound, match=r"are not in .*/etc, .*/run$"):
        edited(known, "vendor.com/device=one")
    path = write(folders[1], "vendor.json", document())
    edited(known, "vendor.com/device=one")
    write(folders[1], "vendor.json", document(devices=[{"name": "renamed", "containerEdits": NULL}]))
    edited(known, "vendor.com/device=renamed")
    with pytest.raises(NotFound):
        edited(known, "vendor.com/device=one")
    path.unlink()
    with pytest.raises(NotFound):
        edited(known, "vendor.com/device=renamed")


def test_a_later_folder_comes_first_and_twins_of_one_folder_are_nobody_s(
    known: DeviceRegistry, folders: list[Path]
) -> None:
    for folder, value in zip(folders, ("early", "late"), strict=True):
        write(folder, "vendor.json", document(containerEdits={"env": [f"FROM={value}"]}))
    assert "FROM=late" in edited(known, "vendor.com/device=one")["process"]["env"]
    write(folders[1], "twin.json", document())
    with pytest.raises(NotFound, match="is in two files of one folder"):
        edited(known, "vendor.com/device=one")


@pytest.mark.parametrize(
    "content",
    [
        document(version="0.0.1"),
        document(version="9.0.0"),
        document(kind="vendor"),
        document(kind="vendor.com/"),
        document(devices=[]),
        document(devices=[{"name": "-x", "containerEdits": NULL}]),
        document(devices=[{"name": "x", "containerEdits": NULL}] * 2),
        document(unknown=1),
        document(containerEdits={"env": ["=x"]}),
        document(containerEdits={"hooks": [{"hookName": "never", "path": "/x"}]}),
        document(containerEdits={"deviceNodes": [{"path": ""}]}),
        document(containerEdits={"deviceNodes": [{"path": "/dev/x", "permissions": "x"}]}),
        document(containerEdits={"mounts": [{"hostPath": "", "containerPath": "/x"}]}),
        document(devices="one"),
        {},
    ],
)
def test_a_file_that_is_wrong_is_passed_over_and_told(
    known: DeviceRegistry, folders: list[Path], content: dict[str, Any]
) -> None:
    write(folders[0], "wrong.json", content)
    write(folders[0], "good.json", document("other.com/device"))
    edited(known, "other.com/device=one")
    with pytest.raises(NotFound, match=r"wrong\.json: "):
        edited(known, "vendor.com/device=one")


def test_nodes_that_are_not_there(known: DeviceRegistry, folders: list[Path], tmp_path: Path) -> None:
    nodes = {
        "absent": {"path": str(tmp_path / "none")},
        "file": {"path": "/etc/passwd"},
        "other": {"path": "/dev/null", "type": "b"},
    }
    devices = [{"name": name, "containerEdits": {"deviceNodes": [node]}} for name, node in nodes.items()]
    write(folders[0], "vendor.json", document(devices=devices))
    for name, error in (("absent", NotFound), ("file", FailedPrecondition), ("other", FailedPrecondition)):
        with pytest.raises(error):
            edited(known, f"vendor.com/device={name}")


def test_every_version_is_read(known: DeviceRegistry, folders: list[Path]) -> None:
    for number, version in enumerate(VERSIONS):
        write(folders[0], f"{number}.json", document(f"vendor{number}.com/device", version))
    edited(known, *(f"vendor{number}.com/device=one" for number in range(len(VERSIONS))))


def test_devices_by_field_and_by_annotation() -> None:
    fields = [cri_pb2.CDIDevice(name="a.com/x=1"), cri_pb2.CDIDevice(name="a.com/x=1")]
    annotations = {"cdi.k8s.io/two": "b.com/y=2,a.com/x=1", "other": "c.com/z=3", "cdi.k8s.io/one": "d.com/z=gpu:0.1"}
    assert names.wanted(fields, annotations) == ["a.com/x=1", "d.com/z=gpu:0.1", "b.com/y=2"]


@pytest.mark.parametrize(
    "name", ["", "x", "a/b", "/dev/null", "a.com/x=", "=1", "a.com/=1", "1a/x=1", "a.com/x=-1", "a b/c=1"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidArgument):
        names.check_qualified(name)


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    with configured('cdi_spec_dirs = ["HERE/cdi"]') as running:
        yield running


def test_a_container_gets_its_devices(cri: CriClient, shared_daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("library")
    edits = {
        "env": ["VENDOR=yes"],
        "mounts": [{"hostPath": str(tmp_path / "lib"), "containerPath": "/lib.so", "options": ["ro", "bind"]}],
    }
    write(shared_daemon.folder / "cdi", "vendor.json", document(containerEdits=edits))
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    wanted = container_config(
        busybox,
        "sleep",
        "1000",
        CDI_devices=[cri_pb2.CDIDevice(name="vendor.com/device=one")],
        annotations={"cdi.k8s.io/plugin": "vendor.com/device=one"},
    )
    container = cri.start(pod, config, wanted)
    script = "stat -c %t,%T /dev/vendor0; echo $VENDOR; cat /lib.so; echo x > /dev/vendor0"
    assert cri.execute(container, "sh", "-c", script).stdout.split() == [b"1,3", b"yes", b"library"]
    unknown = container_config(
        busybox, "true", name="other", CDI_devices=[cri_pb2.CDIDevice(name="vendor.com/device=two")]
    )
    with pytest.raises(MoorageError, match=r"vendor.com/device=two are not in") as caught:
        cri.create(pod, config, unknown)
    assert caught.value.code is Code.NOT_FOUND
    wrong = container_config(busybox, "true", name="other", annotations={"cdi.k8s.io/plugin": "nonsense"})
    with pytest.raises(MoorageError, match="no CDI device") as caught:
        cri.create(pod, config, wrong)
    assert caught.value.code is Code.INVALID_ARGUMENT
