"""Mounts as docker's users ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.cli.mounts import parse_mount, parse_tmpfs, parse_volume
from moorage.options import Bind, Tmpfs, Volume
from moorage_api.errors import InvalidArgument


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_volume(f"{tmp_path}:/data") == Bind(str(tmp_path), "/data")
    assert parse_volume("./new/folder:/data:ro") == Bind(f"{tmp_path}/new/folder", "/data", True)
    assert (tmp_path / "new/folder").is_dir()
    assert parse_volume("data:/x:ro,nocopy") == Volume("data", "/x", True, False)
    assert parse_volume("/x") == Volume("", "/x")
    assert parse_volume("/:/x:rslave") == Bind("/", "/x", propagation="rslave")


@pytest.mark.parametrize("text", ["", "a", "/a:", "/a:b", "na/me:/data", "/a:/b:xx", "/a:/b:ro:z", "/dev/null/x:/b"])
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid volume"):
        parse_volume(text)


def test_mounts(tmp_path: Path) -> None:
    assert parse_mount(f"type=bind,source={tmp_path},target=/x,readonly") == Bind(str(tmp_path), "/x", True)
    assert parse_mount(f"type=bind,src={tmp_path},dst=/x,bind-propagation=rslave") == Bind(
        str(tmp_path), "/x", propagation="rslave"
    )
    assert parse_mount("src=data,dst=/x,ro") == Volume("data", "/x", True)
    assert parse_mount("type=volume,target=/x,volume-nocopy") == Volume("", "/x", copy=False)
    assert parse_mount("type=tmpfs,target=/x,tmpfs-size=1m") == Tmpfs("/x", ("noexec", "nosuid", "nodev", "size=1m"))
    assert parse_tmpfs("/x:size=1m,mode=700") == Tmpfs("/x", ("size=1m", "mode=700"))
    assert parse_tmpfs("/x") == Tmpfs("/x")


@pytest.mark.parametrize(
    "text",
    [
        "type=bind,source=/,target=/x,bind-propagation=far",
        "type=image,target=/x",
        "type=tmpfs",
        "type=tmpfs,target=/x,colour=red",
        "type=bind,source=/nowhere,target=/x",
    ],
)
def test_what_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid mount"):
        parse_mount(text)
