"""`moorage_api.oci.spec` and the tables beside it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.oci import capabilities, devices, seccomp, spec
from moorage_api.oci.image import RunConfig
from moorage_api.types import TypedValue

IMAGE = RunConfig(env=("PATH=/bin", "A=1"), entrypoint=("/entry",), cmd=("serve", "now"), working_dir="/srv")


def test_the_default_is_a_private_container_without_new_privileges() -> None:
    made = spec.default_spec(args=["true"], cgroups_path="/x/y", hostname="h")
    assert made["ociVersion"] == "1.0.2"
    assert made["process"]["args"] == ["true"]
    assert made["process"]["noNewPrivileges"] is True
    assert {entry["type"] for entry in made["linux"]["namespaces"]} == {"pid", "ipc", "uts", "mount", "network"}
    assert made["linux"]["cgroupsPath"] == "/x/y"
    assert made["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "/proc/kcore" in made["linux"]["maskedPaths"]
    assert "CAP_SYS_ADMIN" not in made["process"]["capabilities"]["bounding"]
    assert json.loads(json.dumps(made)) == made


def test_two_specifications_share_nothing() -> None:
    first, second = spec.default_spec(), spec.default_spec()
    spec.add_mount(first, "/dev/shm", "/host")
    first["mounts"][0]["options"].append("x")
    first["process"]["capabilities"]["bounding"].clear()
    assert second == spec.default_spec()


@pytest.mark.parametrize(
    ("args", "entrypoint", "expected"),
    [
        ((), None, ["/entry", "serve", "now"]),
        (("other",), None, ["/entry", "other"]),
        ((), ("sh",), ["sh"]),
        (("-c", "x"), ("sh",), ["sh", "-c", "x"]),
        ((), (), ["serve", "now"]),
    ],
)
def test_the_command_line_follows_entrypoint_and_cmd(
    args: tuple[str, ...], entrypoint: tuple[str, ...] | None, expected: list[str]
) -> None:
    assert spec.command_line(IMAGE, args=args, entrypoint=entrypoint) == expected


def test_an_image_without_a_command_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command"):
        spec.command_line(RunConfig(entrypoint=("",)))


def test_image_defaults_set_environment_and_folder() -> None:
    made = spec.default_spec()
    spec.image_defaults(made, IMAGE)
    assert made["process"]["env"] == ["PATH=/bin", "A=1"]
    assert made["process"]["cwd"] == "/srv"


def test_a_bare_name_removes_a_variable() -> None:
    made = spec.default_spec()
    spec.set_env(made, ["A=1", "B=2", "A=3", "B"])
    assert made["process"]["env"] == [spec.DEFAULT_PATH, "A=3"]


def test_a_mount_takes_the_place_of_an_earlier_one() -> None:
    made = spec.default_spec()
    spec.add_mount(made, "/dev/shm", "/host/shm", options=["rbind"])
    at = [mount for mount in made["mounts"] if mount["destination"] == "/dev/shm"]
    assert at == [{"destination": "/dev/shm", "type": "bind", "source": "/host/shm", "options": ["rbind"]}]


def test_namespaces_are_joined_made_and_left() -> None:
    made = spec.default_spec()
    spec.set_namespace(made, "network", "/pinned/net")
    spec.host_namespace(made, "pid")
    found = {entry["type"]: entry.get("path") for entry in made["linux"]["namespaces"]}
    assert found == {"ipc": None, "uts": None, "mount": None, "network": "/pinned/net"}


def test_privilege_opens_everything() -> None:
    made = spec.default_spec()
    made["linux"]["seccomp"] = seccomp.default_profile(capabilities.DEFAULT)
    made["process"]["apparmorProfile"] = "x"
    spec.set_privileged(made, ["CAP_SYS_ADMIN"])
    assert made["process"]["capabilities"]["effective"] == ["CAP_SYS_ADMIN"]
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert "seccomp" not in made["linux"]
    assert "apparmorProfile" not in made["process"]
    sys = next(mount for mount in made["mounts"] if mount["destination"] == "/sys")
    assert "rw" in sys["options"]
    assert "ro" not in sys["options"]
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_ambient_capabilities_are_inheritable_and_held() -> None:
    made = spec.default_spec()
    spec.set_capabilities(made, ["CAP_CHOWN"], ambient=["CAP_CHOWN", "CAP_KILL"])
    caps = made["process"]["capabilities"]
    assert caps["ambient"] == caps["inheritable"] == ["CAP_CHOWN"]


def test_an_exec_has_the_first_process_s_identity_and_leaves_it_alone() -> None:
    made = spec.default_spec(args=["sleep"])
    spec.set_user(made, 5, 6, [7, 6, 7])
    spec.set_terminal(made)
    before = json.dumps(made)
    process = spec.exec_process(made, ["id"], env=["X=1"], cwd="/tmp")
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert process["args"] == ["id"]
    assert process["cwd"] == "/tmp"
    assert process["terminal"] is False
    assert "X=1" in process["env"]
    assert json.dumps(made) == before
    with pytest.raises(InvalidArgument):
        spec.exec_process(made, [])


def test_encoding_is_containerd_s_any() -> None:
    value = spec.encode({"a": 1})
    assert value == TypedValue("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"a":1}')
    assert spec.decode(value) == {"a": 1}


@pytest.mark.parametrize("value", [None, TypedValue("x", b"{"), TypedValue("x", b"[]")])
def test_what_is_no_specification_is_refused(value: TypedValue | None) -> None:
    with pytest.raises(InvalidArgument):
        spec.decode(value)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (["net_admin"], ["CAP_KILL"], ["CAP_CHOWN", "CAP_NET_ADMIN"]),
        (["ALL"], ["chown"], ["CAP_SYS_ADMIN"]),
        (["CHOWN"], ["ALL"], ["CAP_CHOWN"]),
        ([], ["all"], []),
    ],
)
def test_capabilities_are_added_and_dropped(add: list[str], drop: list[str], expected: list[str]) -> None:
    base = ["CAP_CHOWN", "CAP_KILL"]
    assert capabilities.adjust(base, add, drop, everything=["CAP_CHOWN", "CAP_SYS_ADMIN"]) == expected


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NO_SUCH"):
        capabilities.adjust([], ["NO_SUCH"])


def test_held_capabilities_are_those_of_the_kernel() -> None:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    mask = sum(1 << capabilities.ALL.index(name) for name in capabilities.held())
    assert mask == int(line.split()[1], 16) & ((1 << len(capabilities.ALL)) - 1)


def test_seccomp_allows_by_capability() -> None:
    plain = _allowed(seccomp.default_profile(capabilities.DEFAULT, "x86_64"))
    admin = _allowed(seccomp.default_profile([*capabilities.DEFAULT, "CAP_SYS_ADMIN"], "x86_64"))
    assert {"read", "openat2", "chroot", "arch_prctl"} <= plain
    assert not {"mount", "bpf", "clone3", "open_by_handle_at", "kexec_load"} & plain
    assert {"mount", "bpf", "clone3", "setns"} <= admin


def test_seccomp_sends_clone3_back_to_clone() -> None:
    rules = seccomp.default_profile([], "x86_64")["syscalls"]
    assert {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS} in rules
    clone = next(rule for rule in rules if rule["names"] == ["clone"])
    assert clone["args"] == [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_seccomp_knows_the_machine_s_architectures() -> None:
    assert seccomp.default_profile([], "x86_64")["architectures"][0] == "SCMP_ARCH_X86_64"
    assert seccomp.default_profile([], "aarch64")["architectures"] == ["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"]
    assert "architectures" not in seccomp.default_profile([], "vax")


def test_a_device_of_the_host() -> None:
    node = devices.device("/dev/null", "/dev/nothing")
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/nothing", "c", 1, 3)
    made = spec.default_spec()
    spec.add_device(made, node, "rw")
    assert made["linux"]["devices"] == [node]
    assert made["linux"]["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "rw",
    }


def test_all_devices_without_those_that_containers_have_of_their_own() -> None:
    paths = {node["path"] for node in devices.host_devices()}
    assert "/dev/zero" in paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) or path == "/dev/console" for path in paths)


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument):
        devices.device(str(tmp_path / "file"))
    with pytest.raises(NotFound):
        devices.device(str(tmp_path / "missing"))


def _allowed(profile: seccomp.Profile) -> set[str]:
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }
