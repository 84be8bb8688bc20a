"""What pods and containers use, as the calls tell it and as the kernel counts it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from moorage_api import cgroups
from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2
from moorage_cri.stats import catalogue, network, processes, usage
from moorage_cri.stats.collector import Rates
from support.cri import CriClient, container_config, pod_config, until

V1 = {
    "memory": {
        "memory.stat": "total_cache 50\ntotal_rss 20\ntotal_inactive_file 30\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
        "memory.usage_in_bytes": "100\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.max_usage_in_bytes": "120\n",
        "memory.memsw.usage_in_bytes": "140\n",
        "memory.memsw.limit_in_bytes": "9223372036854771712\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    },
    "cpuacct": {"cpuacct.usage": "5000\n", "cpuacct.stat": "user 2\nsystem 1\n"},
    "cpu": {"cpu.stat": "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n"},
    "pids": {"pids.current": "2\n", "pids.max": "100\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n",
        "blkio.throttle.io_serviced": "8:0 Read 2\n8:0 Write 1\n8:0 Total 3\nTotal 3\n",
    },
}
V2 = {
    "memory.stat": "anon 20\nfile 50\ninactive_file 30\npgfault 7\npgmajfault 2\n",
    "memory.current": "100\n",
    "memory.max": "400\n",
    "memory.peak": "120\n",
    "memory.swap.current": "40\n",
    "memory.swap.max": "60\n",
    "memory.events": "max 1\noom_kill 3\n",
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.20 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
    "io.stat": "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n",
    "pids.current": "2\n",
    "pids.max": "max\n",
}
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    3    4    0     0          0         0     5000      50    6    7    0     0       0          0
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 4096                 files
Max cpu time              unlimited            unlimited            seconds
"""


def _fill(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_a_group_of_version_1(tmp_path: Path) -> None:
    group = cgroups.Group({name: _fill(tmp_path / name, files) for name, files in V1.items()})
    found = usage.read(group)
    memory = found.memory
    assert (memory.usage, memory.working_set, memory.rss, memory.cache, memory.peak) == (100, 70, 20, 50, 120)
    assert (memory.limit, memory.available, memory.swap, memory.swap_limit) == (0, 0, 40, 0)
    assert (memory.page_faults, memory.major_page_faults, memory.oom_kills) == (7, 2, 3)
    assert (found.cpu.total, found.cpu.periods, found.cpu.throttled_periods, found.cpu.throttled) == (5000, 4, 3, 2)
    assert (found.threads, found.threads_limit) == (2, 100)
    assert found.devices == (usage.DeviceIo(8, 0, 4096, 512, 2, 1),)
    assert found.pressure == {}


def test_a_group_of_version_2(tmp_path: Path) -> None:
    found = usage.read(cgroups.Group({"": _fill(tmp_path / "group", V2)}))
    memory = found.memory
    assert (memory.usage, memory.working_set, memory.rss, memory.cache, memory.peak) == (100, 70, 20, 50, 120)
    assert (memory.limit, memory.available, memory.swap, memory.swap_limit) == (400, 330, 40, 60)
    assert (memory.page_faults, memory.failures, memory.oom_kills) == (7, 1, 3)
    assert (found.cpu.total, found.cpu.user, found.cpu.throttled) == (5000, 3000, 2000)
    assert (found.threads, found.threads_limit) == (2, 0)
    assert found.devices == (usage.DeviceIo(8, 0, 4096, 512, 2, 1),)
    assert (found.pressure["cpu"].Some.Avg10, found.pressure["cpu"].Full.Total) == (1.5, 7)


def test_interfaces_and_limits() -> None:
    assert network.parse(NET_DEV) == [network.Interface("eth0", 2000, 20, 3, 4, 5000, 50, 6, 7)]
    assert processes.limits(LIMITS) == {"max_open_files": 1024, "max_cpu_time": processes.UNLIMITED}
    assert processes.limits("") == {}


def test_rates_need_two_readings_a_second_apart() -> None:
    rates, second = Rates(), 1_000_000_000
    assert rates.add("a", 0, 0) is None
    assert rates.add("a", second // 2, 5) is None
    assert rates.add("a", 2 * second, second) == second // 2
    assert rates.add("a", 2 * second + 1, 2 * second) == second // 2
    assert rates.add("a", 4 * second, 0) is None
    rates.keep(set())
    assert rates.add("a", 9 * second, 7) is None


def test_container_stats_are_those_of_the_kernel(
    cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str
) -> None:
    script = "dd if=/dev/zero of=/written bs=1M count=8 2>/dev/null; while :; do :; done"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, labels={"which": "busy"}))
    first = cri.ContainerStats(container_id=container).stats
    assert first.attributes.id == container
    assert first.attributes.labels == {"which": "busy"}
    time.sleep(1.1)
    stats = cri.ContainerStats(container_id=container).stats
    used = stats.cpu.usage_core_nano_seconds.value - first.cpu.usage_core_nano_seconds.value
    elapsed = stats.cpu.timestamp - first.cpu.timestamp
    assert 0 < used <= 1.1 * elapsed
    assert stats.cpu.usage_nano_cores.value == pytest.approx(used * 1_000_000_000 / elapsed, rel=0.01)
    assert 0 < stats.memory.working_set_bytes.value <= stats.memory.usage_bytes.value
    assert [each.attributes.id for each in _listed(cri, label_selector={"which": "busy"})] == [container]
    assert _listed(cri, label_selector={"which": "idle"}) == []
    cri.stop(container)
    assert _listed(cri) == []
    ended = cri.ContainerStats(container_id=container).stats
    assert not ended.HasField("cpu")
    assert ended.HasField("writable_layer")


def test_what_is_told_is_within_a_hundredth_of_the_control_group(
    cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str
) -> None:
    script = "head -c 50000000 /dev/zero > /written; md5sum /written; echo ready > /ready; exec sleep 1000"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script))
    until(lambda: cri.execute(container, "cat", "/ready").exit_code == 0)
    info = json.loads(cri.ContainerStatus(container_id=container, verbose=True).info["info"])
    found = usage.read(cgroups.locate(info["pid"]))
    stats = cri.ContainerStats(container_id=container).stats
    assert found.memory.usage > 50_000_000
    assert stats.memory.usage_bytes.value == pytest.approx(found.memory.usage, rel=0.01)
    assert stats.memory.working_set_bytes.value == pytest.approx(found.memory.working_set, rel=0.01, abs=1 << 20)
    assert stats.cpu.usage_core_nano_seconds.value == pytest.approx(found.cpu.total, rel=0.01)


def test_the_writable_layer_is_what_du_counts(
    cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str
) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    cri.execute(container, "dd", "if=/dev/zero", "of=/written", "bs=1M", "count=16")
    size = int(cri.execute(container, "du", "-sk", "/written").stdout.split()[0]) * 1024
    # The first measurement comes with the first question.
    layer = cri.ContainerStats(container_id=container).stats.writable_layer
    assert layer.used_bytes.value == pytest.approx(size, rel=0.01)
    assert layer.fs_id.mountpoint.startswith("/")
    assert layer.inodes_used.value >= 1


def test_pod_stats(cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str) -> None:
    containers = {
        cri.start(*pod, container_config(busybox, "sh", "-c", "sleep 1000 & wait", name=name)) for name in "ab"
    }

    def read() -> cri_pb2.LinuxPodSandboxStats:
        return cri.PodSandboxStats(pod_sandbox_id=pod[0]).stats.linux

    until(lambda: read().process.process_count.value == 4)
    linux = read()
    assert {each.attributes.id for each in linux.containers} == containers
    assert linux.cpu.usage_core_nano_seconds.value > 0
    assert linux.memory.working_set_bytes.value > 0
    assert linux.network.default_interface.name == "eth0"
    listed = cri.ListPodSandboxStats(filter={"id": pod[0]}).stats
    assert [each.attributes.id for each in listed] == [pod[0]]
    assert list(cri.ListPodSandboxStats(filter={"label_selector": {"no": "such"}}).stats) == []


def test_every_metric_is_described_and_told(
    cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str
) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    described = {each.name: list(each.label_keys) for each in cri.ListMetricDescriptors().descriptors}
    assert set(described) == {each.name for each in (*catalogue.CONTAINER, *catalogue.POD)}
    (found,) = cri.ListPodSandboxMetrics().pod_metrics
    (of_container,) = found.container_metrics
    assert (found.pod_sandbox_id, of_container.container_id) == (pod[0], container)
    for metric in (*found.metrics, *of_container.metrics):
        assert len(metric.label_values) == len(described[metric.name]), metric.name
    values = {metric.name: metric.value.value for metric in of_container.metrics}
    assert values["container_processes"] == values["container_threads"] == 1
    assert values["container_file_descriptors"] >= 3
    assert values["container_memory_working_set_bytes"] > 0
    assert "container_network_receive_bytes_total" in {metric.name for metric in found.metrics}


def test_streams_have_what_lists_have(cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    assert [each.id for part in cri.StreamPodSandboxes() for each in part.pod_sandboxes] == [pod[0]]
    assert [each.id for part in cri.StreamContainers() for each in part.containers] == [container]
    assert [each.attributes.id for part in cri.StreamContainerStats() for each in part.container_stats] == [container]
    assert [each.attributes.id for part in cri.StreamPodSandboxStats() for each in part.pod_sandbox_stats] == [pod[0]]
    assert [each.pod_sandbox_id for part in cri.StreamPodSandboxMetrics() for each in part.pod_sandbox_metrics] == [
        pod[0]
    ]
    images = [each.id for part in cri.StreamImages() for each in part.images]
    assert images == [each.id for each in cri.ListImages().images]


def test_limits_are_changed_while_it_runs(
    cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig], busybox: str
) -> None:
    config = container_config(busybox, "sleep", "1000")
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    container = cri.start(*pod, config)
    cri.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 96 << 20, "cpu_shares": 512})
    stats = cri.ContainerStats(container_id=container).stats
    assert stats.memory.available_bytes.value + stats.memory.working_set_bytes.value == 96 << 20
    resources = cri.status(container).resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_shares) == (96 << 20, 512)
    with pytest.raises(MoorageError, match="negative"):
        cri.UpdateContainerResources(container_id=container, linux={"cpu_shares": -1})
    cri.stop(container)
    with pytest.raises(MoorageError, match="has ended"):
        cri.UpdateContainerResources(container_id=container, linux={"cpu_shares": 1024})


def test_the_resources_of_a_pod_are_noted(cri: CriClient, pod: tuple[str, cri_pb2.PodSandboxConfig]) -> None:
    cri.UpdatePodSandboxResources(pod_sandbox_id=pod[0], resources={"cpu_shares": 256}, overhead={"cpu_quota": 1000})
    info = cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"]
    assert '"cpu_shares": "256"' in info
    cri.stop_pod(pod[0])
    with pytest.raises(MoorageError, match="not ready"):
        cri.UpdatePodSandboxResources(pod_sandbox_id=pod[0], resources={"cpu_shares": 1})


@pytest.fixture
def pod(cri: CriClient) -> tuple[str, cri_pb2.PodSandboxConfig]:
    config = pod_config()
    return cri.run_pod(config), config


def _listed(cri: CriClient, **wanted: object) -> list[cri_pb2.ContainerStats]:
    return list(cri.ListContainerStats(filter=wanted).stats)
