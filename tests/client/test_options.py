"""The specification that a container's options make."""

from __future__ import annotations

import os
from typing import Any

import pytest

from moorage.network.ports import Port
from moorage.options import Bind, ContainerOptions, Tmpfs
from moorage.spec import build_spec
from moorage_api.errors import InvalidArgument
from moorage_api.oci.image import RunConfig

ID = "0123456789abcdef" * 4
CONFIG = RunConfig(env=("PATH=/bin", "A=image"), cmd=("sh",), working_dir="/work")


def spec_of(**options: Any) -> dict[str, Any]:
    return build_spec(ContainerOptions(**options), CONFIG, ID)


def mount_at(spec: dict[str, Any], path: str) -> dict[str, Any] | None:
    return next((mount for mount in spec["mounts"] if mount["destination"] == path), None)


def test_the_image_decides_what_is_not_asked_for() -> None:
    spec = spec_of()
    process = spec["process"]
    assert process["args"] == ["sh"]
    assert process["cwd"] == "/work"
    assert set(process["env"]) == {"PATH=/bin", "A=image", f"HOSTNAME={ID[:12]}"}
    assert spec["hostname"] == ID[:12]
    assert spec["linux"]["cgroupsPath"] == f"/moorage/{ID}"
    assert spec["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert mount_at(spec, "/run") is None


def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN", "mine")
    monkeypatch.delenv("UNSET", raising=False)
    spec = spec_of(
        args=["-c", "x"], entrypoint=["bash"], env=["A=1", "OWN", "UNSET"], workdir="/w", hostname="h", terminal=True
    )
    process = spec["process"]
    assert process["args"] == ["bash", "-c", "x"]
    assert {"A=1", "OWN=mine", "HOSTNAME=h", "TERM=xterm"} <= set(process["env"])
    assert not any(entry.startswith("UNSET") for entry in process["env"])
    assert (process["cwd"], process["terminal"], spec["hostname"]) == ("/w", True, "h")


def test_the_hosts_network() -> None:
    spec = spec_of(network="host")
    assert "network" not in [namespace["type"] for namespace in spec["linux"]["namespaces"]]
    assert spec["hostname"] == os.uname().nodename
    hosts = mount_at(spec, "/etc/hosts")
    assert hosts is not None
    assert hosts["options"] == ["bind", "ro"]


def test_limits() -> None:
    resources = spec_of(memory=64 << 20, cpus=0.5, pids_limit=10)["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20}
    assert resources["cpu"] == {"quota": 50_000, "period": 100_000}
    assert resources["pids"] == {"limit": 10}


def test_mounts() -> None:
    spec = spec_of(binds=[Bind("/etc", "/e", True), Bind("/tmp", "/t")], tmpfs=[Tmpfs("/run")])
    readonly, writable, memory = mount_at(spec, "/e"), mount_at(spec, "/t"), mount_at(spec, "/run")
    assert readonly is not None
    assert readonly["options"] == ["rbind", "rprivate", "ro"]
    assert writable is not None
    assert writable["options"] == ["rbind", "rprivate", "rw"]
    assert memory is not None
    assert memory["type"] == "tmpfs"


def test_privileges() -> None:
    plain, privileged = spec_of(), spec_of(privileged=True)
    assert len(privileged["process"]["capabilities"]["bounding"]) > len(plain["process"]["capabilities"]["bounding"])
    assert "seccomp" not in privileged["linux"]
    assert any(node["path"] == "/dev/null" for node in privileged["linux"]["devices"])
    dropped = spec_of(cap_drop=["ALL"], cap_add=["net_raw"])
    assert dropped["process"]["capabilities"]["bounding"] == ["CAP_NET_RAW"]
    assert "seccomp" not in spec_of(seccomp=False)["linux"]
    assert spec_of(no_new_privileges=True)["process"]["noNewPrivileges"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "none", "publish": [Port(80, 80)]}, "has no ports"),
        ({"ulimits": ["nofile=2:1"]}, "soft limit"),
        ({"ulimits": ["nothing=1"]}, "no limit"),
        ({"extra_hosts": ["name"]}, "expected NAME:ADDRESS"),
        ({"workdir": "relative"}, "absolute path"),
        ({"memory": 1024}, "at least 6 MiB"),
        ({"cpus": 4096.0}, "cpus is 4096"),
        ({"cap_add": ["NO_SUCH"]}, "unknown capability"),
        ({"binds": [Bind("/a", "b")]}, "absolute path"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        spec_of(**options)


def test_no_command_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command"):
        build_spec(ContainerOptions(), RunConfig(), ID)
