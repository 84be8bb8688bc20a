"""Registers the snapshotters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from moorage_api.oci.platforms import default_platform
from moorage_api.plugin import InitContext, PluginType, Registration, SkipPlugin, hookimpl
from moorage_snapshotter.erofs import ErofsSnapshotter
from moorage_snapshotter.image_mount import erofs_problem
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.support import default_options, maps_ids, overlay_problem

_ROOT = "Where snapshots are kept; empty for the plugin's folder below the daemon's root."
_DURABLE = (
    "Bring a snapshot's files to disk before it counts as committed. Without it a power cut may leave an image whose "
    "files are empty."
)
_REMOVE_AT_ONCE = "Delete the files of a removed snapshot before the removal is answered, not at the next clean-up."


class NativeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshotter that copies."""

    root_path: Annotated[str, msgspec.Meta(description=_ROOT)] = ""
    durable: Annotated[bool, msgspec.Meta(description=_DURABLE)] = True
    remove_at_once: Annotated[bool, msgspec.Meta(description=_REMOVE_AT_ONCE)] = True


_MOUNT_OPTIONS = "Options for every overlay mount. `index=off`, and `userxattr` in a user namespace, are added."


class ErofsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshotter that keeps layers as EROFS images."""

    root_path: Annotated[str, msgspec.Meta(description=_ROOT)] = ""
    durable: Annotated[bool, msgspec.Meta(description=_DURABLE)] = True
    remove_at_once: Annotated[bool, msgspec.Meta(description=_REMOVE_AT_ONCE)] = True
    mount_options: Annotated[list[str], msgspec.Meta(description=_MOUNT_OPTIONS)] = []


class OverlayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The overlayfs snapshotter."""

    root_path: Annotated[str, msgspec.Meta(description=_ROOT)] = ""
    durable: Annotated[bool, msgspec.Meta(description=_DURABLE)] = True
    remove_at_once: Annotated[bool, msgspec.Meta(description=_REMOVE_AT_ONCE)] = True
    mount_options: Annotated[list[str], msgspec.Meta(description=_MOUNT_OPTIONS)] = []


def init_overlay(context: InitContext[OverlayConfig]) -> OverlaySnapshotter:
    """Start the overlayfs snapshotter. `SkipPlugin` where overlayfs does not work on the root's file system."""
    config = context.config
    root = _root(context, config.root_path)
    options = default_options(config.mount_options)
    problem = _overlay_problem(root, options)
    if problem:
        raise SkipPlugin(problem)
    snapshotter = OverlaySnapshotter(root, options, durable=config.durable, remove_at_once=config.remove_at_once)
    context.on_stop(snapshotter.close)
    context.capabilities.extend(["rebase", *_mapping(root)])
    return snapshotter


def init_erofs(context: InitContext[ErofsConfig]) -> ErofsSnapshotter:
    """Start the snapshotter of images. `SkipPlugin` where the kernel does not mount them, or no overlays on them."""
    config = context.config
    root = _root(context, config.root_path)
    options = default_options(config.mount_options)
    problem = _overlay_problem(root, options) or erofs_problem(root)
    if problem:
        raise SkipPlugin(problem)
    snapshotter = ErofsSnapshotter(root, options, durable=config.durable, remove_at_once=config.remove_at_once)
    context.on_stop(snapshotter.close)
    context.capabilities.extend(["rebase", *_mapping(root)])
    return snapshotter


def init_native(context: InitContext[NativeConfig]) -> NativeSnapshotter:
    """Start the snapshotter that copies."""
    config = context.config
    root = _root(context, config.root_path)
    snapshotter = NativeSnapshotter(root, durable=config.durable, remove_at_once=config.remove_at_once)
    context.on_stop(snapshotter.close)
    context.capabilities.extend(_mapping(root, overlay=False))
    return snapshotter


_asked: dict[tuple[int, tuple[str, ...]], str] = {}


def _overlay_problem(root: Path, options: tuple[str, ...]) -> str:
    """`overlay_problem`, found out once for a file system: to try it takes longer than the rest of a start."""
    key = (root.stat().st_dev, options)
    if key not in _asked:
        _asked[key] = overlay_problem(root, options)
    return _asked[key]


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(PluginType.SNAPSHOTTER, "overlayfs", init_overlay, config=OverlayConfig),
        Registration(PluginType.SNAPSHOTTER, "erofs", init_erofs, config=ErofsConfig),
        Registration(PluginType.SNAPSHOTTER, "native", init_native, config=NativeConfig),
    ]


def _mapping(root: Path, *, overlay: bool = True) -> list[str]:
    """containerd's word for snapshotters that take the labels of id mappings, where it can be done."""
    return ["remap-ids"] if maps_ids(root, overlay=overlay) else []


def _root(
    context: InitContext[OverlayConfig] | InitContext[ErofsConfig] | InitContext[NativeConfig], configured: str
) -> Path:
    """The folder to work in, made if need be; shown to clients under `root`, as containerd's snapshotters do."""
    root = Path(configured) if configured else context.root
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    context.exports["root"] = str(root)
    context.platforms.append(default_platform())
    return root
