"""Layers of many small files, for which a worker has a helper: they come out as without it, whatever is in them."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moorage_api.content import ContentStore
from moorage_api.errors import Cancelled
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor
from mooraged.differ import helper
from mooraged.differ.apply import Applying
from mooraged.differ.growing import Growth
from mooraged.differ.limits import Limits
from mooraged.differ.messages import Apply
from mooraged.differ.pool import WorkerPool
from mooraged.differ.tar.events import TarError
from mooraged.differ.walking import WalkingDiffer
from support.tars import archive, entry, folder, link, symlink

Entries = list[tuple[tarfile.TarInfo, bytes]]
OTHERS = 200
NOW = 1_000_000_000
"""Later than all times in the archives."""


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The helper gets files almost at once."""
    monkeypatch.setattr(helper, "MANY", 1)
    before = os.umask(0)
    yield
    os.umask(before)


def small(name: str, text: str = "small", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, data=text.encode(), **fields)


def files(count: int = OTHERS, prefix: str = "d") -> Entries:
    """Small files, ten in a folder."""
    made: Entries = []
    for number in range(count):
        if number % 10 == 0:
            made.append(folder(f"{prefix}{number // 10}"))
        made.append(small(f"{prefix}{number // 10}/f{number}", f"content of {number}", mode=0o640, mtime=1000 + number))
    return made


def extract(root: Path, entries: Entries, *, apart: bool = True) -> dict[str, tuple[object, ...]]:
    """Extract entries apart, or as the first layer, as a worker does, and tell what is there."""
    root.mkdir()
    layer = root.parent / f"{root.name}.tar"
    layer.write_bytes(archive(*entries))
    mounts = [Mount("bind", str(root), options=("rw", "rbind"))]
    request = Apply(str(layer), mounts, Limits(), str(root.parent), layer.stat().st_size, apart=apart)
    Applying(request, Growth()).run()
    return listing(root)


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        marks = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        given = status.st_mtime if status.st_mtime < NOW else "now"
        known = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, given)
        found[str(path.relative_to(root))] = (*known, data, tuple(sorted(marks.items())))
    return found


def alone(
    root: Path, entries: Entries, monkeypatch: pytest.MonkeyPatch, *, apart: bool = True
) -> dict[str, tuple[object, ...]]:
    """The same without a helper."""
    with monkeypatch.context() as patch:
        patch.setattr(helper, "MANY", 1 << 40)
        return extract(root, entries, apart=apart)


HARMLESS: Entries = [
    # The first waits for all files before it.
    link("hard", "d1/f10"),
    symlink("d2/f20", "f21"),
    folder("d3/f30"),
    small("d3/f30/in", "it"),
    symlink("d5", "d6"),
    small("d5/through", "the link"),
    small("d7/.wh.f70", ""),
    small("d8/.wh..wh..opq", ""),
    folder("d9", mode=0o2750),
    small("d9/last", "of the folder's group"),
    small("large", "x" * 100_000),
    entry("empty"),
    small("setuid", "program", mode=0o4755),
    small("owned", "by another", uid=7, gid=8),
    small("deep/er/file", "in folders that are left out"),
]


@pytest.mark.parametrize("apart", [True, False])
def test_it_comes_out_as_without_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    entries = [*files(), *HARMLESS, *files(40, "e")]
    expected = alone(tmp_path / "alone", entries, monkeypatch, apart=apart)
    monkeypatch.setattr(helper, "Refused", AssertionError)
    assert extract(tmp_path / "helped", entries, apart=apart) == expected


TWICE: dict[str, Entries] = {
    "a folder, and a small file": [small("d1", "in place of a folder")],
    "small files": [small("twice", "first"), small("twice", "second")],
    "a link, and a file": [symlink("twice", "d1/f10"), small("twice", "second")],
    "a file, and at once a link": [small("d2/twice", "first"), symlink("d2/twice", "f20")],
    "a file, and at once a folder": [small("d2/twice", "first"), folder("d2/twice"), small("d2/twice/x", "in it")],
    "a file, and at once its whiteout": [small("d2/twice", "first"), small("d2/.wh.twice", "")],
}


@pytest.mark.parametrize("more", TWICE.values(), ids=TWICE)
def test_the_last_entry_of_a_name_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Entries) -> None:
    entries = [*files(), *more, *files(40, "e")]
    assert extract(tmp_path / "helped", entries) == alone(tmp_path / "alone", entries, monkeypatch)


@pytest.mark.parametrize("apart", [True, False])
def test_the_helper_is_made_use_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    offered: list[bytes] = []
    offer = helper.Helper.offer

    def watched(self: helper.Helper, *arguments: object) -> bool:
        done = offer(self, *arguments)  # type: ignore[arg-type]
        offered.extend([str(arguments[2]).encode()] if done else [])
        return done

    monkeypatch.setattr(helper.Helper, "offer", watched)
    extract(tmp_path / "root", files(), apart=apart)
    assert len(offered) > OTHERS // 2


@pytest.mark.parametrize("command", [("/bin/false",), ("/nonexistent",)])
def test_a_helper_that_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    expected = alone(tmp_path / "alone", files(), monkeypatch)
    monkeypatch.setattr(helper, "_COMMAND", command)
    assert extract(tmp_path / "helped", files()) == expected


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    long = "n" * 256
    with pytest.raises(TarError, match=f"'d1/{long[:190]}"):
        extract(tmp_path / "root", [*files(), small(f"d1/{long}", "small"), *files(40, "e")])


class Half:
    """A layer of which the second half never comes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def follow(self, told: Callable[[int], None]) -> None:
        told(self.path.stat().st_size // 2)

    def unfollow(self) -> None:
        return


def test_it_ends_with_the_worker(tmp_path: Path, content: ContentStore) -> None:
    layer, scratch, root = tmp_path / "layer", tmp_path / "scratch", tmp_path / "root"
    layer.write_bytes(archive(*files(4 * helper.BATCH_FILES + 4000)))
    scratch.mkdir()
    root.mkdir()
    pool = WorkerPool(1)
    mounts = [Mount("bind", str(root), options=("rw", "rbind"))]
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "0" * 64, layer.stat().st_size)
    differ = WalkingDiffer(pool, Limits(), scratch)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(differ.extract, content, descriptor, mounts, arriving=Half(layer), apart=True)
        deadline = time.monotonic() + 60
        while len(group := members(pool)) < 2:
            assert time.monotonic() < deadline
            assert not call.done()
        pool.stop()
        with pytest.raises(Cancelled):
            call.result(timeout=60)
    while any(is_alive(pid) for pid in group):
        assert time.monotonic() < deadline


def members(pool: WorkerPool) -> list[int]:
    """The processes of the workers' groups."""
    groups = set(pool.pids())
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if os.getpgid(pid) in groups:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there, and no zombie that another has to reap."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
