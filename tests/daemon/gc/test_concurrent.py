"""Collections at every moment, while clients pull, use and drop images: what somebody needs is never gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moorage_api.errors import AlreadyExists, NotFound, Unavailable
from moorage_api.leases import Resource
from mooraged.metadata import View
from mooraged.metadata.content import SharingPolicy
from support.storage import Storage, container, digest_of, image, layer, put

REF = "containerd.io/gc.ref"
LAYERS = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)
"""Images are made of a few layers that they share."""


class Worker:
    """One client in one namespace. Each method is something that clients do, and checks what it relies on."""

    def __init__(self, storage: Storage, namespace: str, name: str) -> None:
        self._storage = storage
        self._view = storage.bind(namespace)
        self._name = name
        self._count = 0

    def pull(self, layers: Sequence[int]) -> None:
        """As a pull: under a lease, blobs and snapshots first, the image last; then the lease ends."""
        self._count += 1
        lease = f"{self._name}-{self._count}"
        self._view.leases.create(lease)
        leased = self._storage.bind(self._view.namespace, lease)
        blobs = [put_or_hold(leased, lease, b"layer %d" % number) for number in layers]
        top = self._unpack(leased, lease, layers)
        config = put_or_hold(leased, lease, b"config " + repr(layers).encode(), {f"{REF}.snapshot.native": top})
        labels = {f"{REF}.content.l.{number}": digest for number, digest in enumerate([config, *blobs])}
        manifest = put_or_hold(leased, lease, b"manifest " + repr(layers).encode(), labels)
        with_name = image(f"{self._name}-image", manifest)
        try:
            leased.images.create(with_name)
        except AlreadyExists:
            leased.images.update(with_name, ["target"])
        self._view.leases.delete(lease)
        self._check_image(layers)

    def use(self, layers: Sequence[int]) -> None:
        """As a container: a snapshot on the image's, kept by the container alone, while the image goes."""
        self.pull(layers)
        self._count += 1
        key = f"{self._name}-rootfs-{self._count}"
        self._view.leases.create(key)
        self._storage.bind(self._view.namespace, key).snapshotter().prepare(key, chain(layers))
        self._view.containers.create(container(key, snapshotter="native", snapshot_key=key))
        self._view.leases.delete(key)
        self._view.images.delete(f"{self._name}-image")
        parent = key
        while parent:
            parent = self._view.snapshotter().stat(parent).parent
        self._view.snapshotter().mounts(key)
        self._view.containers.delete(key)

    def write(self, layers: Sequence[int]) -> None:
        """As a download that goes on for a while: an open ingest, left and taken up again."""
        self._count += 1
        ref, data = f"{self._name}-{self._count}", b"part " * 50
        for part in range(len(layers)):
            with self._view.content.writer(ref) as writer:
                assert writer.status().offset == part * len(data)
                writer.write(data)
        self._view.content.abort(ref)

    def _unpack(self, leased: View, lease: str, layers: Sequence[int]) -> str:
        while not (top := self._layers(leased, lease, layers)):
            time.sleep(0.001)  # one of another went before it was held
        return top

    def _layers(self, leased: View, lease: str, layers: Sequence[int]) -> str:
        parent = ""
        for depth in range(1, len(layers) + 1):
            name, key = chain(layers[:depth]), f"making-{lease}-{depth}"
            try:
                layer(leased, name, parent, key=key)
            except AlreadyExists:
                leased.snapshotter().remove(key)
                # Another's, which may be going: held from now on, if it is still there.
                self._view.leases.add_resource(lease, Resource(name, "snapshots/native"))
                try:
                    self._view.snapshotter().stat(name)
                except NotFound:
                    return ""
            parent = name
        return parent

    def _check_image(self, layers: Sequence[int]) -> None:
        """All that the image needs is there, in the backends as well."""
        for number in layers:
            data = b"layer %d" % number
            with self._view.content.open(digest_of(data)) as blob:
                assert blob.pread(100, 0) == data
        for depth in range(1, len(layers) + 1):
            assert self._view.snapshotter().stat(chain(layers[:depth])).name
        view = f"{self._name}-look-{self._count}"
        self._view.leases.create(view)
        self._storage.bind(self._view.namespace, view).snapshotter().view(view, chain(layers))
        (mount,) = self._view.snapshotter().mounts(view)
        assert Path(mount.source).is_dir()
        self._view.leases.delete(view)


def chain(layers: Sequence[int]) -> str:
    return "chain-" + "-".join(map(str, layers))


def put_or_hold(view: View, lease: str, data: bytes, labels: dict[str, str] | None = None) -> str:
    """Write a blob, or hold the one that is there, as transfers do."""
    digest = digest_of(data)
    while True:
        try:
            return put(view, data, labels).digest
        except Unavailable:
            time.sleep(0.001)  # another has the ingest open
            continue
        except AlreadyExists:
            view.leases.add_resource(lease, Resource(digest, "content"))
            try:
                view.content.info(digest)
            except NotFound:
                continue  # it went before it was held
            return digest


@contextmanager
def collecting(storage: Storage) -> Iterator[None]:
    """Collect again and again."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not ended.is_set():
            try:
                storage.collector.collect()
            except BaseException as error:  # noqa: BLE001 (told below)
                failures.append(error)
                return

    collector = threading.Thread(target=run)
    collector.start()
    try:
        yield
    finally:
        ended.set()
        collector.join()
    assert failures == []


PROGRAM = st.lists(st.tuples(st.sampled_from(["pull", "use", "write"]), LAYERS), min_size=1, max_size=5)


@pytest.mark.parametrize("policy", SharingPolicy)
@given(programs=st.lists(PROGRAM, min_size=2, max_size=4), together=st.booleans())
# What fails once in a while is not made smaller by trying again.
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_that_is_needed_goes(
    tmp_path_factory: pytest.TempPathFactory, policy: SharingPolicy, programs: list[object], together: bool
) -> None:
    storage = Storage(tmp_path_factory.mktemp("gc"), policy)
    try:
        with collecting(storage), ThreadPoolExecutor(len(programs)) as pool:
            workers = [
                Worker(storage, "one" if together else f"space-{number}", f"worker{number}")
                for number in range(len(programs))
            ]
            for done in [pool.submit(_run, worker, program) for worker, program in zip(workers, programs, strict=True)]:
                done.result()
        check_what_is_left(storage)
    finally:
        storage.close()


def _run(worker: Worker, program: list[tuple[str, list[int]]]) -> None:
    for verb, layers in program:
        step: Callable[[Sequence[int]], None] = getattr(worker, verb)
        step(layers)


def check_what_is_left(storage: Storage) -> None:
    """Images stay whole, and when they go, all goes."""
    storage.collector.collect()
    spaces = storage.metadata.namespaces.list()
    known = {info.digest for space in spaces for info in storage.bind(space).content.walk()}
    assert {info.digest for info in storage.content.walk()} == known
    for space in spaces:
        view = storage.bind(space)
        for stored in view.images.list():
            labels = view.content.info(stored.target.digest).labels
            assert all(view.content.info(digest) for key, digest in labels.items() if ".content." in key)
            view.images.delete(stored.name)
    storage.collector.collect()
    storage.collector.collect()
    assert list(storage.content.walk()) == []
    assert storage.content.statuses() == []
    assert list(storage.native.walk()) == []
