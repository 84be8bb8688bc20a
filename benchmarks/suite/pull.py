"""Pulls: fetch, verify, unpack and commit, by CRI's PullImage on both sides, from a registry on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from isal import igzip

from mooraged.differ.targets import enter_private_mounts
from suite.layers import STORE, BenchImage, Layer, publish
from suite.report import Comparison, Report
from support.cri import CriClient
from support.daemon import Daemon
from support.images import MANIFEST
from support.leftovers import tagged_processes
from support.measure import pss
from support.peer import Peer
from support.registry import Registry

_MIB = 1 << 20
ROUNDS = 5
"""Each side is measured this often, in turns (A B A B)."""
LATENCY_ROUNDS = 4
"""The same for the latencies during a pull: a percentile of what is rare takes more samples."""
PULL_SECONDS = 600
_SAMPLE_SECONDS = 0.1
_DISK_SIZE = 4 << 30
_TICKS = os.sysconf("SC_CLK_TCK")
_BODY = re.compile(rb'"GET /v2/[^"]*/blobs/[^"]*" (?:200|206) (\d+)')
_DEBIAN = Layer("debian", 10_000, 200 * _MIB)
_SMALL = BenchImage("small", [Layer("small", 10, _MIB)])
_TEN = tuple(Layer(f"part-{number}", 400, 50 * _MIB) for number in range(10))


@dataclass(frozen=True)
class Case:
    """A row group of the report: images that are pulled at once, and the ratio that is aimed for."""

    name: str
    images: Sequence[BenchImage]
    target: float | None = None


CASES = (
    Case("(a) 200 MB root", [BenchImage("debian", [_DEBIAN])], 0.5),
    Case("(b) ten layers of 50 MB", [BenchImage("ten", _TEN)], 0.5),
    Case("(c) 100,000 files", [BenchImage("many", [Layer("many", 100_000, 100 * _MIB)])], 0.8),
    Case("(d) 200 MB root, zstd", [BenchImage("debian-zstd", [_DEBIAN], "zstd")]),
    Case("(d) ten layers, zstd", [BenchImage("ten-zstd", _TEN, "zstd")]),
    Case(
        "(e) ten images that share layers",
        [BenchImage(f"shared-{n}", [*_TEN[:3], Layer(f"own-{n}", 100, 5 * _MIB)]) for n in range(10)],
    ),
)


@dataclass
class Sample:
    """What one pull took."""

    seconds: float
    cpu: float
    memory: float
    fetched: float


@dataclass
class Side:
    """One of the two daemons under test, and what was measured of it."""

    name: str
    start: Callable[[Path], Daemon | Peer]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


class Load:
    """What the processes of a daemon use while the context lasts: CPU seconds, and the most memory (PSS, MiB)."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load")
        self.memory = 0.0
        self.cpu = 0.0

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            total = 0
            for pid in tagged_processes(self._tag):
                with contextlib.suppress(OSError, ValueError):
                    total += pss(pid)
            self.memory = max(self.memory, total / _MIB)

    def __enter__(self) -> Load:
        self.cpu = -_cpu_seconds(self._tag)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += _cpu_seconds(self._tag)
        self._stop.set()
        self._thread.join()


def _cpu_seconds(tag: str) -> float:
    """User and system time of the processes there are, and of their children that have ended."""
    total = 0
    for pid in tagged_processes(tag):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            total += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:15]))
    return total / _TICKS


def _fetched(log: Path, start: int) -> int:
    """Bytes of blobs that the registry's access log tells of since the byte `start` of it."""
    with log.open("rb") as file:
        file.seek(start)
        return sum(map(int, _BODY.findall(file.read())))


@dataclass
class Bench:
    """The registry and the two sides. Every sample has a daemon and an empty file system of its own."""

    registry: Registry
    disk: Disk
    sides: tuple[Side, Side]

    def measure(self, side: Side, case: Case) -> None:
        """Pull the images of a case at once, and keep what it took."""
        log = self.registry.folder / "log"
        references = [self._reference(image) for image in case.images]
        with self._ready(side) as (daemon, client):
            start = log.stat().st_size
            with Load(daemon.tag) as load, ThreadPoolExecutor(len(references)) as pulls:
                begun = time.perf_counter()
                for _ in pulls.map(lambda reference: _pull(client, reference), references):
                    pass
                seconds = time.perf_counter() - begun
            sample = Sample(seconds, load.cpu, load.memory, _fetched(log, start) / _MIB)
        side.samples.setdefault(case.name, []).append(sample)

    def latencies(self, side: Side, case: Case) -> None:
        """How long Version takes on an idle daemon, and while a pull runs."""
        with self._ready(side) as (daemon, client):
            side.idle += _versions(daemon.address, lambda: time.sleep(2))
            side.busy += _versions(daemon.address, lambda: _pull(client, self._reference(case.images[0])))

    def latencies_beside(self, side: Side, case: Case) -> None:
        """The same of a second daemon, which has nothing to do: what the machine makes of a call while it is that busy."""
        with self._ready(side) as (daemon, client), side.start(daemon.folder / "beside") as idle:
            _versions(idle.address, lambda: time.sleep(1))
            side.beside += _versions(idle.address, lambda: _pull(client, self._reference(case.images[0])))

    @contextlib.contextmanager
    def _ready(self, side: Side) -> Iterator[tuple[Daemon | Peer, CriClient]]:
        """A daemon that has pulled a small image: its processes run, and what it imports late is imported."""
        with ExitStack() as stack:
            folder = stack.enter_context(self.disk.empty())
            daemon = stack.enter_context(side.start(folder))
            client = stack.enter_context(CriClient(daemon.address, timeout=PULL_SECONDS))
            client.wait_ready()
            _pull(client, self._reference(_SMALL))
            os.sync()
            yield daemon, client

    def _reference(self, image: BenchImage) -> str:
        return f"{self.registry.address}/{image.repository}:latest"


def _pull(client: CriClient, reference: str) -> None:
    client.PullImage(image={"image": reference})


def _versions(address: str, work: Callable[[], None]) -> list[float]:
    """The durations of Version calls, one every 5 ms, made by a process of its own while `work` runs."""
    command = [sys.executable, "-m", "suite.versions", address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()  # it has connected
        work()
        printed, _ = caller.communicate("")
    return [float(line) for line in printed.split()]


class Disk:
    """A disk for the samples: a file written once from end to end, so that its blocks are there, behind a loop device
    that keeps no second copy in memory. What is measured is the disk of the machine, not the making of a sparse file.

    This process gets mounts of its own: what other programs start meanwhile would keep a copy of them, and the disk busy.
    """

    def __init__(self, folder: Path) -> None:
        self._image = folder / "image"
        self._point = folder / "m"
        self._device = ""

    def __enter__(self) -> Disk:
        enter_private_mounts()
        self._point.mkdir()
        noise = os.urandom(_MIB)
        with self._image.open("wb", buffering=0) as file:
            for _ in range(_DISK_SIZE // _MIB):
                file.write(noise)
            os.fsync(file.fileno())
            # Every write to the device would look for what the kernel still keeps of the file, in a thread of its own.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        attach = ["losetup", "--direct-io=on", "--find", "--show", self._image]
        self._device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["losetup", "--detach", self._device], check=True)

    @contextlib.contextmanager
    def empty(self) -> Iterator[Path]:
        """A folder on a new ext4 file system: ext4 is slow to make files where others were removed a moment ago, and
        would measure the samples before."""
        options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-i", "8192", "-E", options, self._device], check=True)
        subprocess.run(["mount", self._device, self._point], check=True)
        try:
            folder = self._point / "d"
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            subprocess.run(["umount", self._point], check=True)


def _percentile(values: Sequence[float], portion: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * portion))]


@contextlib.contextmanager
def _bench(cases: Sequence[Case]) -> Iterator[Bench]:
    with ExitStack() as stack:
        STORE.mkdir(exist_ok=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="disk-", dir="/tmp"))
        disk = stack.enter_context(Disk(Path(folder)))
        registry = stack.enter_context(Registry(STORE))
        for image in (_SMALL, *(image for case in cases for image in case.images)):
            publish(registry.address, image)
        yield Bench(
            registry,
            disk,
            (
                Side("Moorage", lambda folder: Daemon(folder=folder, log_level="info")),
                Side("containerd", lambda folder: Peer(folder=folder)),
            ),
        )


@dataclass
class Limits:
    """What the machine needs for each part of the work on the 200 MB root alone, in seconds: fetching the blob to a file,
    hashing both forms, inflating, extracting (GNU tar, from memory) and syncing blob and files."""

    fetch: float
    sha256: float
    inflate: float
    tar: float
    sync: float

    def shares(self, wall: float) -> str:
        """Each of them, and how much it is of a pull that took `wall` seconds."""
        together = {**vars(self), "together": sum(vars(self).values())}
        return ", ".join(f"{name} {seconds:.2f} s ({seconds / wall:.0%})" for name, seconds in together.items())


class _Watch:
    """Seconds since the last time that it was read."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        since, self._since = self._since, time.perf_counter()
        return self._since - since


def _limits(disk: Disk, registry: str, image: BenchImage) -> Limits:
    base = f"http://{registry}/v2/{image.repository}"
    accept = urllib.request.Request(f"{base}/manifests/latest", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(accept) as response:
        digest = json.load(response)["layers"][0]["digest"]
    with disk.empty() as folder:
        (folder / "root").mkdir()
        tar = _DEBIAN.tar()
        os.sync()
        watch = _Watch()
        with urllib.request.urlopen(f"{base}/blobs/{digest}") as response, (folder / "layer").open("wb") as file:
            shutil.copyfileobj(response, file, _MIB)
        fetch = watch.lap()
        hashlib.sha256((folder / "layer").read_bytes())
        hashlib.sha256(tar)
        sha256 = watch.lap()
        with igzip.open(folder / "layer") as file:
            while file.read(_MIB):
                pass
        inflate = watch.lap()
        subprocess.run(["tar", "-xf", "-", "-C", folder / "root"], input=tar, check=True)
        extract = watch.lap()
        subprocess.run(["sync", "--file-system", folder], check=True)
        return Limits(fetch, sha256, inflate, extract, watch.lap())


def run(names: str = os.environ.get("PULL_CASES", "")) -> Report:
    """All cases, or those whose name begins with one of the letters in `PULL_CASES`."""
    cases = [case for case in CASES if not names or case.name[1] in names]
    with _bench(cases) as bench:
        limits = _limits(bench.disk, bench.registry.address, cases[0].images[0]) if cases[0] is CASES[0] else None
        for case in cases:
            for _ in range(ROUNDS):
                for side in bench.sides:
                    bench.measure(side, case)
        for _ in range(LATENCY_ROUNDS):
            for side in bench.sides:
                bench.latencies(side, cases[0])
                bench.latencies_beside(side, cases[0])
        wall = statistics.median(sample.seconds for sample in bench.sides[0].samples[cases[0].name])
        return _report(bench, cases, limits.shares(wall) if limits else "")


def _report(bench: Bench, cases: Sequence[Case], limits: str) -> Report:
    moorage, peer = bench.sides
    report = Report(
        "Pulls",
        "CRI's PullImage on both sides, unpacking included; registry on the same machine; "
        f"{ROUNDS} rounds that alternate, each with a daemon that has pulled a small image, on an empty ext4. Both sync each "
        "blob before they give it its name. Moorage also brings the unpacked files to disk before it answers, all it has "
        "acknowledged survives a power cut; containerd does not. CPU and memory: all processes of the daemon. p99 of "
        "Version during a pull: at most twice that of the idle daemon is aimed for; beside it, what a second daemon takes that "
        "has nothing to do meanwhile, but the same two processors."
        + (
            limits
            and f" What the work of (a) takes alone, one after the other, and its share of Moorage's wall: {limits}."
        ),
    )
    for case in cases:
        ours, theirs = moorage.samples[case.name], peer.samples[case.name]
        for label, unit, part in (
            ("wall", "s", "seconds"),
            ("CPU", "s", "cpu"),
            ("peak memory", "MiB", "memory"),
            ("fetched", "MiB", "fetched"),
        ):
            values = [[getattr(sample, part) for sample in samples] for samples in (ours, theirs)]
            target = case.target if part == "seconds" else None
            report.rows.append(Comparison(f"{case.name}: {label}", unit, *values, target=target))
    for label, which in (("idle", "idle"), ("during a pull", "busy"), ("of an idle daemon beside a pull", "beside")):
        p99 = [[_percentile(getattr(side, which), 0.99) * 1e3] for side in bench.sides]
        report.rows.append(Comparison(f"p99 of Version, {label}", "ms", *p99))
    ratios = [_percentile(side.busy, 0.99) / _percentile(side.idle, 0.99) for side in bench.sides]
    report.rows.append(Comparison("p99 of Version, during by idle", "", [ratios[0]], [ratios[1]]))
    return report
