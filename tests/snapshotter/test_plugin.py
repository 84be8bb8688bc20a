"""How the snapshotters are set up, and where overlayfs cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from moorage_api.plugin import PluginType, SkipPlugin
from moorage_api.snapshots import Snapshotter, rebases
from moorage_snapshotter import support
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.plugin import OverlayConfig, moorage_register
from moorage_snapshotter.support import default_options, maps_ids, overlay_problem


class Context(SimpleNamespace):
    """What the daemon gives a plugin."""

    def __init__(self, root: Path, config: object) -> None:
        super().__init__(root=root, config=config, exports={}, platforms=[], capabilities=[], stops=[])

    def on_stop(self, stop: Any) -> None:
        self.stops.append(stop)


@pytest.fixture
def overlay_root(tmp_path: Path) -> Iterator[Path]:
    """A folder on an overlay: no overlay can have its upper folder there."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    options = [f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work")]
    with temporary_mount([Mount("overlay", "overlay", options=tuple(options))], str(tmp_path)) as root:
        yield Path(root)


@pytest.mark.parametrize("id", ["overlayfs", "native", "erofs"])
def test_plugins_start_and_stop(tmp_path: Path, id: str) -> None:
    [registration] = [found for found in moorage_register() if found.id == id]
    assert registration.type is PluginType.SNAPSHOTTER
    context = Context(tmp_path, registration.config())
    snapshotter = registration.init(context)
    assert isinstance(snapshotter, Snapshotter)
    assert context.exports == {"root": str(tmp_path)}
    assert [platform.os for platform in context.platforms] == ["linux"]
    mapping = ["remap-ids"] if maps_ids(tmp_path, overlay=id != "native") else []
    assert context.capabilities == (["rebase"] if id != "native" else []) + mapping
    assert rebases(snapshotter) == (id != "native")
    [stop] = context.stops
    stop()


def test_root_from_the_configuration(tmp_path: Path) -> None:
    [registration] = [found for found in moorage_register() if found.id == "overlayfs"]
    chosen = tmp_path / "some/where"
    context = Context(tmp_path / "default", OverlayConfig(root_path=str(chosen), mount_options=["xino=off"]))
    snapshotter = registration.init(context)
    assert isinstance(snapshotter, OverlaySnapshotter)
    snapshotter.prepare("key")
    snapshotter.commit("name", "key")
    [mount] = snapshotter.prepare("more", "name")
    assert {"xino=off", "index=off"} <= set(mount.options)
    assert f"lowerdir={chosen}/snapshots/1/fs" in mount.options
    assert not (tmp_path / "default").exists()
    snapshotter.close()


def test_every_option_says_what_it_is() -> None:
    for registration in moorage_register():
        for field in msgspec.structs.fields(registration.config):
            assert msgspec.inspect.type_info(field.type).extra_json_schema["description"], field.name  # type: ignore[attr-defined]


def test_overlay_where_it_does_not_work(overlay_root: Path) -> None:
    [registration] = [found for found in moorage_register() if found.id == "overlayfs"]
    with pytest.raises(SkipPlugin, match="overlay"):
        registration.init(Context(overlay_root, OverlayConfig()))
    assert list(overlay_root.iterdir()) == []


def test_overlay_with_an_option_that_it_does_not_know(tmp_path: Path) -> None:
    assert overlay_problem(tmp_path, ["no-such-option"]).startswith(str(tmp_path))
    assert overlay_problem(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_file_system_that_shows_whiteouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def keep(path: str, *, dir_fd: int | None = None) -> None:
        """Only what the probe does in the overlay fails to take effect."""
        if dir_fd is not None:
            unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(support.os, "unlink", keep)
    assert "d_type" in overlay_problem(tmp_path)


@pytest.mark.parametrize(
    ("given", "rootless", "expected"),
    [
        ([], False, ("index=off",)),
        (["index=on", "volatile"], False, ("index=on", "volatile")),
        ([], True, ("index=off", "userxattr")),
        (["userxattr"], True, ("userxattr", "index=off")),
    ],
)
def test_default_options(
    monkeypatch: pytest.MonkeyPatch, given: list[str], rootless: bool, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(support, "in_user_namespace", lambda: rootless)
    assert default_options(given) == expected
