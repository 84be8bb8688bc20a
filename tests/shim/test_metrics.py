"""Metrics, from folders with the files of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

from moorage_api.cgroups import v1 as metrics_v1
from moorage_api.cgroups import v2 as metrics_v2
from moorage_api.cgroups.flatfiles import UNLIMITED
from moorage_shim.cgroups import Cgroup, of_process

V2 = {
    "pids.current": "3\n",
    "pids.max": "max\n",
    "cpu.stat": "usage_usec 1200\nuser_usec 800\nsystem_usec 400\nnr_periods 5\nnr_throttled 2\nthrottled_usec 70\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.20 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
    "memory.stat": "anon 4096\nfile 8192\nworkingset_refault_file 12\nnot_known 1\n",
    "memory.current": "12288\n",
    "memory.max": "1048576\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\n",
    "io.stat": "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 6\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=max hca_object=5\n",
}
V1 = {
    "memory": {
        "memory.stat": "cache 10\nrss 20\npgpgin 3\ntotal_pgmajfault 9\nhierarchical_memsw_limit 77\nswap 5\n",
        "memory.usage_in_bytes": "30\n",
        "memory.limit_in_bytes": "40\n",
        "memory.max_usage_in_bytes": "35\n",
        "memory.failcnt": "1\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "cpuacct": {
        "cpuacct.usage": "5000\n",
        "cpuacct.usage_percpu": "2000 3000 \n",
        "cpuacct.stat": "user 2\nsystem 1\n",
    },
    "cpu": {"cpu.stat": "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n"},
    "pids": {"pids.current": "2\n", "pids.max": "100\n"},
    "blkio": {"blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 0\nTotal 4096\n"},
}


def fill(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_version_2(tmp_path: Path) -> None:
    metrics = metrics_v2.read(fill(tmp_path / "g", V2))
    assert (metrics.pids.current, metrics.pids.limit) == (3, 0)
    assert (metrics.cpu.usage_usec, metrics.cpu.nr_throttled) == (1200, 2)
    assert (metrics.cpu.psi.some.avg10, metrics.cpu.psi.full.total) == (1.5, 7)
    assert (metrics.memory.anon, metrics.memory.workingset_refault) == (4096, 12)
    assert (metrics.memory.usage, metrics.memory.usage_limit) == (12288, 1 << 20)
    assert metrics.memory.swap_limit == UNLIMITED
    assert (metrics.memory_events.oom, metrics.memory_events.oom_kill) == (3, 4)
    (io,) = metrics.io.usage
    assert (io.major, io.minor, io.rbytes, io.wios) == (8, 0, 100, 2)
    (pages,) = metrics.hugetlb
    assert (pages.pagesize, pages.current, pages.max, pages.failcnt) == ("2MB", 2 << 20, UNLIMITED, 6)
    assert metrics.rdma.current[0].hca_objects == 2000
    assert metrics.rdma.limit[0].hca_handles == 0xFFFFFFFF


def test_version_1(tmp_path: Path) -> None:
    metrics = metrics_v1.read(Cgroup({name: fill(tmp_path / name, files) for name, files in V1.items()}))
    memory = metrics.memory
    assert (memory.cache, memory.rss, memory.pg_pg_in, memory.total_pg_maj_fault) == (10, 20, 3, 9)
    assert memory.hierarchical_swap_limit == 77
    assert (memory.usage.usage, memory.usage.limit, memory.usage.max, memory.usage.failcnt) == (30, 40, 35, 1)
    assert not memory.HasField("kernel")
    assert metrics.memory_oom_control.oom_kill == 2
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert (metrics.cpu.usage.total, metrics.cpu.usage.user, metrics.cpu.usage.kernel) == (5000, 2 * tick, tick)
    assert list(metrics.cpu.usage.per_cpu) == [2000, 3000]
    assert metrics.cpu.throttling.throttled_periods == 3
    assert (metrics.pids.current, metrics.pids.limit) == (2, 100)
    entries = [(e.op, e.major, e.value) for e in metrics.blkio.io_service_bytes_recursive]
    assert entries == [("Read", 8, 4096), ("Write", 8, 0)]


def test_nothing_there_is_nothing_told(tmp_path: Path) -> None:
    assert metrics_v1.read(Cgroup()).ByteSize() == 0
    assert metrics_v2.read(str(tmp_path)).pids.current == 0


def test_the_group_that_one_shares_with_the_shim_is_not_the_container_s() -> None:
    """Or the shim could kill itself, and more."""
    assert of_process(os.getpid()).folders == {}
    assert of_process(1 << 22).folders == {}
