"""The conformance suite of differs. An author's test file:

    from moorage_api.testing.differ import DifferSuite

    class TestMine(DifferSuite):
        def open_differ(self, folder):
            return MyDiffer(folder)

Each test states one rule of `moorage_api.differ`. Layers are applied to real mounts: needs root.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from moorage_api.differ import Differ
from moorage_api.errors import InvalidArgument, MoorageError, NotFound, Unimplemented
from moorage_api.mounts import Mount
from moorage_api.testing.memory import MemoryContentStore
from moorage_api.testing.snapshot_files import contents, write
from moorage_api.types import Descriptor

TAR = "application/vnd.oci.image.layer.v1.tar"
UNCOMPRESSED = "containerd.io/uncompressed"
Change = Callable[[Path], object]


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(*entries: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    """A tar of the entries: members as they are, or files by name; with their data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry, data in entries:
            member = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, type: bytes, **fields: object) -> tarfile.TarInfo:
    """An entry of a type other than a file."""
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def bind(folder: Path) -> list[Mount]:
    """`folder` as a snapshot's mounts."""
    return [Mount("bind", str(folder), options=("rw", "rbind"))]


class DifferSuite:
    """Derive a class whose name begins with `Test`, and say how to open the differ."""

    writes: ClassVar[tuple[str, ...]] = (TAR, f"{TAR}+gzip")
    """The media types that `compare` makes; empty for a differ that only applies."""

    def open_differ(self, folder: Path) -> Differ:
        """Open the differ; `folder` is for what it needs."""
        raise NotImplementedError

    def close_differ(self, differ: Differ) -> None:
        """Release what `open_differ` took. Nothing by default."""

    @pytest.fixture
    def content(self) -> MemoryContentStore:
        self.blobs = MemoryContentStore()
        return self.blobs

    @pytest.fixture
    def differ(self, tmp_path: Path, content: MemoryContentStore) -> Iterator[Differ]:
        folder = tmp_path / "differ"
        folder.mkdir()
        differ = self.open_differ(folder)
        yield differ
        self.close_differ(differ)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        folder = tmp_path / "root"
        folder.mkdir()
        return folder

    def test_is_a_differ(self, differ: Differ) -> None:
        assert isinstance(differ, Differ)

    # Applying

    def _apply(
        self, differ: Differ, content: MemoryContentStore, data: bytes, root: Path, type: str = TAR
    ) -> Descriptor:
        info = content.put(data)
        return differ.apply(content, Descriptor(type, info.digest, info.size), bind(root))

    @pytest.mark.parametrize("compression", ["", "+gzip"])
    def test_files_come_out_of_layers(
        self, differ: Differ, content: MemoryContentStore, root: Path, compression: str
    ) -> None:
        data = archive(
            (member("folder", tarfile.DIRTYPE, mode=0o755), b""), ("folder/file", b"text"), ("large", b"x" * 3_000_000)
        )
        packed = gzip.compress(data) if compression else data
        applied = self._apply(differ, content, packed, root, TAR + compression)
        assert contents(root) == {"folder": "folder", "folder/file": "text", "large": "x" * 3_000_000}
        assert (applied.digest, applied.size) == (digest_of(data), len(data)), "the diff ID"

    def test_every_kind_of_entry(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        data = archive(
            ("file", b"text"),
            (member("hard", tarfile.LNKTYPE, linkname="file"), b""),
            (member("link", tarfile.SYMTYPE, linkname="../file"), b""),
            (member("fifo", tarfile.FIFOTYPE, mode=0o600), b""),
            (member("null", tarfile.CHRTYPE, mode=0o620, devmajor=1, devminor=3), b""),
        )
        self._apply(differ, content, data, root)
        assert contents(root) == {"file": "text", "hard": "text", "link": "-> ../file", "fifo": "p", "null": "c"}
        assert os.stat(root / "file").st_nlink == 2
        assert os.stat(root / "null").st_rdev == os.makedev(1, 3)

    def test_owners_modes_and_times(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        entry = member("file", tarfile.REGTYPE, mode=0o4751, uid=1000, gid=2000, mtime=1_234_567_890)
        folder = member("folder", tarfile.DIRTYPE, mode=0o1777, uid=3, gid=4, mtime=1_000_000_000)
        self._apply(differ, content, archive((folder, b""), (entry, b"text"), ("folder/inner", b"")), root)
        found = os.stat(root / "file")
        assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o4751, 1000, 2000)
        assert found.st_mtime == 1_234_567_890
        found = os.stat(root / "folder")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime) == (0o1777, 3, 1_000_000_000)

    def test_extended_attributes(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        entry = member("file", tarfile.REGTYPE, pax_headers={"SCHILY.xattr.user.note": "value"})
        self._apply(differ, content, archive((entry, b"text")), root)
        assert os.getxattr(root / "file", "user.note") == b"value"

    def test_whiteouts_delete(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        write(root, "gone", "1")
        write(root, "folder/gone", "1")
        write(root, "folder/kept", "1")
        write(root, "opaque/gone", "1")
        data = archive((".wh.gone", b""), ("folder/.wh.gone", b""), ("opaque/.wh..wh..opq", b""), ("opaque/new", b"2"))
        self._apply(differ, content, data, root)
        assert contents(root) == {"folder": "folder", "folder/kept": "1", "opaque": "folder", "opaque/new": "2"}

    def test_later_layers_replace(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        self._apply(differ, content, archive(("a", b"file"), ("b/c", b"1")), root)
        self._apply(
            differ,
            content,
            archive((member("a", tarfile.DIRTYPE, mode=0o755), b""), ("a/b", b"2"), ("b", b"file")),
            root,
        )
        assert contents(root) == {"a": "folder", "a/b": "2", "b": "file"}

    @pytest.mark.parametrize("name", ["../outside", "/outside", "link/outside"])
    def test_nothing_leaves_the_root(
        self, differ: Differ, content: MemoryContentStore, root: Path, name: str, tmp_path: Path
    ) -> None:
        data = archive((member("link", tarfile.SYMTYPE, linkname=str(tmp_path)), b""), (name, b"escaped"))
        with suppress(MoorageError):  # refusing is as good
            self._apply(differ, content, data, root)
        assert not (tmp_path / "outside").exists()
        assert not Path("/outside").exists()

    def test_a_blob_that_is_not_there(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        with pytest.raises(NotFound):
            differ.apply(content, Descriptor(TAR, digest_of(b"nobody"), 6), bind(root))

    def test_a_media_type_that_it_does_not_read(self, differ: Differ, content: MemoryContentStore, root: Path) -> None:
        with pytest.raises((InvalidArgument, Unimplemented)):
            self._apply(differ, content, archive(("a", b"")), root, "application/vnd.unknown")

    @pytest.mark.parametrize("end", [700, -600])
    def test_an_archive_that_is_broken(self, differ: Differ, content: MemoryContentStore, root: Path, end: int) -> None:
        data = gzip.compress(archive(("a", os.urandom(5000)), ("b", b"text")))
        with pytest.raises(InvalidArgument):
            self._apply(differ, content, data[:end], root, f"{TAR}+gzip")

    # Comparing

    CHANGES: ClassVar[dict[str, Change]] = {
        "added": lambda root: write(root, "new/file", "text"),
        "changed": lambda root: write(root, "folder/file", "other text"),
        "deleted": lambda root: (root / "folder/file").unlink(),
        "mode": lambda root: (root / "folder/file").chmod(0o600),
        "link": lambda root: (root / "link").symlink_to("folder"),
        "hard-link": lambda root: (root / "hard").hardlink_to(root / "folder/file"),
        "nothing": lambda root: None,
    }

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_difference_applied_gives_the_upper(
        self, differ: Differ, content: MemoryContentStore, tmp_path: Path, change: str
    ) -> None:
        if not self.writes:
            pytest.skip("the differ only applies")
        lower, upper, again = (tmp_path / name for name in ("lower", "upper", "again"))
        for folder in (lower, upper, again):
            write(folder, "folder/file", "text")
            write(folder, "kept", "text")
            for path in (folder / "folder/file", folder / "kept"):
                os.utime(path, (1, 1))
        self.CHANGES[change](upper)
        layer = differ.compare(content, bind(lower), bind(upper))
        applied = differ.apply(content, layer, bind(again))
        assert contents(again) == contents(upper)
        assert (again / "kept").stat().st_mode == (upper / "kept").stat().st_mode
        assert applied.digest == layer.annotations[UNCOMPRESSED]
        assert content.info(layer.digest).labels[UNCOMPRESSED] == applied.digest

    def test_media_types_and_labels(self, differ: Differ, content: MemoryContentStore, tmp_path: Path) -> None:
        lower, upper = tmp_path / "lower", tmp_path / "upper"
        lower.mkdir()
        write(upper, "file", "text")
        for number, media_type in enumerate(self.writes):
            layer = differ.compare(
                content, bind(lower), bind(upper), media_type=media_type, ref=f"ref-{number}", labels={"a": "1"}
            )
            data = content.read(layer.digest)
            assert layer.media_type == media_type
            assert (layer.digest, layer.size) == (digest_of(data), len(data))
            assert (data[:2] == b"\x1f\x8b") is media_type.endswith("gzip")
            assert content.info(layer.digest).labels["a"] == "1"
        assert content.statuses() == [], "no ingest is left"

    def test_a_media_type_that_it_does_not_write(
        self, differ: Differ, content: MemoryContentStore, tmp_path: Path
    ) -> None:
        lower = tmp_path / "lower"
        lower.mkdir()
        with pytest.raises((InvalidArgument, Unimplemented)):
            differ.compare(content, bind(lower), bind(lower), media_type="application/vnd.unknown")
        assert content.statuses() == []
