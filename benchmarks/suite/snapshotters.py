"""Snapshotters through the daemons' gRPC: making, committing and removing; towers of layers, and crowds on one base."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from moorage_api.linux.mount import temporary_mount
from moorage_api.remote.channel import Channel
from moorage_api.remote.snapshotter import RemoteSnapshotter
from moorage_api.snapshots import Snapshotter
from suite.report import Comparison, Report
from support.daemon import Daemon
from support.peer import Peer

SNAPSHOTTERS = ("overlayfs", "native")
ROUNDS = 3
SINGLES = 50
DEPTH = 100
WIDTH = 1000
FILES = 20
# Neither daemon's collector is to take what nobody refers to.
KEPT = {"containerd.io/gc.root": "benchmark"}


@dataclass
class Side:
    """One snapshotter of one daemon, and what was measured of it, in milliseconds by operation."""

    snapshotter: Snapshotter
    width: int
    samples: dict[str, list[float]] = field(default_factory=dict)
    turn: int = 0

    def time(self, operation: str, call: Callable[[], object], times: int = 1) -> None:
        """Time `call`; it did the operation so many times."""
        before = time.perf_counter()
        call()
        self.samples.setdefault(operation, []).append((time.perf_counter() - before) * 1e3 / times)

    def round(self) -> None:
        """All operations once, on names of this round's own."""
        self.turn += 1
        base = f"base-{self.turn}"
        self._layer(base, "")
        self._singles(base)
        self._tower(base)
        self._crowd(base)

    def _layer(self, name: str, parent: str) -> None:
        mounts = self.snapshotter.prepare(f"{name}-active", parent, KEPT)
        with temporary_mount(mounts) as root:
            for number in range(FILES):
                Path(root, f"{name}-{number}").write_text("text" * 100)
        self.snapshotter.commit(name, f"{name}-active", KEPT)

    def _singles(self, base: str) -> None:
        for number in range(SINGLES):
            key = f"single-{self.turn}-{number}"
            self.time("Prepare", lambda key=key: self.snapshotter.prepare(key, base, KEPT))  # type: ignore[misc]
            self.time("Mounts", lambda key=key: self.snapshotter.mounts(key))  # type: ignore[misc]
            self.time("Commit", lambda key=key: self.snapshotter.commit(f"{key}-done", key, KEPT))  # type: ignore[misc]
            self.time("Remove", lambda key=key: self.snapshotter.remove(f"{key}-done"))  # type: ignore[misc]

    def _tower(self, base: str) -> None:
        names = [base, *(f"tower-{self.turn}-{number}" for number in range(DEPTH))]

        def build() -> None:
            for below, name in pairwise(names):
                self.snapshotter.prepare(f"{name}-active", below, KEPT)
                self.snapshotter.commit(name, f"{name}-active", KEPT)

        self.time(f"A layer of {DEPTH} on one another", build, DEPTH)
        key = f"top-{self.turn}"
        self.time(f"Prepare on {DEPTH} layers", lambda: self.snapshotter.prepare(key, names[-1], KEPT))
        self.snapshotter.remove(key)

    def _crowd(self, base: str) -> None:
        keys = [f"wide-{self.turn}-{number}" for number in range(self.width)]
        self.time(
            f"Prepare, of {self.width}", lambda: [self.snapshotter.prepare(key, base, KEPT) for key in keys], self.width
        )
        self.time(f"List, with {self.width}", lambda: list(self.snapshotter.walk()))
        self.time(f"Remove, of {self.width}", lambda: [self.snapshotter.remove(key) for key in keys], self.width)


def run() -> Report:
    """Rounds that alternate between the daemons, for each snapshotter in turn."""
    report = Report(
        "Snapshotters",
        f"{ROUNDS} alternating rounds through each daemon's gRPC socket by one client; {SINGLES} single operations a round; "
        f"a base of {FILES} small files. Milliseconds for one operation. Moorage syncs a snapshot's files before a commit is "
        "answered, and the record with it; containerd leaves the files to the kernel.",
    )
    with ExitStack() as stack:
        daemons: list[Daemon | Peer] = [stack.enter_context(Daemon(log_level="info")), stack.enter_context(Peer())]
        for name in SNAPSHOTTERS:
            width = WIDTH if name == "overlayfs" else WIDTH // 10
            sides = []
            for daemon in daemons:
                channel = Channel(name, daemon.address, namespace="bench")
                stack.callback(channel.close)
                sides.append(Side(RemoteSnapshotter(channel, name), width))
            for _ in range(ROUNDS):
                for side in sides:
                    side.round()
            ours, theirs = sides
            report.rows.extend(
                Comparison(f"{name}: {operation}", "ms", samples, theirs.samples[operation], target=1.0)
                for operation, samples in ours.samples.items()
            )
    return report
