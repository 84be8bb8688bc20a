"""`moorage_cri.nri.adjust` and `moorage_cri.nri.describe`: what is put into a specification is read from it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moorage_api.oci import seccomp
from moorage_api.oci.capabilities import DEFAULT
from moorage_api.oci.spec import Spec, default_spec
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.container.host import Host, host
from moorage_cri.model import Container
from moorage_cri.nri import adjust, describe

HOST = replace(host(), swap=True)


def container() -> Container:
    config = cri_pb2.ContainerConfig(metadata=cri_pb2.ContainerMetadata(name="c"), annotations={"own": "1"})
    return Container("c", "c", "pod", config, "", "", "", "", "", 1)


def adjusted(*, on: Host = HOST, **fields: Any) -> tuple[Spec, pb.Container]:
    """A default specification after an adjustment, and how plugins see it then."""
    spec = default_spec(args=["a"], cgroups_path="/x")
    adjust.apply(spec, pb.ContainerAdjustment(**fields), on)
    return spec, describe.container(container(), spec)


LINUX: list[tuple[str, dict[str, Any]]] = [
    ("scheduler", {"policy": pb.SCHED_BATCH, "nice": 5, "flags": [pb.SCHED_FLAG_RESET_ON_FORK]}),
    ("scheduler", {"policy": pb.SCHED_DEADLINE, "runtime": 1, "deadline": 2, "period": 3}),
    ("io_priority", {"class": pb.IOPRIO_CLASS_IDLE, "priority": 4}),
    ("rdt", {"clos_id": {"value": "a"}, "schemata": {"value": ["L3:0=f"]}, "enable_monitoring": {"value": True}}),
    ("seccomp_policy", {"default_action": "SCMP_ACT_ERRNO", "default_errno": {"value": 5}, "flags": ["SECCOMP_FILTER_FLAG_LOG"]}),
    ("seccomp_policy", {
        "default_action": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "listener_path": "/l",
        "listener_metadata": "m",
        "syscalls": [{
            "names": ["read"],
            "action": "SCMP_ACT_ERRNO",
            "errno_ret": {"value": 1},
            "args": [{"index": 1, "value": 2, "value_two": 3, "op": "SCMP_CMP_EQ"}],
        }],
    }),
    ("oom_score_adj", {"value": 999}),
]  # fmt: skip


@pytest.mark.parametrize(("member", "fields"), LINUX, ids=lambda value: str(value)[:30])
def test_what_is_set_is_seen(member: str, fields: dict[str, Any]) -> None:
    linux = pb.LinuxContainerAdjustment(**{member: fields})
    _, seen = adjusted(linux=linux)
    assert getattr(seen.linux, member) == getattr(linux, member)


def test_resources_are_seen() -> None:
    resources = pb.LinuxResources(
        memory={"limit": {"value": 9}, "swappiness": {"value": 60}, "disable_oom_killer": {"value": True}},
        cpu={"quota": {"value": -1}, "realtime_period": {"value": 7}, "cpus": "0-1", "mems": "0"},
        hugepage_limits=[{"page_size": "2MB", "limit": 4}],
        unified={"memory.high": "1"},
        devices=[{"allow": True, "type": "c", "major": {"value": 1}, "access": "r"}],
        pids={"limit": 0},
    )
    _, seen = adjusted(linux={"resources": resources})
    # The rule that comes first forbids all.
    first = seen.linux.resources.devices.pop(0)
    assert not first.allow
    # Without a swap limit of its own a memory limit allows no swap, where the kernel can tell.
    without, _ = adjusted(on=replace(HOST, swap=False), linux={"resources": resources})
    assert "swap" not in without["linux"]["resources"]["memory"]
    resources.memory.swap.value = 9
    assert seen.linux.resources == resources


def test_policies_of_memory_and_devices_of_networks() -> None:
    linux = {
        "memory_policy": {"mode": pb.MPOL_BIND, "nodes": "0", "flags": [pb.MPOL_F_STATIC_NODES]},
        "net_devices": {"eth9": {"name": "net0"}},
        "resources": {"rdt_class": {"value": "gold"}},
    }
    spec, seen = adjusted(linux=linux)
    assert spec["linux"]["memoryPolicy"] == {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    assert seen.linux.net_devices["eth9"].name == "net0"
    assert seen.linux.rdt.clos_id.value == "gold"


def test_an_empty_policy_takes_away() -> None:
    spec = default_spec()
    spec["process"] |= {"scheduler": {"policy": "SCHED_BATCH"}, "ioPriority": {"class": "IOPRIO_CLASS_BE"}}
    spec["linux"] |= {"intelRdt": {"closID": "x"}}
    spec["linux"]["resources"] |= {"blockIO": {"weight": 1}}
    nothing = pb.LinuxContainerAdjustment(
        scheduler={}, io_priority={}, rdt={"remove": True}, resources={"blockio_class": {}}
    )
    adjust.apply(spec, pb.ContainerAdjustment(linux=nothing), HOST)
    assert not {"scheduler", "ioPriority"} & spec["process"].keys()
    assert "intelRdt" not in spec["linux"]
    assert "blockIO" not in spec["linux"]["resources"]


def test_mounts_are_ordered_by_their_depth() -> None:
    mounts = [{"destination": "/dev/shm/x"}, {"destination": "/a"}, {"destination": "/proc", "source": "mine"}]
    spec, _ = adjusted(mounts=mounts)
    places = [mount["destination"] for mount in spec["mounts"]]
    assert places == ["/dev", "/sys", "/run", "/a", "/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/shm/x"]
    assert [mount["source"] for mount in spec["mounts"] if mount["destination"] == "/proc"] == ["mine"]


class TestWhatIsSeen:
    """Descriptions hold whatever a specification holds."""

    def test_the_default_profile(self) -> None:
        spec = default_spec()
        spec["linux"]["seccomp"] = seccomp.default_profile(list(DEFAULT))
        seen = describe.container(container(), spec)
        assert len(seen.linux.seccomp_policy.syscalls) == len(spec["linux"]["seccomp"]["syscalls"])

    def test_a_profile_of_another_form_is_left_out(self) -> None:
        spec = default_spec()
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read"}]}
        assert not describe.container(container(), spec).linux.HasField("seccomp_policy")

    def test_halves_of_characters(self) -> None:
        spec = default_spec(args=["a\ud800"])
        assert list(describe.container(container(), spec).args) == ["a?"]

    def test_without_a_specification(self) -> None:
        seen = describe.container(container(), None)
        assert (seen.id, dict(seen.annotations)) == ("c", {"own": "1"})
