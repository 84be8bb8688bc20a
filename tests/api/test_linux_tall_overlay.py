"""Overlays of as many layers as the kernel takes, whatever their paths are like."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from moorage_api.linux.mount import mountinfo, temporary_mount
from moorage_api.mounts import Mount


def layers(tmp_path: Path, count: int) -> list[str]:
    """Folders with a file each and nothing in common in their names, so that no shortening makes them fit a page."""
    made = []
    for number in range(count):
        folder = tmp_path / uuid.uuid4().hex / uuid.uuid4().hex
        folder.mkdir(parents=True)
        (folder / str(number)).touch()
        made.append(str(folder))
    return made


def overlay(tmp_path: Path, lower: Sequence[str], *options: str) -> list[Mount]:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    own = (f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work")
    return [Mount("overlay", "overlay", options=(*own, f"lowerdir={':'.join(lower)}", *options))]


@pytest.mark.parametrize("count", [100, 500])
def test_many_layers(tmp_path: Path, count: int) -> None:
    mounts = overlay(tmp_path, layers(tmp_path, count), "index=off", "volatile")
    with temporary_mount(mounts) as root:
        assert set(os.listdir(root)) == {str(number) for number in range(count)}
        Path(root, "new").touch()
        Path(root, "0").unlink()
        [entry] = [entry for entry in mountinfo() if entry.target == root]
        # As newer kernels show it, and older ones.
        assert {"fsync=volatile", "volatile"} & set(entry.super_options)
    assert {entry.name for entry in os.scandir(tmp_path / "upper")} == {"new", "0"}


def test_flags(tmp_path: Path) -> None:
    lower = layers(tmp_path, 100)
    mount = Mount("overlay", "overlay", options=("ro", "nosuid", "nodev", f"lowerdir={':'.join(lower)}"))
    with temporary_mount([mount]) as root:
        [entry] = [entry for entry in mountinfo() if entry.target == root]
        assert {"ro", "nosuid", "nodev"} <= set(entry.options)


def test_more_than_the_kernel_takes(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="too many lower directories") as raised,
        temporary_mount(overlay(tmp_path, layers(tmp_path, 501))),
    ):
        pass
    assert raised.value.errno == errno.EINVAL


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    lower = [*layers(tmp_path, 100), f"{tmp_path}/nowhere"]
    with pytest.raises(FileNotFoundError, match="nowhere"), temporary_mount(overlay(tmp_path, lower)):
        pass


def test_an_option_that_it_does_not_know(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="nonsense"),
        temporary_mount(overlay(tmp_path, layers(tmp_path, 100), "nonsense=1")),
    ):
        pass
    assert not [entry for entry in mountinfo() if str(tmp_path) in entry.target]
