"""Snapshotters through the daemons' gRPC: making, committing and removing; towers of layers, crowds on one base; unpacking."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from moorage_api.content import ContentStore
from moorage_api.convert import descriptor_to_wire, mounts_to_wire
from moorage_api.errors import AlreadyExists, NotFound
from moorage_api.linux.mount import temporary_mount
from moorage_api.remote.channel import Channel
from moorage_api.remote.content import RemoteContentStore
from moorage_api.remote.snapshotter import RemoteSnapshotter
from moorage_api.snapshots import Snapshotter
from moorage_api.types import Descriptor
from moorage_api.wire import diff_pb2, leases_pb2
from moorage_api.wire.diff_pb2_grpc import DiffStub
from moorage_api.wire.leases_pb2_grpc import LeasesStub
from suite.calls import LeanChannel
from suite.layers import Layer
from suite.report import Comparison, Report
from support.daemon import Daemon
from support.images import digest_of
from support.peer import Peer

ROUNDS = 3
SINGLES = 50
DEPTH = 100
WIDTH = 1000
FILES = 20
LAYER = Layer("unpacked", 5000, 60 << 20)
_SECONDS = 120
TAR = "application/vnd.oci.image.layer.v1.tar"
# Neither daemon's collector is to take what nobody refers to.
KEPT = {"containerd.io/gc.root": "benchmark"}


@dataclass
class Side:
    """One snapshotter of one daemon, and what was measured of it, in milliseconds by operation."""

    channel: Channel
    snapshotter: Snapshotter
    content: ContentStore
    width: int
    samples: dict[str, list[float]] = field(default_factory=dict)
    turn: int = 0

    def settle(self) -> None:
        """Return when what the last turn has left behind is done with: garbage is collected, and on disk. The next turn,
        of whichever daemon, would wait for it otherwise."""
        leases = LeasesStub(self.channel.grpc)
        self.channel.call(leases.Create, leases_pb2.CreateRequest(id="settling"))
        self.channel.call(leases.Delete, leases_pb2.DeleteRequest(id="settling", sync=True))
        os.sync()

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
        self.settle()

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

    def unpack(self, layer: Descriptor) -> None:
        """A layer of an image, from its blob to its snapshot, as clients do it that unpack themselves."""
        self.turn += 1
        key, name = f"extract-{self.turn}", f"chain-{self.turn}"
        labels = {**KEPT, "containerd.io/snapshot.ref": name}

        def unpack() -> None:
            mounts = self.snapshotter.prepare(key, "", labels)
            request = diff_pb2.ApplyRequest(diff=descriptor_to_wire(layer), mounts=mounts_to_wire(mounts))
            self.channel.call(DiffStub(self.channel.grpc).Apply, request)
            self.snapshotter.commit(name, key, labels)

        self.time("Unpack", unpack)
        self.snapshotter.remove(name)
        self.settle()


def _side(stack: ExitStack, name: str, daemon: Daemon | Peer) -> Side:
    channel = Channel(name, daemon.address, timeout=_SECONDS, namespace="bench")
    stack.callback(channel.close)
    lean = LeanChannel(name, daemon.address, timeout=_SECONDS, namespace="bench")
    stack.callback(lean.close)
    width = WIDTH // 10 if name == "native" else WIDTH
    return Side(channel, RemoteSnapshotter(lean, name), RemoteContentStore(channel), width)


def _put(side: Side, data: bytes) -> Descriptor:
    digest = digest_of(data)
    # Two snapshotters of one daemon have the blob in common.
    with suppress(AlreadyExists), side.content.writer(digest) as writer:
        writer.write(data)
        writer.commit(len(data), digest, KEPT)
    return Descriptor(f"{TAR}+gzip", digest, len(data))


def run() -> Report:
    """Rounds that alternate between the daemons, for each snapshotter in turn; erofs beside overlayfs, there and here."""
    report = Report(
        "Snapshotters",
        f"{ROUNDS} alternating rounds through each daemon's gRPC socket by one client, which takes some 0.06 ms of a call "
        f"itself; {SINGLES} single operations a round; a base of {FILES} small files. Milliseconds for one "
        f"operation. Unpack: a layer of {LAYER.files} files and "
        f"{LAYER.size >> 20} MiB, applied and committed. Between turns each daemon "
        "collects its garbage, and all comes to disk. Moorage syncs a snapshot's files before a commit is answered; "
        "containerd leaves them to the kernel. Snapshots that are committed one by one, or as a tower, have nothing in them: "
        "for them Moorage syncs the records alone, as containerd does. containerd 1.6 has no erofs: beside it stands what "
        "containerd needs with overlayfs, and, where the row says so, what Moorage needs with overlayfs.",
    )
    with ExitStack() as stack:
        daemons: list[Daemon | Peer] = [stack.enter_context(Daemon(log_level="info")), stack.enter_context(Peer())]
        blob = gzip.compress(LAYER.tar(), 6, mtime=0)
        sides = {name: [_side(stack, name, daemon) for daemon in daemons] for name in ("overlayfs", "native")}
        erofs = _side(stack, "erofs", daemons[0])
        # What is compared takes turns: erofs with both overlayfs.
        for compared in ([*sides["overlayfs"], erofs], sides["native"]):
            for _ in range(ROUNDS):
                for side in compared:
                    side.round()
        _unpack(blob, *sides["overlayfs"], erofs)
        _unpack(blob, *sides["native"])
        for name, (ours, theirs) in {**sides, "erofs": [erofs, sides["overlayfs"][1]]}.items():
            report.rows.extend(
                Comparison(f"{name}: {operation}", "ms", samples, theirs.samples[operation], target=1.0)
                for operation, samples in ours.samples.items()
            )
        here = sides["overlayfs"][0].samples["Unpack"]
        report.rows.append(
            Comparison("erofs: Unpack, beside overlayfs here", "ms", erofs.samples["Unpack"], here, target=0.5)
        )
    return report


def _unpack(blob: bytes, *sides: Side) -> None:
    layers = [_put(side, blob) for side in sides]
    for _ in range(ROUNDS):
        for side, layer in zip(sides, layers, strict=True):
            side.unpack(layer)
    for side, layer in zip(sides, layers, strict=True):
        with suppress(NotFound):
            side.content.delete(layer.digest)
