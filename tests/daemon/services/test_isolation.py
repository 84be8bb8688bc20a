"""Two clients in two namespaces: neither can list, read, delete or infer what the other holds.

Random sequences of changes are made in both. A model says what each namespace holds; every look at it, from inside and
from the other side, must agree with the model. For what the other namespace holds the answer must be the very one that
is given for what never existed: same code, same message but for the name asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from moorage_api.rpc import Service
from moorage_api.wire import containers_pb2, content_pb2, images_pb2, leases_pb2, snapshots_pb2, types_pb2
from mooraged.graph import Graph

from .conftest import Client, digest_of, failure

BLOBS = [b"blob %d" % number for number in range(4)]
NAMES = ["one", "two", "three"]
SNAPSHOTTER = "native"


class Kind:
    """One kind of object: how a client makes, reads, changes, deletes and lists it. Names are the model's keys."""

    def __init__(
        self,
        names: Sequence[str],
        create: Callable[[Client, str], Any],
        list: Callable[[Client], set[str]],
        delete: Callable[[Client, str], Any],
        looks: Sequence[Callable[[Client, str], Any]],
        absent: str,
    ) -> None:
        self.names = names
        self.create = create
        self.list = list
        self.delete = delete
        self.looks = looks
        self.absent = absent


def _snapshot(kind: type[Any], key: str) -> Any:
    return kind(snapshotter=SNAPSHOTTER, key=key)


def _container(id: str) -> containers_pb2.Container:
    return containers_pb2.Container(id=id, runtime={"name": "io.containerd.runc.v2"})


def _image(name: str) -> images_pb2.Image:
    return images_pb2.Image(name=name, target=types_pb2.Descriptor(media_type="m", digest=digest_of(b"x"), size=1))


def _digests(client: Client) -> set[str]:
    return {info.digest for page in client.content.List(content_pb2.ListContentRequest()) for info in page.info}


def _snapshots(client: Client) -> set[str]:
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter=SNAPSHOTTER)
    return {info.name for page in client.snapshots.List(request) for info in page.info}


def _snapshot_update(client: Client, key: str) -> Any:
    info = snapshots_pb2.Info(name=key, labels={"a": "b"})
    return client.snapshots.Update(snapshots_pb2.UpdateSnapshotRequest(snapshotter=SNAPSHOTTER, info=info))


def _ingest(client: Client, ref: str) -> Any:
    return client.write(content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=ref, data=b"part"))


KINDS = {
    "blob": Kind(
        [digest_of(blob) for blob in BLOBS],
        lambda c, digest: c.put(next(blob for blob in BLOBS if digest_of(blob) == digest)),
        _digests,
        lambda c, digest: c.content.Delete(content_pb2.DeleteContentRequest(digest=digest)),
        [
            lambda c, digest: c.content.Info(content_pb2.InfoRequest(digest=digest)),
            lambda c, digest: c.read(digest),
            lambda c, digest: c.content.Update(
                content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels={"a": "b"}))
            ),
        ],
        digest_of(b"never"),
    ),
    "ingest": Kind(
        NAMES,
        _ingest,
        lambda c: {s.ref for s in c.content.ListStatuses(content_pb2.ListStatusesRequest()).statuses},
        lambda c, ref: c.content.Abort(content_pb2.AbortRequest(ref=ref)),
        [lambda c, ref: c.content.Status(content_pb2.StatusRequest(ref=ref))],
        "never",
    ),
    "image": Kind(
        NAMES,
        lambda c, name: c.images.Create(images_pb2.CreateImageRequest(image=_image(name))),
        lambda c: {i.name for i in c.images.List(images_pb2.ListImagesRequest()).images},
        lambda c, name: c.images.Delete(images_pb2.DeleteImageRequest(name=name)),
        [
            lambda c, name: c.images.Get(images_pb2.GetImageRequest(name=name)),
            lambda c, name: c.images.Update(images_pb2.UpdateImageRequest(image=_image(name))),
        ],
        "never",
    ),
    "container": Kind(
        NAMES,
        lambda c, id: c.containers.Create(containers_pb2.CreateContainerRequest(container=_container(id))),
        lambda c: {x.id for x in c.containers.List(containers_pb2.ListContainersRequest()).containers},
        lambda c, id: c.containers.Delete(containers_pb2.DeleteContainerRequest(id=id)),
        [
            lambda c, id: c.containers.Get(containers_pb2.GetContainerRequest(id=id)),
            lambda c, id: c.containers.Update(containers_pb2.UpdateContainerRequest(container=_container(id))),
        ],
        "never",
    ),
    "snapshot": Kind(
        NAMES,
        lambda c, key: c.snapshots.Prepare(_snapshot(snapshots_pb2.PrepareSnapshotRequest, key)),
        _snapshots,
        lambda c, key: c.snapshots.Remove(_snapshot(snapshots_pb2.RemoveSnapshotRequest, key)),
        [
            lambda c, key: c.snapshots.Stat(_snapshot(snapshots_pb2.StatSnapshotRequest, key)),
            lambda c, key: c.snapshots.Mounts(_snapshot(snapshots_pb2.MountsRequest, key)),
            lambda c, key: c.snapshots.Usage(_snapshot(snapshots_pb2.UsageRequest, key)),
            lambda c, key: c.snapshots.Commit(
                snapshots_pb2.CommitSnapshotRequest(snapshotter=SNAPSHOTTER, key=key, name=f"{key}-done")
            ),
            _snapshot_update,
        ],
        "never",
    ),
    "lease": Kind(
        NAMES,
        lambda c, id: c.leases.Create(leases_pb2.CreateRequest(id=id)),
        lambda c: {lease.id for lease in c.leases.List(leases_pb2.ListRequest()).leases} - {"test"},
        lambda c, id: c.leases.Delete(leases_pb2.DeleteRequest(id=id)),
        [
            lambda c, id: c.leases.ListResources(leases_pb2.ListResourcesRequest(id=id)),
            lambda c, id: c.leases.AddResource(
                leases_pb2.AddResourceRequest(id=id, resource=leases_pb2.Resource(id="x", type="images"))
            ),
        ],
        "never",
    ),
}

kinds = st.sampled_from(sorted(KINDS))
indexes = st.integers(0, 3)
sides = st.sampled_from([0, 1])


class TwoNamespaces(RuleBasedStateMachine):
    """What two clients do, and what the model says that each then holds."""

    channel: grpc.Channel
    runs = 0

    @initialize()
    def start(self) -> None:
        type(self).runs += 1
        self.clients = []
        for side in "ab":
            bare = Client(self.channel, f"isolated-{self.runs}-{side}")
            bare.leases.Create(leases_pb2.CreateRequest(id="test"))
            # Under a lease, so that the collector leaves alone what the model holds.
            self.clients.append(bare.under("test"))
        self.held: list[dict[str, set[str]]] = [{kind: set() for kind in KINDS} for _ in range(2)]

    def _name(self, kind: str, index: int) -> str:
        names = KINDS[kind].names
        return names[index % len(names)]

    @rule(side=sides, kind=kinds, index=indexes)
    def create(self, side: int, kind: str, index: int) -> None:
        """Creating what the other one holds works as if it did not."""
        name, client = self._name(kind, index), self.clients[side]
        if name in self.held[side][kind]:
            if kind != "ingest":
                assert failure(lambda: KINDS[kind].create(client, name))[0] is grpc.StatusCode.ALREADY_EXISTS
            return
        KINDS[kind].create(client, name)
        self.held[side][kind].add(name)

    @rule(side=sides, kind=kinds, index=indexes)
    def delete(self, side: int, kind: str, index: int) -> None:
        """Deleting removes one's own, and answers for another's as for what never existed."""
        name, client = self._name(kind, index), self.clients[side]
        if name in self.held[side][kind]:
            KINDS[kind].delete(client, name)
            self.held[side][kind].remove(name)
        else:
            self._same_as_absent(client, kind, name, KINDS[kind].delete)

    @rule(side=sides, kind=kinds, index=indexes, look=st.integers(0, 9))
    def look(self, side: int, kind: str, index: int, look: int) -> None:
        """Reading and changing what one does not hold answers as for what never existed."""
        name, client, looks = self._name(kind, index), self.clients[side], KINDS[kind].looks
        if name not in self.held[side][kind]:
            self._same_as_absent(client, kind, name, looks[look % len(looks)])

    def _same_as_absent(self, client: Client, kind: str, name: str, call: Callable[[Client, str], Any]) -> None:
        absent = KINDS[kind].absent
        code, message = failure(lambda: call(client, name))
        expected_code, expected = failure(lambda: call(client, absent))
        assert (code, message.replace(name, "?")) == (expected_code, expected.replace(absent, "?"))
        assert code is grpc.StatusCode.NOT_FOUND

    @invariant()
    def lists_show_ones_own_and_nothing_else(self) -> None:
        for client, held in zip(self.clients, self.held, strict=True):
            for kind, names in held.items():
                assert KINDS[kind].list(client) == names, kind

    def teardown(self) -> None:
        for client, held in zip(getattr(self, "clients", []), getattr(self, "held", []), strict=True):
            for kind, names in held.items():
                for name in names:
                    KINDS[kind].delete(client, name)
            client.leases.Delete(leases_pb2.DeleteRequest(id="test"))


def test_neither_sees_the_other(channel: grpc.Channel) -> None:
    machine = type("Machine", (TwoNamespaces,), {"channel": channel})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_look_at_the_others(leased: Client, other: Client, kind: str) -> None:
    """Each call once, whatever the random sequences come to."""
    client, subject = leased, KINDS[kind]
    other.leases.Create(leases_pb2.CreateRequest(id="test"))
    other = other.under("test")
    name = subject.names[0]
    subject.create(other, name)
    for call in (*subject.looks, subject.delete):
        code, message = failure(lambda call=call: call(client, name))
        expected_code, expected = failure(lambda call=call: call(client, subject.absent))
        assert code is expected_code is grpc.StatusCode.NOT_FOUND
        assert message.replace(name, "?") == expected.replace(subject.absent, "?")
    assert name in subject.list(other)
    assert subject.list(client) == set()
    subject.create(client, name)


def test_a_snapshot_on_anothers_parent(client: Client, other: Client) -> None:
    pb = snapshots_pb2
    other.snapshots.Prepare(pb.PrepareSnapshotRequest(snapshotter=SNAPSHOTTER, key="a"))
    other.snapshots.Commit(
        pb.CommitSnapshotRequest(snapshotter=SNAPSHOTTER, key="a", name="p", labels={"containerd.io/gc.root": "x"})
    )
    for method, request in (
        (client.snapshots.Prepare, pb.PrepareSnapshotRequest),
        (client.snapshots.View, pb.ViewSnapshotRequest),
    ):
        answers = [
            failure(lambda p=p, m=method, r=request: m(r(snapshotter=SNAPSHOTTER, key="x", parent=p)))
            for p in ("p", "q")
        ]
        assert answers[0][0] is grpc.StatusCode.NOT_FOUND
        assert answers[0] == (answers[1][0], answers[1][1].replace("q'", "p'"))


def test_a_session_does_not_tell_that_another_has_the_blob(
    leased: Client, other: Client, stores: tuple[Graph, Sequence[Service]]
) -> None:
    """Announcing a digest that only another namespace has must not be answered with "exists", nor with its bytes."""
    digest = other.put(b"secret", labels={"containerd.io/gc.root": "x"})
    stat = content_pb2.WriteContentRequest(action=content_pb2.STAT, ref="r", total=6, expected=digest)
    [answer] = leased.write(stat)
    assert (answer.offset, answer.digest) == (0, digest_of(b""))
    commit = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="r", total=6, expected=digest)
    assert failure(lambda: leased.write(commit))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert failure(lambda: leased.read(digest))[0] is grpc.StatusCode.NOT_FOUND
    assert leased.put(b"secret") == digest
