"""The Container Runtime Interface: the life of pods and containers, lists, bursts, weight and logs, against containerd."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from moorage import cri
from moorage.cri import v1
from suite.report import Comparison, Report
from support.daemon import Daemon
from support.images import ImageSpec, push
from support.measure import Timings, pss, shim_weights
from support.peer import Peer
from support.registry import Registry

T = TypeVar("T")

RUNTIME = "runc"
ROUNDS, PODS, EXECS = 4, 4, 4
LISTS = (10, 100, 1000)
LIST_CALLS = 20
BURST = 50
LOG_ROUNDS, LOG_BYTES, LINE = 2, 96 << 20, 100
# Between the last call and the weighing: what a shim had to do is then done.
SETTLE_SECONDS = 5
SHIMS = ("moorage-shim", "containerd-shim-runc-v2")
_LIFE = (
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
)


@dataclass
class Side:
    """One of the two daemons under test, and what was measured of it."""

    daemon: Daemon | Peer
    client: cri.Client
    image: str
    folder: Path
    timings: dict[str, Timings] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    listed: int = 0

    def time(self, operation: str, call: Callable[[], T]) -> T:
        return self.timings.setdefault(operation, Timings()).time(call)

    def run_pod(self, config: v1.PodSandboxConfig) -> str:
        # The peer's handler `runc` is its default, too.
        return self.client.run_pod(config, RUNTIME)

    def lives(self, count: int) -> None:
        """Pods with a network and one container each, from nothing to nothing, one after the other."""
        client, time = self.client, self.time
        for number in range(count):
            config = cri.pod_config(host_port=20000 + number, log_directory=self.folder / "logs")
            pod = time("RunPodSandbox", lambda config=config: self.run_pod(config))  # type: ignore[misc]
            wanted = cri.container_config(self.image, "sleep", "1000", log_path=f"{number}.log")
            container = time("CreateContainer", lambda: client.create(pod, config, wanted))  # noqa: B023
            time("StartContainer", lambda: client.StartContainer(container_id=container))  # noqa: B023
            for _ in range(EXECS):
                time("ExecSync", lambda: client.execute(container, "true"))  # noqa: B023
            time("StopContainer", lambda: client.stop(container))  # noqa: B023
            time("RemoveContainer", lambda: client.remove(container))  # noqa: B023
            time("network", lambda: self._stop_pod(pod))  # noqa: B023
            time("RemovePodSandbox", lambda: client.remove_pod(pod))  # noqa: B023
            self._add_up()

    def _stop_pod(self, pod: str) -> None:
        """StopPodSandbox, and then until nothing of the pod's network is left: containerd does that within the call,
        Moorage after it, and what is left must not be the next pod's burden."""
        self.time("StopPodSandbox", lambda: self.client.stop_pod(pod))
        if isinstance(self.daemon, Daemon):
            namespace = self.daemon.state / "io.containerd.grpc.v1.cri/netns" / pod
            while namespace.exists():
                time.sleep(0.001)

    def _add_up(self) -> None:
        """What the pod's calls took together, and with all of its network taken down."""
        last = {name: timings.seconds[-1] for name, timings in self.timings.items()}
        whole = sum(last[name] for name in _LIFE)
        self.timings.setdefault("life", Timings()).seconds.append(whole)
        self.timings.setdefault("all", Timings()).seconds.append(whole - last["StopPodSandbox"] + last["network"])

    def _addresses(self) -> Path:
        """Where the allocator keeps a file for each address that is taken."""
        return self.daemon.folder / "cni/ipam" / self.daemon.network.bridge

    def burst(self, *, weigh: bool) -> None:
        """Pods with a network, all at once; then their weight."""
        configs = [cri.pod_config(host_port=21000 + number) for number in range(BURST)]
        with ThreadPoolExecutor(BURST) as pool:
            pods = self.time("burst", lambda: list(pool.map(self.run_pod, configs)))
            if weigh:
                time.sleep(SETTLE_SECONDS)
                self.weigh(pods)
            list(pool.map(self.client.stop_pod, pods))
            list(pool.map(self.client.remove_pod, pods))
        # What goes on in the background is not to be the other side's burden.
        while list(self._addresses().glob("10.*")):
            time.sleep(0.05)

    def weigh(self, pods: list[str]) -> None:
        """A pod is its shim and, where there is one, the process of its pause container."""
        weight = sum(shim_weights(self.daemon.tag, SHIMS))
        if isinstance(self.daemon, Peer):
            for pod in pods:
                answer = self.client.PodSandboxStatus(pod_sandbox_id=pod, verbose=True)
                weight += pss(int(json.loads(answer.info["info"])["pid"]))
        self.weights = [weight / len(pods) / 2**20]

    def fill(self, config: v1.PodSandboxConfig, pod: str, count: int) -> None:
        """Make containers until there are so many: records and snapshots, not started."""
        missing = range(self.listed, count)

        def create(number: int) -> str:
            wanted = cri.container_config(
                self.image, "sleep", "1000", name=f"listed-{number}", labels={"n": str(number)}
            )
            return self.client.create(pod, config, wanted)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, missing))
        self.listed = count

    def lists(self, count: int) -> None:
        for _ in range(LIST_CALLS):
            found = self.time(f"list {count}", self.client.ListContainers).containers
            if len(found) != count:
                raise RuntimeError(f"{len(found)} of {count} containers are listed")

    def logs(self, lines: Path) -> None:
        """A container writes lines as fast as they are taken: from its start until it has ended and all are in the log."""
        config = cri.pod_config(network=v1.NODE, log_directory=self.folder)
        pod = self.run_pod(config)
        mount = v1.Mount(host_path=str(lines), container_path="/lines", readonly=True)
        wanted = cri.container_config(self.image, "cat", "/lines", log_path="throughput.log", mounts=[mount])
        container = self.client.create(pod, config, wanted)
        self.time("logs", lambda: self._run(container))
        log = self.folder / "throughput.log"
        with log.open("rb") as file:
            found = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
        if found != LOG_BYTES // LINE:
            raise RuntimeError(f"{found} of {LOG_BYTES // LINE} lines are in the log")
        log.unlink()
        self.client.stop_pod(pod)
        self.client.remove_pod(pod)

    def _run(self, container: str) -> None:
        self.client.StartContainer(container_id=container)
        while self.client.status(container).state != v1.CONTAINER_EXITED:
            time.sleep(0.005)


def _sides(stack: ExitStack) -> Iterator[Side]:
    registry = stack.enter_context(Registry(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    push(registry.address, "library/busybox", "latest")
    push(registry.address, "pause", "3.9", ImageSpec(config={"Entrypoint": ["/bin/sleep", "1000000"]}))
    image = f"{registry.address}/library/busybox:latest"
    for daemon in (Daemon(log_level="info"), Peer(f"{registry.address}/pause:3.9", RUNTIME)):
        running = stack.enter_context(daemon)
        client = stack.enter_context(cri.Client(running.address))
        client.wait_ready()
        client.pull(image)
        yield Side(running, client, image, running.folder / "bench")


def measure(sides: list[Side], lines: Path) -> None:
    """Every operation on both sides, in rounds that alternate."""
    for side in sides:  # caches of both warm: these are not counted
        side.folder.mkdir()
        side.lives(1)
        side.timings.clear()
    for _ in range(ROUNDS):
        for side in sides:
            side.lives(PODS)
    for weigh in (True, False):
        for side in sides:
            side.burst(weigh=weigh)
    for _ in range(LOG_ROUNDS):
        for side in sides:
            side.logs(lines)
    configs = [cri.pod_config(network=v1.NODE) for _ in sides]
    pods = [side.run_pod(config) for side, config in zip(sides, configs, strict=True)]
    for count in LISTS:
        for side, config, pod in zip(sides, configs, pods, strict=True):
            side.fill(config, pod, count)
        for _ in range(2):
            for side in sides:
                side.lists(count)


def run() -> Report:
    """All of it, and the report."""
    with ExitStack() as stack:
        lines = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "lines"
        lines.write_bytes((b"x" * (LINE - 1) + b"\n") * (LOG_BYTES // LINE))
        sides = list(_sides(stack))
        measure(sides, lines)
    report = Report(
        "The Container Runtime Interface",
        f"Both sides run {RUNTIME}; CNI is bridge and portmap with one host port, on a bridge of its own each; one client "
        f"in Python for both; rounds alternate, warm-ups are not counted. Life: {ROUNDS * PODS} pods with one container "
        f"each, one after the other, the next when nothing of the last one's network is left; StopContainer without a grace "
        "period, StopPodSandbox without containers. Life cycle: the sum of the seven calls that every pod goes through. Burst: "
        f"RunPodSandbox of {BURST} pods at once, until the last is ready. PSS: from smaps_rollup, {SETTLE_SECONDS} s after "
        "the burst, of a shim, all that it has forked for its own work, and a pause container's process. Lists: of "
        "containers that are made and not started, 10, 100, 1,000 in one pod, all of them real. Logs: "
        f"{LOG_BYTES >> 20} MiB in lines of {LINE} bytes from `cat`, from StartContainer until the container has ended and "
        "every line is in its log.",
    )
    rows: list[tuple[str, str, float, str, float | None]] = [
        ("life", "Pod and container life cycle, all seven calls", 1e3, "ms", 0.5),
        ("all", "… and until the network is taken down", 1e3, "ms", None),
    ]
    rows += [(name, name, 1e3, "ms", 0.5) for name in (*_LIFE, "ExecSync")]
    rows.append(("network", "StopPodSandbox until the network is taken down", 1e3, "ms", None))
    rows += [(f"list {count}", f"ListContainers, {count:,}", 1e3, "ms", 1.0) for count in LISTS]
    rows.append(("burst", f"Burst of {BURST} pods", 1.0, "s", 0.5))
    rows.append(("logs", f"{LOG_BYTES >> 20} MiB of log lines", 1.0, "s", 0.33))
    for key, title, scale, unit, target in rows:
        ours, theirs = ([seconds * scale for seconds in side.timings[key].seconds] for side in sides)
        report.rows.append(Comparison(title, unit, ours, theirs, target=target))
    report.rows.append(Comparison("PSS of a pod", "MiB", sides[0].weights, sides[1].weights, target=0.25))
    return report
