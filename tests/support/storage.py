"""The stores without a daemon around them: metadata over the local content store and the native snapshotter."""

from __future__ import annotations

import hashlib
from pathlib import Path

from google.protobuf.message import Message

from moorage_api.containers import Container, Runtime
from moorage_api.content import Info
from moorage_api.events import Envelope
from moorage_api.images import Image
from moorage_api.types import Descriptor, Labels, TypedValue
from moorage_content import LocalContentStore
from moorage_snapshotter.native import NativeSnapshotter
from mooraged.gc import Collector
from mooraged.metadata import Metadata, SharingPolicy, View

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class RecordingBus:
    """An event bus that only remembers what was published."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Message]] = []

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        self.events.append((namespace, topic, event))

    def forward(self, envelope: Envelope) -> None:
        raise NotImplementedError

    def subscribe(self, filters: object = ()) -> object:
        raise NotImplementedError

    def take(self) -> list[tuple[str, str]]:
        """Namespace and topic of each event since the last call."""
        taken = [(namespace, topic) for namespace, topic, _ in self.events]
        self.events.clear()
        return taken


class Storage:
    """All stores over one folder, which may be closed and opened again."""

    def __init__(self, folder: Path, policy: SharingPolicy = SharingPolicy.ISOLATED) -> None:
        self.folder = folder
        self.policy = policy
        self.bus = RecordingBus()
        self.open()

    def open(self) -> None:
        """Open everything; what a crash left open is settled."""
        self.content = LocalContentStore(self.folder / "content")
        self.native = NativeSnapshotter(self.folder / "native")
        self.metadata = Metadata(
            self.folder / "meta",
            self.content,
            {"native": self.native},
            events=self.bus,  # type: ignore[arg-type]
            policy=self.policy,
        )
        self.collector = Collector(self.metadata)
        self.metadata.set_collector(self.collector.collect)

    def close(self) -> None:
        self.metadata.close()
        self.native.close()

    def restart(self) -> None:
        """Close and open again."""
        self.close()
        self.open()

    def bind(self, namespace: str = "one", lease: str = "") -> View:
        return self.metadata.bind(namespace, lease)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(view: View, data: bytes, labels: Labels | None = None) -> Info:
    """Write a blob as a client does."""
    with view.content.writer(f"put-{digest_of(data)}", len(data), digest_of(data)) as writer:
        writer.write(data[writer.status().offset :])
        return writer.commit(len(data), digest_of(data), labels)


def image(name: str, target: str, labels: Labels | None = None) -> Image:
    return Image(name, Descriptor(MANIFEST, target, 10), labels or {})


def container(id: str, labels: Labels | None = None, **fields: str) -> Container:
    spec = TypedValue("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"ociVersion":"1.0.2"}')
    return Container(id, Runtime("io.containerd.runc.v2"), spec, labels=labels or {}, **fields)


def layer(view: View, name: str, parent: str = "", labels: Labels | None = None, key: str = "") -> None:
    """Commit an empty snapshot; those that may make the same one at once have a `key` each."""
    snapshots = view.snapshotter()
    key = key or f"making-{name}"
    snapshots.prepare(key, parent, labels)
    snapshots.commit(name, key, labels)
