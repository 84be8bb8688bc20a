"""Making layers, and that applying them gives the same files again."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from moorage_api.content import ContentStore
from moorage_api.errors import InvalidArgument
from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from moorage_api.snapshots import Snapshotter
from moorage_api.types import Descriptor
from mooraged.differ.compare import upper_folder
from mooraged.differ.walking import UNCOMPRESSED, WalkingDiffer

PLAIN = "application/vnd.oci.image.layer.v1.tar"


def blob(content: ContentStore, digest: str) -> bytes:
    with content.open(digest) as reader:
        return reader.pread(reader.size + 1, 0)


def names(content: ContentStore, layer: Descriptor) -> list[str]:
    """The names in a plain layer, in their order."""
    with tarfile.open(fileobj=io.BytesIO(blob(content, layer.digest))) as archive:
        return archive.getnames()


def base(root: Path) -> None:
    for name in ("etc/a", "etc/b", "usr/bin/x", "usr/bin/y", "opt/old/1", "opt/old/2", "var/same"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "usr/bin/hard").hardlink_to(root / "usr/bin/x")


def alter(root: Path) -> None:
    """Every kind of change."""
    (root / "etc/a").write_text("changed")
    (root / "etc/b").unlink()
    (root / "etc/new").write_text("new")
    shutil.rmtree(root / "opt/old")
    (root / "opt/old").mkdir()
    (root / "opt/old/3").write_text("3")
    (root / "usr/bin/y").unlink()
    (root / "usr/bin/y").mkdir()
    (root / "usr/bin/y/z").write_text("z")
    (root / "link").symlink_to("etc/a")
    (root / "link-again").symlink_to("/" + "long/" * 50)
    (root / "two").write_text("names")
    (root / "names").hardlink_to(root / "two")
    os.mkfifo(root / "fifo", 0o600)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "usr", 3, 4)
    (root / "suid").write_text("x")
    os.chown(root / "suid", 70_000_000, 5)
    os.setxattr(root / "suid", "user.note", b"\0")
    (root / "suid").chmod(0o4755)
    (root / ("deep/" * 30)).mkdir(parents=True)
    (root / ("deep/" * 30) / ("n" * 200)).write_text("deep")


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(root))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            os.readlink(path) if path.is_symlink() else content,
            status.st_mtime_ns // 1_000_000_000 if not path.is_dir() else 0,
            [key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user.")],
        )
    return found


@pytest.fixture
def altered(snapshotter: Snapshotter) -> Snapshotter:
    """`base` committed, and `active` with changes on it."""
    for work, key, parent in ((base, "base-active", ""), (alter, "active", "base")):
        with temporary_mount(snapshotter.prepare(key, parent)) as root:
            work(Path(root))
        if not parent:
            snapshotter.commit("base", key)
    return snapshotter


@pytest.mark.parametrize("way", ["as the snapshotter mounts it", "by comparing"])
def test_a_layer_applied_gives_the_same_files(
    differ: WalkingDiffer, content: ContentStore, altered: Snapshotter, tmp_path: Path, way: str
) -> None:
    lower, upper = altered.view("lower", "base"), altered.mounts("active")
    if way == "by comparing":
        # A copy of the lower files: nothing says that the upper ones stand on them.
        with temporary_mount(lower) as root:
            subprocess.run(["cp", "-a", root, tmp_path / "copy"], check=True)
        lower = [Mount("bind", str(tmp_path / "copy"), options=("rbind", "ro"))]
    layer = differ.compare(content, lower, upper)
    differ.apply(content, layer, altered.prepare("again", "base"))
    with temporary_mount(upper) as expected, temporary_mount(altered.mounts("again")) as found:
        assert describe(Path(found)) == describe(Path(expected))
        assert os.stat(f"{found}/two").st_nlink == 2


def test_only_what_changed_is_in_a_layer(differ: WalkingDiffer, content: ContentStore, altered: Snapshotter) -> None:
    layer = differ.compare(content, altered.view("lower", "base"), altered.mounts("active"), media_type=PLAIN)
    found = names(content, layer)
    assert "etc/.wh.b" in found
    assert "etc/a" in found
    assert not {"var/same", "usr/bin/x", "etc/b"} & set(found)
    assert len(found) == len(set(found))
    parents = {str(Path(name).parent) for name in found} - {"."}
    assert parents <= set(found)


def test_the_same_changes_give_the_same_bytes(
    differ: WalkingDiffer, content: ContentStore, altered: Snapshotter
) -> None:
    lower, upper = altered.view("lower", "base"), altered.mounts("active")
    first = differ.compare(content, lower, upper)
    assert differ.compare(content, lower, upper) == first


def test_a_snapshot_without_a_parent(differ: WalkingDiffer, content: ContentStore, snapshotter: Snapshotter) -> None:
    with temporary_mount(snapshotter.prepare("active")) as root:
        base(Path(root))
    layer = differ.compare(content, snapshotter.view("nothing"), snapshotter.mounts("active"), media_type=PLAIN)
    assert layer == differ.compare(content, [], snapshotter.mounts("active"), media_type=PLAIN)
    assert {"etc", "etc/a", "usr/bin/hard", "var/same"} <= set(names(content, layer))


def test_nothing_changed(differ: WalkingDiffer, content: ContentStore, altered: Snapshotter) -> None:
    altered.prepare("same", "base")
    layer = differ.compare(content, altered.view("lower", "base"), altered.mounts("same"), media_type=PLAIN)
    assert names(content, layer) == []


def test_a_new_name_of_an_old_file_stays_a_link(tmp_path: Path, differ: WalkingDiffer, content: ContentStore) -> None:
    for side in ("lower", "upper"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a").write_text("x")
        os.utime(tmp_path / side / "a", ns=(0, 5))
    (tmp_path / "upper/b").hardlink_to(tmp_path / "upper/a")
    lower, upper = ([Mount("bind", str(tmp_path / side), options=("rbind",))] for side in ("lower", "upper"))
    layer = differ.compare(content, lower, upper, media_type=PLAIN)
    with tarfile.open(fileobj=io.BytesIO(blob(content, layer.digest))) as archive:
        found = {member.name: (member.type, member.linkname) for member in archive.getmembers()}
    assert found == {"b": (tarfile.REGTYPE, ""), "a": (tarfile.LNKTYPE, "b")}


def test_files_of_one_size_and_whole_second_are_read(
    tmp_path: Path, differ: WalkingDiffer, content: ContentStore
) -> None:
    for side, text in (("lower", "one"), ("upper", "two")):
        (tmp_path / side).mkdir()
        for name, data in (("changed", text), ("same", "abc")):
            (tmp_path / side / name).write_text(data)
            os.utime(tmp_path / side / name, ns=(0, 5_000_000_000))
    lower, upper = ([Mount("bind", str(tmp_path / side), options=("rbind",))] for side in ("lower", "upper"))
    assert names(content, differ.compare(content, lower, upper, media_type=PLAIN)) == ["changed"]


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize(
    ("suffix", "decompress"),
    [("", bytes), ("+gzip", gzip.decompress), ("+zstd", unzstd)],
    ids=["plain", "gzip", "zstd"],
)
def test_compression_and_annotation(
    differ: WalkingDiffer,
    content: ContentStore,
    altered: Snapshotter,
    suffix: str,
    decompress: Callable[[bytes], bytes],
) -> None:
    layer = differ.compare(content, [], altered.mounts("active"), media_type=PLAIN + suffix)
    data = decompress(blob(content, layer.digest))
    assert layer.media_type == PLAIN + suffix
    assert layer.annotations == {UNCOMPRESSED: f"sha256:{hashlib.sha256(data).hexdigest()}"}
    assert layer.size == content.info(layer.digest).size


def test_default_is_gzip(differ: WalkingDiffer, content: ContentStore, altered: Snapshotter) -> None:
    assert differ.compare(content, [], altered.mounts("active")).media_type == PLAIN + "+gzip"


def test_media_type_that_is_not_written(differ: WalkingDiffer, content: ContentStore) -> None:
    with pytest.raises(InvalidArgument, match=r"xz"):
        differ.compare(content, [], [], media_type=PLAIN + "+xz")
    assert content.statuses() == []


def test_a_name_that_would_be_a_whiteout_is_refused(
    differ: WalkingDiffer, content: ContentStore, tmp_path: Path
) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/.wh.passwd").write_text("x")
    with pytest.raises(InvalidArgument, match=r"\.wh\.passwd"):
        differ.compare(content, [], [Mount("bind", str(tmp_path / "upper"), options=("rbind",))])
    assert content.statuses() == []


def test_ingest_of_the_callers_is_begun_anew_and_kept_on_error(
    differ: WalkingDiffer, content: ContentStore, altered: Snapshotter
) -> None:
    with content.writer("mine") as writer:
        writer.write(b"left over")
    with pytest.raises(Exception, match="nowhere"):
        differ.compare(content, [], [Mount("bind", "/nowhere", options=("rbind",))], ref="mine")
    assert [status.ref for status in content.statuses()] == ["mine"]
    layer = differ.compare(content, [], altered.mounts("active"), ref="mine")
    assert content.statuses() == []
    assert gzip.decompress(blob(content, layer.digest))


def _overlay(*options: str) -> list[Mount]:
    return [Mount("overlay", "overlay", options=options)]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ([Mount("bind", "/1", options=("ro", "rbind"))], _overlay("upperdir=/u", "workdir=/w", "lowerdir=/1"), "/u"),
        (_overlay("lowerdir=/2:/1"), _overlay("upperdir=/u", "workdir=/w", "lowerdir=/2:/1", "index=off"), "/u"),
        (_overlay("lowerdir=/1:/2"), _overlay("upperdir=/u", "workdir=/w", "lowerdir=/2:/1"), ""),
        (_overlay("lowerdir=/2:/1"), _overlay("upperdir=/u", "lowerdir=/2:/1", "metacopy=on"), ""),
        (_overlay("lowerdir=/2:/1", "upperdir=/x"), _overlay("upperdir=/u", "lowerdir=/2:/1"), ""),
        ([], [Mount("bind", "/u", options=("rbind",))], ""),
        ([Mount("bind", "/1")], _overlay("lowerdir=/2:/1"), ""),
    ],
)
def test_when_the_upper_folder_tells_all(lower: list[Mount], upper: list[Mount], expected: str) -> None:
    assert upper_folder(lower, upper) == expected
