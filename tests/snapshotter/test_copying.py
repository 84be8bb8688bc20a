"""Copies of whole trees."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from moorage_snapshotter import copying
from moorage_snapshotter.copying import copy_tree
from support.descriptors import none_left


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a file system keeps of each entry below `root`, `root` included."""
    found = {}
    links: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(root))
        same = links.setdefault(status.st_ino, name)
        found[name] = (
            (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns),
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
            status.st_blocks if stat.S_ISREG(status.st_mode) else 0,
            same,
            {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
        )
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_bytes(os.urandom(100_000))
    (root / "a/b/link").hardlink_to(root / "a/file")
    (root / "soft").symlink_to("../outside")
    (root / "soft-again").hardlink_to(root / "soft")
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o700)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    with open(root / "hole", "wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(5 << 20)
    (root / "empty").touch()
    os.setxattr(root / "a/file", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(root / "a", "trusted.note", b"\0")
    os.setxattr(root / "soft", "trusted.note", b"link", follow_symlinks=False)
    os.chown(root / "a/file", 5, 6)
    (root / "a/file").chmod(0o4755)
    os.chown(root, 7, 8)
    root.chmod(0o1750)
    (root / "sealed").mkdir(mode=0o0)
    for number, path in enumerate(sorted([*root.rglob("*"), root], reverse=True)):
        os.utime(path, ns=(1, 1_500_000_000_123_456_789 + number), follow_symlinks=False)
    return root


def test_copy_has_everything(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy_tree(str(tree), str(tmp_path / "copy"))
    assert describe(tmp_path / "copy") == describe(tree)


def test_copy_where_the_kernel_does_not_copy(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(copying.os, "copy_file_range", refuse)
    (tmp_path / "copy").mkdir()
    copy_tree(str(tree), str(tmp_path / "copy"))
    assert describe(tmp_path / "copy") == describe(tree)


def test_no_descriptor_is_left_open(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/empty").touch()
    with none_left(), pytest.raises(FileExistsError):
        copy_tree(str(tree), str(tmp_path / "copy"))
