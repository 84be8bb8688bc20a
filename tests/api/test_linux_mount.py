"""Mounts, and reading what is mounted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux import syscalls
from moorage_api.linux.mount import (
    MountOptions,
    is_mountpoint,
    mount_all,
    mountinfo,
    parse_options,
    temporary_mount,
    unmount,
    unmount_all,
    unmount_recursive,
)
from moorage_api.mounts import Mount


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "target"
    folder.mkdir()
    yield str(folder)
    unmount_recursive(str(folder))


def below(folder: object) -> list[str]:
    return [entry.target for entry in mountinfo() if entry.target.startswith(str(folder))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], MountOptions(0, 0, ())),
        (["ro", "rbind"], MountOptions(syscalls.MS_RDONLY | syscalls.MS_BIND | syscalls.MS_REC, 0, ())),
        (["ro", "nosuid", "rw"], MountOptions(syscalls.MS_NOSUID, 0, ())),
        (["rslave"], MountOptions(0, syscalls.MS_SLAVE | syscalls.MS_REC, ())),
        (["defaults", "index=off", "noatime"], MountOptions(syscalls.MS_NOATIME, 0, ("index=off",))),
    ],
)
def test_options(options: list[str], expected: MountOptions) -> None:
    assert parse_options(options) == expected


@pytest.mark.parametrize("option", ["loop", "X-containerd.mkfs=ext4"])
def test_options_that_need_another_way(option: str) -> None:
    with pytest.raises(OSError, match="not supported") as caught:
        parse_options([option])
    assert caught.value.errno == errno.EOPNOTSUPP


def test_read_only_bind_mount(tmp_path: Path, target: str) -> None:
    mount_all([Mount("bind", str(tmp_path), options=("rbind", "ro"))], target)
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "new").touch()


def test_all_or_nothing(tmp_path: Path, target: str) -> None:
    (tmp_path / "target/sub").mkdir()
    good = Mount("bind", str(tmp_path), options=("rbind",))
    with pytest.raises(FileNotFoundError):
        mount_all([good, Mount("tmpfs", "tmpfs", "target"), Mount("bind", "/nowhere", "target", ("rbind",))], target)
    assert below(target) == []


def test_second_step_that_fails_undoes_the_first(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = syscalls.mount

    def fail(*args: object) -> None:
        if len(args) > 3 and int(str(args[3])) & syscalls.MS_REMOUNT:
            raise OSError(errno.EPERM, "no")
        mount(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(syscalls, "mount", fail)
    with pytest.raises(PermissionError):
        mount_all([Mount("bind", "/usr", options=("bind", "ro"))], target)
    assert below(target) == []


def test_a_link_in_the_root_leads_nowhere_outside(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / "outside").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("../../../outside")
    bind = Mount("bind", str(root), options=("rbind",))
    with pytest.raises(FileNotFoundError):
        mount_all([bind, Mount("tmpfs", "tmpfs", "link")], target)
    mount_all([bind, Mount("tmpfs", "tmpfs", "up", ("ro",))], target)
    assert below(target) == [target, f"{target}/outside"]


def test_read_only_bind_below_the_root(tmp_path: Path, target: str) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    root = Mount("bind", str(tmp_path / "root"), options=("rbind",))
    mount_all([root, Mount("bind", "/usr", "sub", ("rbind", "ro", "rprivate"))], target)
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "sub/new").touch()


def test_more_layers_than_a_page_names(tmp_path: Path, target: str) -> None:
    layers = []
    for number in range(200):
        layer = tmp_path / f"a-rather-long-name-of-a-folder/{number}/fs"
        layer.mkdir(parents=True)
        (layer / str(number)).touch()
        layers.append(str(layer))
    here = os.getcwd()
    mount_all([Mount("overlay", "overlay", options=(f"lowerdir={':'.join(layers)}",))], target)
    assert len(os.listdir(target)) == 200
    assert os.getcwd() == here


def test_options_that_fit_nowhere(tmp_path: Path, target: str) -> None:
    with pytest.raises(OSError, match="a page is the most"):
        mount_all([Mount("tmpfs", "tmpfs", options=(f"context={'x' * 5000}",))], target)


def test_unmounting_what_is_not_mounted(tmp_path: Path, target: str) -> None:
    unmount(target)
    unmount_all(target)
    unmount(str(tmp_path / "nowhere"))


def test_stacked_mounts(target: str) -> None:
    for _ in range(3):
        mount_all([Mount("tmpfs", "tmpfs")], target)
    unmount(target)
    assert len(below(target)) == 2
    unmount_all(target)
    assert below(target) == []


def test_busy_mount(target: str) -> None:
    mount_all([Mount("tmpfs", "tmpfs")], target)
    with open(f"{target}/file", "w", encoding="ascii"):
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            unmount(target, patience=0.1)
        assert is_mountpoint(target)
    unmount(target)
    assert not is_mountpoint(target)


def test_temporary_mount_ends_with_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with temporary_mount([Mount("tmpfs", "tmpfs")], str(tmp_path)) as root:
            assert is_mountpoint(root)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_mountinfo_of_odd_names(tmp_path: Path) -> None:
    odd = tmp_path / "sp ace\ttab\\back"
    odd.mkdir()
    mount_all([Mount("tmpfs", "na me", options=("size=1M", "noexec"))], str(odd))
    [entry] = [entry for entry in mountinfo() if entry.target == str(odd)]
    unmount(str(odd))
    assert (entry.type, entry.source, entry.root) == ("tmpfs", "na me", "/")
    assert "noexec" in entry.options
    assert "size=1024k" in entry.super_options


MAPPING = ("uidmap=0:200000:1000", "gidmap=0:300000:1000")


def test_an_id_mapped_bind_mount(tmp_path: Path, target: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").touch()
    os.chown(tmp_path / "source/file", 5, 6)
    mount_all([Mount("bind", str(tmp_path / "source"), options=("rbind", "ro", *MAPPING))], target)
    found = os.stat(f"{target}/file")
    assert (found.st_uid, found.st_gid) == (200005, 300006)
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "new").touch()


def test_an_overlay_on_id_mapped_layers(tmp_path: Path, target: str) -> None:
    """Nothing is left but the overlay: the mapped layers are mounted nowhere that could be seen."""
    for name in ("one", "two", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/file").write_text("kept")
    (tmp_path / "two/other").touch()
    os.chown(tmp_path / "two/other", 5, 6)
    os.chown(tmp_path / "upper", 200000, 300000)
    lower = f"lowerdir={tmp_path}/two:{tmp_path}/one"
    own = (f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work")
    mount_all([Mount("overlay", "overlay", options=(lower, *own, *MAPPING))], target)
    owners = {
        name: (os.stat(f"{target}/{name}").st_uid, os.stat(f"{target}/{name}").st_gid) for name in os.listdir(target)
    }
    assert owners == {"file": (200000, 300000), "other": (200005, 300006)}
    assert below(tmp_path) == [target]
    Path(target, "file").write_text("changed")
    assert (tmp_path / "upper/file").stat().st_uid == 200000
    assert (tmp_path / "one/file").read_text() == "kept"


def test_a_mapping_below_the_root_of_a_file_system(tmp_path: Path, target: str) -> None:
    (tmp_path / "target/sub").mkdir()
    (tmp_path / "source").mkdir()
    request = Mount("bind", str(tmp_path / "source"), "sub", ("bind", *MAPPING))
    mount_all([Mount("bind", target, options=("rbind",)), request], target)
    assert os.stat(f"{target}/sub").st_uid == 200000


@pytest.mark.parametrize(
    ("type", "options", "number"),
    [
        ("bind", ("bind", "uidmap=0:200000:1000"), errno.EINVAL),
        ("bind", ("bind", "uidmap=nonsense", "gidmap=0:1:1"), errno.EINVAL),
        ("tmpfs", MAPPING, errno.EOPNOTSUPP),
    ],
)
def test_mappings_that_cannot_be(tmp_path: Path, target: str, type: str, options: tuple[str, ...], number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        mount_all([Mount(type, str(tmp_path), options=options)], target)
    assert caught.value.errno == number
    assert below(target) == []
