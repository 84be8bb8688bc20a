"""Two clients in two namespaces: neither can tell that the other is there.

Every call of a client is made twice: in a world that it shares with the other client, and in one that it has for
itself. What it gets (results and errors, word by word) must be the same in both. So whatever the other one does, it
changes nothing that a client can list, read, delete or infer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moorage_api import content as contents
from moorage_api.errors import MoorageError
from moorage_api.leases import Resource
from moorage_api.snapshots import Info, Kind
from mooraged.metadata import View
from support.storage import Storage, container, digest_of, image, put

CLIENTS = ("one", "two")
TIMES = {"created_at", "updated_at", "started_at"}

clients = st.sampled_from(CLIENTS)
LEASES = ("lease-a", "lease-b")
leases = st.sampled_from(["", "", "", *LEASES])
# Few names and blobs, so that the clients use the same ones all the time.
data = st.sampled_from([b"alpha", b"beta"])
names = st.sampled_from(["x", "y"])
parents = st.sampled_from(["", "x", "y"])
labels = st.sampled_from(
    [{}, {"a": "1"}, {"containerd.io/gc.root": "now"}, {"containerd.io/gc.ref.content": digest_of(b"alpha")}]
)
targets = st.sampled_from([{}, {"containerd.io/snapshot.ref": "x"}, {"containerd.io/snapshot.ref": "y"}])


def other_than(client: str) -> str:
    return CLIENTS[1 - CLIENTS.index(client)]


def shown(value: Any) -> Any:
    """What a client sees of a result, without what differs between any two calls: times, and folders of mounts."""
    if is_dataclass(value):
        visible = {field.name: shown(getattr(value, field.name)) for field in fields(value) if field.name not in TIMES}
        return {**visible, "source": ""} if "source" in visible else visible
    if isinstance(value, (str, bytes, int, type(None), Kind)):
        return value
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return [shown(item) for item in value]


def outcome(call: Callable[[View], Any], view: View) -> Any:
    try:
        return shown(call(view))
    except MoorageError as error:
        return (type(error).__name__, error.message)


class TwoClients(RuleBasedStateMachine):
    """Random calls of both, with collections and restarts in between."""

    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="moorage-isolation-"))
        self.together = self._storage("together")
        self.alone = {client: self._storage(client) for client in CLIENTS}
        for client in CLIENTS:
            self.same(client, lambda view: [view.leases.create(id) for id in LEASES])

    def _storage(self, name: str) -> Storage:
        """A new world; the migrated database is made once and copied, which is what makes this test quick."""
        if TwoClients.template is None:
            TwoClients.template = Path(tempfile.mkdtemp(prefix="moorage-isolation-template-"))
            Storage(TwoClients.template / "empty").close()
        shutil.copytree(TwoClients.template / "empty", self.folder / name)
        return Storage(self.folder / name)

    def teardown(self) -> None:
        for storage in (self.together, *self.alone.values()):
            storage.close()
        shutil.rmtree(self.folder)

    def same(self, client: str, call: Callable[[View], Any], lease: str = "") -> None:
        together = outcome(call, self.together.bind(client, lease))
        alone = outcome(call, self.alone[client].bind(client, lease))
        assert together == alone, f"{client} sees the other one"

    @invariant()
    def lists_are_the_same(self) -> None:
        for client in CLIENTS:
            self.same(client, lambda view: list(view.content.walk()))
            self.same(client, lambda view: view.content.statuses())
            self.same(client, lambda view: list(view.snapshotter().walk()))
            self.same(client, lambda view: view.images.list())
            self.same(client, lambda view: view.containers.list())
            self.same(
                client, lambda view: [(found.id, view.leases.resources(found.id)) for found in view.leases.list()]
            )

    @rule(client=clients, blob=data, labels=labels, lease=leases)
    def put(self, client: str, blob: bytes, labels: dict[str, str], lease: str) -> None:
        self.same(client, lambda view: put(view, blob, labels), lease)
        self._ask_for_blob(other_than(client), blob)

    def _ask_for_blob(self, client: str, blob: bytes) -> None:
        """Everything that a client may try to learn of a blob whose digest it knows, or to get at its bytes."""
        digest = digest_of(blob)
        self.read(client, blob)
        self.write(client, "asking", b"", True, "", blob)
        self.same(client, lambda view: view.content.status("asking"))
        self.commit(client, "asking", blob, "")
        self.same(client, lambda view: view.content.abort("asking"))
        self.same(client, lambda view: view.content.delete(digest))

    @rule(client=clients, blob=data)
    def read(self, client: str, blob: bytes) -> None:
        def call(view: View) -> bytes:
            with view.content.open(digest_of(blob)) as reader:
                return reader.pread(100, 0)

        self.same(client, call)
        self.same(client, lambda view: view.content.info(digest_of(blob)))

    @rule(client=clients, blob=data, labels=labels)
    def label_content(self, client: str, blob: bytes, labels: dict[str, str]) -> None:
        self.same(client, lambda view: view.content.update(contents.Info(digest_of(blob), 0, labels=labels)))

    @rule(client=clients, blob=data, lease=leases)
    def delete_content(self, client: str, blob: bytes, lease: str) -> None:
        self.same(client, lambda view: view.content.delete(digest_of(blob)), lease)

    @rule(client=clients, ref=names, blob=data, announce=st.booleans(), lease=leases, announced=data)
    def write(self, client: str, ref: str, blob: bytes, announce: bool, lease: str, announced: bytes) -> None:
        def call(view: View) -> Any:
            with view.content.writer(ref, 0, digest_of(announced) if announce else "") as writer:
                before = writer.status()
                writer.write(blob)
                return before, writer.status(), writer.digest()

        self.same(client, call, lease)

    @rule(client=clients, ref=names, blob=data, lease=leases)
    def commit(self, client: str, ref: str, blob: bytes, lease: str) -> None:
        """Also without having written a byte: naming another's digest must not be enough."""

        def call(view: View) -> Any:
            with view.content.writer(ref) as writer:
                return writer.commit(len(blob), digest_of(blob))

        self.same(client, call, lease)

    @rule(client=clients, ref=names)
    def abort(self, client: str, ref: str) -> None:
        self.same(client, lambda view: view.content.status(ref))
        self.same(client, lambda view: view.content.abort(ref))

    @rule(client=clients, name=names, parent=parents, labels=targets, lease=leases, view_only=st.booleans())
    def prepare(self, client: str, name: str, parent: str, labels: dict[str, str], lease: str, view_only: bool) -> None:
        def call(view: View) -> Any:
            snapshots = view.snapshotter()
            return (snapshots.view if view_only else snapshots.prepare)(name, parent, labels)

        self.same(client, call, lease)

    @rule(client=clients, name=names, parent=parents, labels=labels, lease=leases)
    def unpack(self, client: str, name: str, parent: str, labels: dict[str, str], lease: str) -> None:
        """A layer as unpackers make it: prepared under a key of its own, committed under its chain ID."""
        target = {"containerd.io/snapshot.ref": name}
        self.same(client, lambda view: view.snapshotter().prepare("unpacking", parent, target), lease)
        self.same(client, lambda view: view.snapshotter().commit(name, "unpacking", {**labels, **target}), lease)
        self.look_at_snapshot(other_than(client), name, labels)
        self.prepare(other_than(client), "asking", parent, target, "", False)
        self.same(other_than(client), lambda view: view.snapshotter().remove("asking"))

    @rule(client=clients, name=names, labels=labels)
    def look_at_snapshot(self, client: str, name: str, labels: dict[str, str]) -> None:
        self.same(client, lambda view: view.snapshotter().stat(name))
        self.same(client, lambda view: view.snapshotter().usage(name))
        self.same(client, lambda view: view.snapshotter().mounts(name))
        self.same(client, lambda view: view.snapshotter().update(Info(name, Kind.ACTIVE, labels=labels)))

    @rule(client=clients, name=names)
    def remove_snapshot(self, client: str, name: str) -> None:
        self.same(client, lambda view: view.snapshotter().remove(name))

    @rule(client=clients, name=names, blob=data, labels=labels)
    def images(self, client: str, name: str, blob: bytes, labels: dict[str, str]) -> None:
        self.same(client, lambda view: view.images.get(name))
        self.same(client, lambda view: view.images.update(image(name, digest_of(blob), labels)))
        self.same(client, lambda view: view.images.create(image(name, digest_of(blob), labels)))

    @rule(client=clients, name=names)
    def delete_image(self, client: str, name: str) -> None:
        self.same(client, lambda view: view.images.delete(name))

    @rule(client=clients, id=names, name=names, key=names)
    def containers(self, client: str, id: str, name: str, key: str) -> None:
        made = container(id, {"moorage.io/name": name}, snapshotter="native", snapshot_key=key)
        self.same(client, lambda view: view.containers.get(id))
        self.same(client, lambda view: view.containers.create(made))
        self.same(client, lambda view: view.containers.update(made, ["labels.moorage.io/name"]))

    @rule(client=clients, id=names)
    def delete_container(self, client: str, id: str) -> None:
        self.same(client, lambda view: view.containers.delete(id))

    @rule(client=clients, id=st.sampled_from(LEASES), blob=data)
    def leases(self, client: str, id: str, blob: bytes) -> None:
        self.same(client, lambda view: view.leases.create(id))
        self.same(client, lambda view: view.leases.add_resource(id, Resource(digest_of(blob), "content")))

    @rule(client=clients, id=st.sampled_from(LEASES), sync=st.booleans())
    def delete_lease(self, client: str, id: str, sync: bool) -> None:
        if sync:
            # A collection is everybody's: it takes the garbage of all, so all worlds have it now.
            self.collect()
        self.same(client, lambda view: view.leases.delete(id))

    @rule()
    def collect(self) -> None:
        for storage in (self.together, *self.alone.values()):
            storage.collector.collect()

    @rule()
    def restart(self) -> None:
        for storage in (self.together, *self.alone.values()):
            storage.restart()

    @rule(client=clients)
    def delete_namespace(self, client: str) -> None:
        self.same(client, lambda view: self._world(view).metadata.namespaces.delete(client))

    def _world(self, view: View) -> Storage:
        worlds = (self.together, *self.alone.values())
        return next(world for world in worlds if world.metadata is view._metadata)


TestTwoClients = TwoClients.TestCase
TestTwoClients.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def teardown_module() -> None:
    if TwoClients.template is not None:
        shutil.rmtree(TwoClients.template)
