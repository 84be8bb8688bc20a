"""Applying layers through worker processes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import select
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import zstandard

from moorage_api.content import ContentStore
from moorage_api.errors import Cancelled, InvalidArgument, NotFound, ResourceExhausted, Unavailable, Unimplemented
from moorage_api.linux.mount import mountinfo, temporary_mount
from moorage_api.mounts import Mount
from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshot_files import contents
from moorage_api.types import Descriptor
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer, clear_scratch

Put = Callable[..., Descriptor]


def tar(*entries: tuple[str, str | None]) -> bytes:
    """An archive of files; without content, of folders."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, text in entries:
            info = tarfile.TarInfo(name)
            info.type = tarfile.REGTYPE if text is not None else tarfile.DIRTYPE
            info.mode = 0o644 if text is not None else 0o755
            data = (text or "").encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def target(tmp_path: Path) -> list[Mount]:
    folder = tmp_path / "target"
    folder.mkdir(exist_ok=True)
    return [Mount("bind", str(folder), options=("rw", "rbind"))]


LAYER = tar(("d", None), ("d/a", "1"), ("b", "2" * 100_000))
HALF = LAYER[: len(LAYER) // 2], LAYER[len(LAYER) // 2 :]
_OCI = "application/vnd.oci.image.layer.v1.tar"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
FORMS = {
    "plain": (LAYER, _OCI),
    "gzip": (gzip.compress(LAYER), f"{_OCI}+gzip"),
    "zstd": (zstandard.compress(LAYER), f"{_OCI}+zstd"),
    "docker": (gzip.compress(LAYER), f"{_DOCKER}.gzip"),
    "docker plain": (LAYER, _DOCKER),
    "docker, compressed all the same": (gzip.compress(LAYER), _DOCKER),
    "docker zstd": (zstandard.compress(LAYER), f"{_DOCKER}.zstd"),
    "nondistributable": (
        gzip.compress(LAYER),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
    "foreign": (gzip.compress(LAYER), "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    "members in a row": (b"".join(map(gzip.compress, (*HALF, b""))), f"{_OCI}+gzip"),
    "frames in a row": (b"".join(map(zstandard.compress, HALF)), f"{_OCI}+zstd"),
}


def test_workers_give_way(
    differ: WalkingDiffer, content: ContentStore, put: Put, pool: WorkerPool, tmp_path: Path
) -> None:
    differ.apply(content, put(*FORMS["plain"]), target(tmp_path))
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    found = [(os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid)) for pid in pool.pids()]
    assert (os.SCHED_BATCH, nice) in found


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_layers(differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path, form: str) -> None:
    layer = put(*FORMS[form])
    applied = differ.apply(content, layer, target(tmp_path))
    assert applied == Descriptor(_OCI, digest(LAYER), len(LAYER))
    assert contents(tmp_path / "target") == {"d": "folder", "d/a": "1", "b": "2" * 100_000}


def test_diff_id_counts_what_follows_the_archive(
    differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path
) -> None:
    data = LAYER + bytes(50_000) + b"more"
    assert differ.apply(content, put(gzip.compress(data)), target(tmp_path)).digest == digest(data)


def test_layers_on_snapshots(differ: WalkingDiffer, content: ContentStore, put: Put, snapshotter: Snapshotter) -> None:
    layers = [
        tar(("etc", None), ("etc/a", "1"), ("etc/b", "1"), ("var/c", "1"), ("opt/x/y", "1")),
        tar(("etc/.wh.a", ""), ("etc/b", "2"), ("opt/.wh..wh..opq", ""), ("opt/z", "2")),
        tar(("var/d", "3"), (".wh.opt", "")),
    ]
    parent = ""
    for number, layer in enumerate(layers):
        mounts = snapshotter.prepare("active", parent)
        differ.apply(content, put(gzip.compress(layer)), mounts, sync=True)
        parent = f"layer-{number}"
        snapshotter.commit(parent, "active")
    expected = {"etc": "folder", "etc/b": "2", "var": "folder", "var/c": "1", "var/d": "3"}
    with temporary_mount(snapshotter.view("view", parent)) as root:
        assert contents(Path(root)) == expected
    with temporary_mount(snapshotter.view("middle", "layer-1")) as root:
        assert contents(Path(root)) == {
            "etc": "folder",
            "etc/b": "2",
            "opt": "folder",
            "opt/z": "2",
            "var": "folder",
            "var/c": "1",
        }


def test_mounts_of_another_kind_are_mounted_for_the_worker_alone(
    differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path
) -> None:
    image = tmp_path / "target"
    image.mkdir()
    mounts = [*target(tmp_path), Mount("tmpfs", "tmpfs", "d", ("size=10M",))]
    (image / "d").mkdir()
    differ.apply(content, put(LAYER, _OCI), mounts)
    assert not [entry.target for entry in mountinfo() if entry.target.startswith(str(tmp_path))]
    # What went to the tmpfs is gone with it.
    assert contents(image) == {"d": "folder", "b": "2" * 100_000}


def test_unknown_blob(differ: WalkingDiffer, content: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        differ.apply(content, Descriptor(_OCI, "sha256:" + "0" * 64, 1), target(tmp_path))


@pytest.mark.parametrize(
    ("media_type", "error"),
    [
        ("application/vnd.oci.image.config.v1+json", InvalidArgument),
        ("", InvalidArgument),
        (f"{_OCI}+bzip2", InvalidArgument),
        (f"{_OCI}+gzip+encrypted", Unimplemented),
    ],
)
def test_other_media_types(
    differ: WalkingDiffer,
    content: ContentStore,
    put: Put,
    tmp_path: Path,
    media_type: str,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        differ.apply(content, put(LAYER, media_type), target(tmp_path))


def test_no_mounts(differ: WalkingDiffer, content: ContentStore, put: Put) -> None:
    with pytest.raises(InvalidArgument):
        differ.apply(content, put(LAYER, _OCI), [])


NOISE = random.Random(7).randbytes(300_000)
LARGE = tar(("noise", NOISE.hex()))
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(LARGE)
DAMAGED = {
    "cut gzip": gzip.compress(LARGE)[:-1000],
    "flipped gzip": bytes(byte ^ (0xFF if 1000 < at < 1040 else 0) for at, byte in enumerate(gzip.compress(LARGE))),
    "wrong sum": gzip.compress(LARGE)[:-8] + b"\0" * 8,
    "garbage after gzip": gzip.compress(LARGE) + b"garbage",
    "flipped zstd": CHECKED[:1000] + b"\xff" * 1000 + CHECKED[2000:],
    "cut zstd": zstandard.compress(LARGE)[:-1000],
    "cut archive": gzip.compress(LARGE[:100_000]),
    "no archive": gzip.compress(NOISE),
    "nothing but noise": NOISE,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_layers_are_refused(
    differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path, name: str
) -> None:
    layer = put(DAMAGED[name])
    with pytest.raises(InvalidArgument, match=layer.digest):
        differ.apply(content, layer, target(tmp_path))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_bombs_are_refused(
    pool: WorkerPool, scratch: Path, content: ContentStore, put: Put, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    differ = WalkingDiffer(pool, Limits(ratio_floor=1 << 20, max_ratio=100), scratch)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 20 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(ResourceExhausted, match="uncompressed"):
        differ.apply(content, put(compress(output.getvalue())), target(tmp_path))
    assert (tmp_path / "target/zeros").stat().st_size < 10 << 20


def test_target_that_is_not_there(differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        differ.apply(content, put(LAYER, _OCI), [Mount("bind", str(tmp_path / "nowhere"), options=("rw", "rbind"))])


def test_full_disk(differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with temporary_mount([Mount("tmpfs", "tmpfs", options=("size=64k",))], str(small)) as root:
        mounts = [Mount("bind", root, options=("rw", "rbind"))]
        with pytest.raises(ResourceExhausted, match="'b'"):
            differ.apply(content, put(LAYER, _OCI), mounts)


def test_blob_without_a_file(differ: WalkingDiffer, content: ContentStore, put: Put, tmp_path: Path) -> None:
    """A store on another machine: its blobs are copied for the worker."""
    layer = put(gzip.compress(LARGE))
    applied = differ.apply(_Remote(content), layer, target(tmp_path))  # type: ignore[arg-type]
    assert applied.digest == digest(LARGE)


class _Remote:
    """A content store whose blobs have no path."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    def open(self, digest: str) -> _RemoteReader:
        return _RemoteReader(self._content.open(digest))


class _RemoteReader:
    path = None

    def __init__(self, reader: object) -> None:
        self._reader = reader
        self.size = reader.size  # type: ignore[attr-defined]

    def pread(self, length: int, offset: int) -> bytes:
        return self._reader.pread(min(length, 1000), offset)  # type: ignore[attr-defined, no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()  # type: ignore[attr-defined]


# Processes


@pytest.fixture
def slow(put: Put) -> Descriptor:
    """A layer that takes long enough to be interrupted."""
    return put(tar(*[(f"d{number % 100}/f{number}", "x") for number in range(25_000)]), _OCI)


def wait_for_worker(pool: WorkerPool, tmp_path: Path) -> int:
    """Wait until a worker is in the middle of its work; returns its process id."""
    deadline = time.monotonic() + 20
    while not (tmp_path / "target/d5").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return pool.pids()[0]


def test_killed_worker_is_an_error_and_the_next_call_works(
    scratch: Path, content: ContentStore, put: Put, slow: Descriptor, tmp_path: Path
) -> None:
    pool = WorkerPool(1)
    differ = WalkingDiffer(pool, Limits(), scratch)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(differ.apply, content, slow, target(tmp_path))
        os.kill(wait_for_worker(pool, tmp_path), signal.SIGKILL)
        with pytest.raises(Unavailable, match="signal 9"):
            call.result(timeout=10)
    assert differ.apply(content, put(LAYER, _OCI), target(tmp_path)).digest == digest(LAYER)
    pool.stop()


def test_worker_killed_while_idle_is_replaced(scratch: Path, content: ContentStore, put: Put, tmp_path: Path) -> None:
    pool = WorkerPool(1)
    differ = WalkingDiffer(pool, Limits(), scratch)
    differ.apply(content, put(LAYER, _OCI), target(tmp_path))
    [pid] = pool.pids()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    differ.apply(content, put(LAYER, _OCI), target(tmp_path))
    assert pool.pids() != [pid]
    pool.stop()


def test_stop_ends_workers_in_the_middle(
    scratch: Path, content: ContentStore, slow: Descriptor, put: Put, tmp_path: Path
) -> None:
    pool = WorkerPool(1)
    differ = WalkingDiffer(pool, Limits(), scratch)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(differ.apply, content, slow, target(tmp_path))
        pid = wait_for_worker(pool, tmp_path)
        pool.stop()
        with pytest.raises(Cancelled):
            call.result(timeout=10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Cancelled):
        differ.apply(content, put(LAYER, _OCI), target(tmp_path))


def test_no_more_workers_than_allowed(scratch: Path, content: ContentStore, put: Put, tmp_path: Path) -> None:
    layer = put(tar(*[(f"file-{number}", "x") for number in range(3000)]), _OCI)
    pool = WorkerPool(2)
    differ = WalkingDiffer(pool, Limits(), scratch)
    most = 0
    done = threading.Event()

    def apply(number: int) -> str:
        folder = tmp_path / f"target-{number}"
        folder.mkdir()
        return differ.apply(content, layer, [Mount("bind", str(folder), options=("rw", "rbind"))]).digest

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, len(pool.pids()))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(apply, range(4)))) == 1
    done.set()
    watcher.join()
    assert most == 2
    pool.stop()


def test_a_worker_ends_with_the_daemon(tmp_path: Path) -> None:
    """The daemon is killed with -9: its pipes close, and the worker ends."""
    script = (
        "import sys, time\n"
        "from mooraged.differ.pool import _Worker\n"
        "worker = _Worker()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    daemon = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    pidfd = os.pidfd_open(pid)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)


def test_scratch_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "moorage-mount-x").mkdir()
    (tmp_path / "blob-x").write_text("left over")
    clear_scratch(tmp_path)
    assert list(tmp_path.iterdir()) == []
