"""Pods: how long RunPodSandbox takes with a bridge and port mappings, and what a shim weighs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from suite.report import Comparison, Report
from support.cri import CriClient, pod_config
from support.daemon import Daemon
from support.images import ImageSpec, push
from support.measure import Timings, shim_weights
from support.peer import Peer
from support.registry import Registry

PODS = 20
ROUNDS = 4
# Between the last call and the weighing: what a shim had to do is then done.
SETTLE_SECONDS = 5
SHIMS = ("moorage-shim", "containerd-shim-runc-v2")


@dataclass
class Side:
    """One of the two daemons under test, and what was measured of it."""

    name: str
    daemon: Daemon | Peer
    client: CriClient
    run: Timings = field(default_factory=Timings)
    stop: Timings = field(default_factory=Timings)
    remove: Timings = field(default_factory=Timings)
    shims: list[float] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)

    def start_pods(self, count: int) -> None:
        for _ in range(count):
            number = len(self.pods)
            config = pod_config(f"bench-{number}", host_port=20000 + number)
            self.pods.append(self.run.time(lambda config=config: self.client.run_pod(config)))  # type: ignore[misc]

    def weigh(self) -> None:
        self.shims = [weight / 2**20 for weight in shim_weights(self.daemon.tag, SHIMS)]

    def stop_pods(self) -> None:
        for pod in self.pods:
            self.stop.time(lambda pod=pod: self.client.stop_pod(pod))  # type: ignore[misc]
            self.remove.time(lambda pod=pod: self.client.remove_pod(pod))  # type: ignore[misc]


def _sides(stack: ExitStack) -> Iterator[Side]:
    registry = stack.enter_context(Registry(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    push(registry.address, "pause", "3.9", ImageSpec(config={"Entrypoint": ["/bin/sleep", "1000000"]}))
    for name, daemon in (("Moorage", Daemon(log_level="info")), ("containerd", Peer(f"{registry.address}/pause:3.9"))):
        running = stack.enter_context(daemon)
        client = stack.enter_context(CriClient(running.address))
        client.wait_ready()
        yield Side(name, running, client)


def run() -> Report:
    """Twenty pods on each side, in rounds that alternate."""
    with ExitStack() as stack:
        moorage, peer = _sides(stack)
        for side in (moorage, peer):  # caches of both warm: the first pod is not counted
            side.start_pods(1)
            side.stop_pods()
            side.run, side.stop, side.remove, side.pods = Timings(), Timings(), Timings(), []
        for _ in range(ROUNDS):
            for side in (moorage, peer):
                side.start_pods(PODS // ROUNDS)
        time.sleep(SETTLE_SECONDS)
        for side in (moorage, peer):
            side.weigh()
        for side in (moorage, peer):
            side.stop_pods()
    report = Report(
        "Pods",
        f"{PODS} pods on each side, {ROUNDS} alternating rounds, one warm-up pod not counted. CNI: bridge and portmap "
        "with one host port, on a bridge of its own each. PSS from smaps_rollup "
        f"while all pods run, {SETTLE_SECONDS} s after the last call, of a shim and all that it has forked for its own work.",
    )
    for name, target in (("run", 0.6), ("stop", None), ("remove", None)):
        ours, theirs = getattr(moorage, name), getattr(peer, name)
        scaled = [[s * 1e3 for s in side.seconds] for side in (ours, theirs)]
        report.rows.append(Comparison(f"{name.capitalize()}PodSandbox", "ms", *scaled, target=target))
    report.rows.append(Comparison("PSS of a shim", "MiB", moorage.shims, peer.shims, target=0.25))
    return report
