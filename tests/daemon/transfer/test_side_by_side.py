"""Layers that are unpacked side by side make the files that they make one after the other."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.content import ContentStore
from moorage_api.errors import Cancelled
from moorage_api.linux.mount import temporary_mount
from moorage_api.snapshots import Snapshotter
from moorage_api.types import Descriptor
from moorage_content.store import LocalContentStore
from moorage_snapshotter.overlay import OverlaySnapshotter
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer
from mooraged.transfer.arrival import Arrival
from support.images import LayerBuilder

_TYPE = "application/vnd.oci.image.layer.v1.tar"
_BASE = LayerBuilder().folder("etc").file("etc/gone", b"1").file("etc/kept", b"2").folder("opt").file("opt/old", b"3")
_TOP = (
    LayerBuilder()
    .folder("etc")
    .file("etc/.wh.gone", b"")
    .folder("opt")
    .file("opt/.wh..wh..opq", b"")
    .file("opt/new", b"4")
    .symlink("link", "etc/kept")
)
_LAYERS = (_BASE.build(), _TOP.build())


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return LocalContentStore(tmp_path / "content")


@pytest.fixture
def differ(tmp_path: Path) -> Iterator[WalkingDiffer]:
    pool = WorkerPool(2)
    (tmp_path / "scratch").mkdir()
    yield WalkingDiffer(pool, Limits(), tmp_path / "scratch")
    pool.stop()


def put(content: ContentStore, data: bytes) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with content.writer(digest) as writer:
        writer.write(data)
        writer.commit(len(data), digest)
    return Descriptor(_TYPE, digest, len(data))


def tree(snapshotter: Snapshotter, name: str) -> dict[str, tuple[str, int, bytes]]:
    """Mode, owner and content of all that a snapshot shows."""
    found = {}
    with temporary_mount(snapshotter.view(f"view-{name}", name)) as root:
        for folder, folders, files in os.walk(root):
            for entry in (*folders, *files):
                path = Path(folder, entry)
                status = path.lstat()
                data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), status.st_uid, data)
    return found


def test_the_same_files_either_way(tmp_path: Path, content: ContentStore, differ: WalkingDiffer) -> None:
    snapshotter = OverlaySnapshotter(tmp_path / "overlay")
    base, top = (put(content, data) for data in _LAYERS)
    differ.extract(content, base, snapshotter.prepare("a"))
    apart = differ.extract(content, top, snapshotter.prepare("b"), apart=True)
    snapshotter.commit("base", "a")
    differ.extract(content, top, snapshotter.prepare("c", "base"))
    snapshotter.commit("in-turn", "c")
    snapshotter.commit("apart", "b", parent="base")
    assert not apart.incomplete
    found = tree(snapshotter, "apart")
    assert found == tree(snapshotter, "in-turn")
    assert set(found) == {"etc", "etc/kept", "link", "opt", "opt/new"}
    snapshotter.close()


def test_folders_that_a_layer_leaves_out_are_told(tmp_path: Path, content: ContentStore, differ: WalkingDiffer) -> None:
    snapshotter = OverlaySnapshotter(tmp_path / "overlay")
    layer = put(content, LayerBuilder().file("etc/file", b"1").build())
    assert differ.extract(content, layer, snapshotter.prepare("a"), apart=True).incomplete
    snapshotter.close()


def test_a_layer_is_extracted_while_it_arrives(tmp_path: Path, content: ContentStore, differ: WalkingDiffer) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = 3_000_000
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    data = output.getvalue()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    snapshotter = OverlaySnapshotter(tmp_path / "overlay")
    mounts = snapshotter.prepare("a")
    arrival = Arrival(len(data))
    with content.writer("ref", len(data)) as writer:
        arrival.opened(writer)
        results: list[str] = []
        layer = Descriptor(_TYPE, digest, len(data))
        thread = threading.Thread(
            target=lambda: results.append(differ.extract(content, layer, mounts, arriving=arrival).layer.digest)
        )
        thread.start()
        for start in range(0, len(data), 700_000):
            writer.write(data[start : start + 700_000])
            arrival.advance(writer.status().offset)
        thread.join(60)
    arrival.close()
    assert results == [digest]
    snapshotter.close()


def test_what_the_progress_raises_ends_the_extraction(
    tmp_path: Path, content: ContentStore, differ: WalkingDiffer
) -> None:
    snapshotter = OverlaySnapshotter(tmp_path / "overlay")
    arrival = Arrival(1_000_000)

    def progress(size: int) -> None:
        raise Cancelled("enough")

    with content.writer("ref", 1_000_000) as writer:
        writer.write(_LAYERS[0][:100])
        arrival.opened(writer)
        arrival.advance(100)
        layer = Descriptor(_TYPE, "sha256:" + "0" * 64, 1_000_000)
        with pytest.raises(Cancelled, match="enough"):
            differ.extract(content, layer, snapshotter.prepare("a"), arriving=arrival, progress=progress)
    arrival.close()
    snapshotter.close()
