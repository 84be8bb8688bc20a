"""The native API: containers, execs, streams, events and content, against Debian's containerd with the same OCI runtimes."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from suite.native_client import NativeClient
from suite.report import Comparison, Report
from support.daemon import Daemon
from support.images import ImageSpec, digest_of, push
from support.measure import Timings
from support.peer import Peer
from support.registry import Registry

RUNTIMES = ("crun", "runc")
ROUNDS = 4
RUNS, EXECS, LONE_EXECS, TRIPS = 16, 48, 8, 100
READERS, EVENTS = 32, 100
BLOB = 64 << 20
_APART = 1.0


@dataclass
class Side:
    """One of the two daemons under test, and what was measured of it."""

    name: str
    client: NativeClient
    timings: dict[str, Timings] = field(default_factory=dict)
    count: int = 0

    def time(self, operation: str, call: Callable[[], object]) -> None:
        self.timings.setdefault(operation, Timings()).time(call)

    def round(self, runs: int, execs: int, lone: int, trips: int) -> None:
        """Every operation, under a lease where that keeps what is made from collection."""
        with self.client.lease():
            for runtime in RUNTIMES:
                self.client.use(runtime)
                self.runs(runtime, runs)
                self.in_a_container(runtime, execs, lone, trips)
            self.content()
        self.events()

    def runs(self, runtime: str, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.time(f"run {runtime}", lambda: self.client.run(f"run-{self.count}", "true"))

    def in_a_container(self, runtime: str, execs: int, lone: int, trips: int) -> None:
        """Execs, one after the other and by themselves, and bytes that `cat` sends back, in one container."""
        self.count += 1
        id = f"long-{self.count}"
        streams = self.client.create(id, "cat")
        self.client.start(id)
        for number in range(execs):
            execute = partial(self.client.execute, id, f"exec-{number}", "true")
            self.time(f"exec {runtime}", execute)
        for number in range(lone):
            time.sleep(_APART)
            self.time(f"lone exec {runtime}", partial(self.client.execute, id, f"lone-{number}", "true"))
        for _ in range(trips):
            self.time("trip", lambda: self._trip(*streams))
        for stream in streams:
            os.close(stream)
        self.client.kill(id)
        self.client.remove(id)

    def _trip(self, source: int, output: int) -> None:
        os.write(source, b"x")
        if os.read(output, 1) != b"x":
            raise RuntimeError("another byte came back than was sent")

    def content(self) -> None:
        """A blob of random bytes, written and read."""
        data = os.urandom(BLOB)
        digests: list[str] = []
        self.time("write", lambda: digests.append(self.client.write(data)))
        self.time("read", lambda: self.client.read(digests[0]))
        self.client.delete(digests[0])

    def events(self) -> None:
        fan_out = self.client.fan_out(READERS, EVENTS)
        self.time("events", fan_out.run)


def _sides(stack: ExitStack) -> Iterator[Side]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    registry = stack.enter_context(Registry(folder))
    push(registry.address, "library/busybox", "latest")
    image = f"{registry.address}/library/busybox:latest"
    for name, daemon in (("Moorage", Daemon(log_level="info")), ("containerd", Peer(pure_cgroups=True))):
        running = stack.enter_context(daemon)
        pull = ["ctr", "-n", "bench", "images", "pull", "--plain-http", image]
        subprocess.run(pull, env=running.environment, check=True, stdout=subprocess.DEVNULL)
        streams = running.folder / "streams"
        streams.mkdir()
        client = NativeClient(running.address, streams, digest_of(ImageSpec().layers[0]))
        yield Side(name, stack.enter_context(client))


def run() -> Report:
    """Every operation on both sides, in rounds that alternate."""
    with ExitStack() as stack:
        sides = list(_sides(stack))
        for side in sides:  # caches of both warm: these are not counted
            side.round(1, 1, 1, 1)
            side.timings.clear()
        for _ in range(ROUNDS):
            for side in sides:
                side.round(RUNS // ROUNDS, EXECS // ROUNDS, LONE_EXECS // ROUNDS, TRIPS // ROUNDS)
    report = Report(
        "The native API",
        f"Both sides run the same OCI runtime; {ROUNDS} alternating rounds, warm-ups not counted; one client in Python for both, "
        "which takes some 0.06 ms of a call itself (grpcio, which it uses for streams, 0.3 ms). "
        "Run: from a snapshot to its removal, with container, task, exit status and streams on FIFOs. Exec: from Exec to "
        "DeleteProcess; one after the other, or each a second after the one before. Byte: through standard input, "
        f"`cat`, and standard output. Events: {EVENTS} published one after the other, until {READERS} readers have "
        f"them all. Content: {BLOB >> 20} MiB in messages of 1 MiB, committed with digest and size.",
    )
    rows = [
        *((f"run {runtime}", f"Run `true`, {runtime}", 0.7) for runtime in RUNTIMES),
        *((f"exec {runtime}", f"Exec `true`, {runtime}", 0.7) for runtime in RUNTIMES),
        *((f"lone exec {runtime}", f"Exec `true` after a second, {runtime}", None) for runtime in RUNTIMES),
        ("trip", "Byte to an attached container and back", None),
        ("events", "Event fan-out", None),
        ("write", f"Content Write, {BLOB >> 20} MiB", 1.25),
        ("read", f"Content Read, {BLOB >> 20} MiB", 1.25),
    ]
    for key, title, target in rows:
        scaled = [[s * 1e3 for s in side.timings[key].seconds] for side in sides]
        report.rows.append(Comparison(title, "ms", *scaled, target=target))
    return report
