"""What pods and containers use, as the kernel counts it: read from folders with its files."""

from __future__ import annotations

from pathlib import Path

from moorage_api import cgroups
from moorage_cri.stats import network, processes, usage
from moorage_cri.stats.collector import Rates

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
