"""`moorage_cri.nri.merge`: the rules by which the answers of several plugins become one."""

from __future__ import annotations

from typing import Any

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri.merge import Creation, Updates, merge_resources
from moorage_cri.nri.owners import Owners

ID = "c" * 64


def creation(**container: Any) -> Creation:
    return Creation(pb.CreateContainerRequest(container=pb.Container(id=ID, **container)))


def adjust(found: Creation, plugin: str, **fields: Any) -> None:
    found.apply(plugin, pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(**fields)))


SINGLE: list[dict[str, Any]] = [
    {"args": ["x"]},
    {"rlimits": [{"type": "RLIMIT_CORE"}]},
    {"CDI_devices": [{"name": "vendor.example/device=1"}]},
    {"annotations": {"a": "1"}},
    {"env": [{"key": "A"}]},
    {"mounts": [{"destination": "/a"}]},
    {"linux": {"devices": [{"path": "/dev/a"}]}},
    {"linux": {"namespaces": [{"type": "pid"}]}},
    {"linux": {"sysctl": {"net.a": "1"}}},
    {"linux": {"net_devices": {"eth1": {"name": "eth0"}}}},
    {"linux": {"cgroups_path": "/x"}},
    {"linux": {"oom_score_adj": {"value": 1}}},
    {"linux": {"io_priority": {"priority": 1}}},
    {"linux": {"scheduler": {"policy": pb.SCHED_BATCH}}},
    {"linux": {"memory_policy": {"mode": pb.MPOL_BIND}}},
    {"linux": {"seccomp_policy": {"default_action": "SCMP_ACT_ALLOW"}}},
    {"linux": {"rdt": {"clos_id": {"value": "x"}}}},
    {"linux": {"rdt": {"schemata": {"value": ["x"]}}}},
    {"linux": {"rdt": {"enable_monitoring": {"value": True}}}},
    {"linux": {"resources": {"memory": {"limit": {"value": 1}}}}},
    {"linux": {"resources": {"memory": {"disable_oom_killer": {"value": False}}}}},
    {"linux": {"resources": {"cpu": {"realtime_runtime": {"value": 0}}}}},
    {"linux": {"resources": {"cpu": {"cpus": "0"}}}},
    {"linux": {"resources": {"hugepage_limits": [{"page_size": "2MB"}]}}},
    {"linux": {"resources": {"unified": {"memory.high": "1"}}}},
    {"linux": {"resources": {"pids": {"limit": 1}}}},
    {"linux": {"resources": {"blockio_class": {"value": "x"}}}},
    {"linux": {"resources": {"rdt_class": {"value": "x"}}}},
]


@pytest.mark.parametrize("fields", SINGLE, ids=str)
def test_two_plugins_may_not_set_the_same(fields: dict[str, Any]) -> None:
    found = creation()
    adjust(found, "one", **fields)
    with pytest.raises(InvalidArgument, match=f"NRI plugins one and two both set .* of container {ID}"):
        adjust(found, "two", **fields)
    assert found.adjustment == pb.ContainerAdjustment(**fields)
    [owners] = found.owners.message().owners.values()
    assert [*owners.simple.values(), *(name for each in owners.compound.values() for name in each.owners.values())] == [
        "one"
    ]


def test_hooks_and_device_rules_are_added_up() -> None:
    found = creation(hooks={"poststop": [{"path": "/zero"}]})
    for plugin in ("one", "two"):
        adjust(
            found,
            plugin,
            hooks={"poststop": [{"path": f"/{plugin}"}]},
            linux={"resources": {"devices": [{"allow": True, "access": plugin}]}},
        )
    assert [hook.path for hook in found.adjustment.hooks.poststop] == ["/one", "/two"]
    assert [rule.access for rule in found.adjustment.linux.resources.devices] == ["one", "two"]
    assert found.owners.of(ID, pb.OciHooks) == {"": "one,two"}


REMOVABLE: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"annotations": {"a": "1"}}, {"annotations": {"-a": ""}}, {"annotations": {"a": "3"}}),
    ({"env": [{"key": "A", "value": "1"}]}, {"env": [{"key": "-A"}]}, {"env": [{"key": "A", "value": "3"}]}),
    ({"mounts": [{"destination": "/a"}]}, {"mounts": [{"destination": "-/a"}]}, {"mounts": [{"destination": "/a"}]}),
    (
        {"linux": {"devices": [{"path": "/a"}]}},
        {"linux": {"devices": [{"path": "-/a"}]}},
        {"linux": {"devices": [{"path": "/a"}]}},
    ),
    (
        {"linux": {"sysctl": {"a": "1"}}},
        {"linux": {"sysctl": {"-a": ""}}},
        {"linux": {"sysctl": {"a": "3"}}},
    ),
]


@pytest.mark.parametrize(("first", "removal", "third"), REMOVABLE, ids=str)
def test_who_takes_something_away_decides_on_it(
    first: dict[str, Any], removal: dict[str, Any], third: dict[str, Any]
) -> None:
    found = creation()
    adjust(found, "one", **first)
    adjust(found, "two", **removal)
    assert found.adjustment == pb.ContainerAdjustment(**removal)
    with pytest.raises(InvalidArgument, match="NRI plugins two and three both set"):
        adjust(found, "three", **third)
    adjust(found, "two", **third)


def test_the_container_that_later_plugins_see() -> None:
    request = pb.CreateContainerRequest(
        container=pb.Container(
            id=ID,
            args=["a"],
            env=["A=1", "B=1=2", "C=1"],
            mounts=[{"destination": "/a", "source": "old"}, {"destination": "/b"}],
            annotations={"x": "1", "y": "1"},
        )
    )
    found = Creation(request)
    adjust(
        found,
        "one",
        args=["b", "c"],
        env=[{"key": "-A"}, {"key": "B", "value": "new"}],
        mounts=[{"destination": "-/b"}, {"destination": "/a", "source": "new"}],
        annotations={"-x": "", "z": "1"},
        linux={"namespaces": [{"type": "-pid"}], "resources": {"memory": {"limit": {"value": 5}}}},
    )
    container = request.container
    assert list(container.args) == ["b", "c"]
    assert list(container.env) == ["C=1", "B=new"]
    assert [(each.destination, each.source) for each in container.mounts] == [("/a", "new")]
    assert dict(container.annotations) == {"y": "1", "z": "1"}
    assert container.linux.resources.memory.limit.value == 5


def test_rdt_may_be_taken_away_and_set_anew() -> None:
    found = creation()
    adjust(found, "one", linux={"rdt": {"clos_id": {"value": "x"}}})
    adjust(found, "two", linux={"rdt": {"remove": True, "schemata": {"value": ["L3:0=f"]}}})
    rdt = found.adjustment.linux.rdt
    assert (rdt.remove, rdt.HasField("clos_id"), list(rdt.schemata.value)) == (True, False, ["L3:0=f"])


def test_a_value_of_zero_is_a_value() -> None:
    into = pb.LinuxResources(cpu={"quota": {"value": 5}, "cpus": "0-1"})
    merge_resources(into, pb.LinuxResources(cpu={"quota": {"value": 0}}))
    assert into == pb.LinuxResources(cpu={"quota": {"value": 0}, "cpus": "0-1"})


def test_updates_of_one_container_become_one() -> None:
    updates = Updates(Owners())
    for plugin, resources, ignore in (
        ("one", {"cpu": {"shares": {"value": 2}}}, True),
        ("two", {"pids": {"limit": 3}}, False),
    ):
        update = pb.ContainerUpdate(container_id=ID, linux={"resources": resources}, ignore_failure=ignore)
        updates.apply(plugin, [update])
    [found] = updates.others
    assert found.linux.resources == pb.LinuxResources(cpu={"shares": {"value": 2}}, pids={"limit": 3})
    assert not found.ignore_failure
