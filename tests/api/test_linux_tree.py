"""Trees of folders, deep and moving ones too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux.tree import Entered, disk_usage, remove_tree, walk


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Folders deeper than any path can name or any recursion go."""
    root = tmp_path / "deep"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("folder", dir_fd=fd)
        child = os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    yield root
    remove_tree(str(root))


def test_deep_tree(deep: Path) -> None:
    assert disk_usage(str(deep))[1] == 3001
    remove_tree(str(deep))
    assert not deep.exists()


def test_usage_is_that_of_du(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / f"{number % 4}" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * number * 1000)
        (folder / "link").hardlink_to(folder / "file")
        (folder / "soft").symlink_to("/" * 200)
    size = subprocess.run(["du", "-s", "--block-size=1", tmp_path], check=True, capture_output=True, text=True).stdout
    inodes = subprocess.run(["du", "-s", "--inodes", tmp_path], check=True, capture_output=True, text=True).stdout
    assert disk_usage(str(tmp_path)) == (int(size.split()[0]), int(inodes.split()[0]))


def test_order_is_by_name(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/c", "c"):
        (tmp_path / name).mkdir(parents=True)
    entered = [event.name for event in walk(str(tmp_path)) if isinstance(event, Entered)]
    assert entered == ["", "a", "c", "b", "1", "2", "c"]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    assert disk_usage(str(tmp_path / "tree"))[1] == 2
    remove_tree(str(tmp_path / "tree"))
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside/file").exists()


def test_removal_of_what_is_gone(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "nowhere"))


def test_folder_moved_away_during_a_walk(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    events = walk(str(tmp_path / "tree"))
    assert [next(events).name for _ in range(3)] == ["", "a", "b"]
    (tmp_path / "tree/a/b").rename(tmp_path / "elsewhere/b")
    with pytest.raises(OSError, match="moved"):
        next(events)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    Path(f"{tmp_path}/\udcff\udcfe/file").touch()
    remove_tree(f"{tmp_path}/\udcff\udcfe")
    assert list(tmp_path.iterdir()) == []
