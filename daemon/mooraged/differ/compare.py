"""Makes a layer of what differs between two snapshots, within a worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from mooraged.differ.apply import Applied
from mooraged.differ.changes import from_trees, from_upper
from mooraged.differ.layer import Layer
from mooraged.differ.media import Compression
from mooraged.differ.targets import enter_private_mounts, overlay_option

_PARAMETERS = "/sys/module/overlay/parameters"
# With these, an upper folder refers to files of the layers below: its own do not tell the whole.
_REFERRING = ("redirect_dir", "metacopy", "userxattr")


def compare(
    lower: Sequence[Mount],
    upper: Sequence[Mount],
    compression: Compression,
    *,
    scratch: str,
    output: Callable[[bytes], None],
) -> Applied:
    """Give `output` a layer that turns `lower` into `upper`, compressed; returns what it is uncompressed.

    `TarError` for files that a layer cannot hold, `OSError`.
    """
    layer = Layer(compression, output)
    folder = upper_folder(lower, upper)
    if folder:
        from_upper(folder, layer)
    else:
        _in_thread(lambda: _compare_mounted(lower, upper, layer, scratch))
    layer.finish()
    return Applied(layer.digest, layer.size)


def upper_folder(lower: Sequence[Mount], upper: Sequence[Mount]) -> str:
    """The folder that holds all that `upper` changed, where overlayfs has collected it: `upper` is an overlay on exactly
    the layers that `lower` shows. Empty where the two have to be compared."""
    if len(upper) != 1 or _refers(upper[0]):
        return ""
    below = overlay_option(upper[0], "lowerdir")
    return overlay_option(upper[0], "upperdir") if below and below == _layers(lower) else ""


def _layers(mounts: Sequence[Mount]) -> str:
    """The layers that read-only mounts show, as an overlay has them in `lowerdir`; empty where they are not known."""
    if len(mounts) != 1 or overlay_option(mounts[0], "upperdir"):
        return ""
    return mounts[0].source if mounts[0].type == "bind" else overlay_option(mounts[0], "lowerdir")


def _refers(mount: Mount) -> bool:
    """Whether the upper folder of an overlay may refer to files of the layers below."""
    if any(option.partition("=")[0] in _REFERRING for option in mount.options):
        return True
    for parameter in ("redirect_dir", "metacopy"):
        try:
            with open(f"{_PARAMETERS}/{parameter}", encoding="ascii") as file:
                if file.read().strip() == "Y":
                    return True
        except FileNotFoundError:
            continue
    return False


def _compare_mounted(lower: Sequence[Mount], upper: Sequence[Mount], layer: Layer, scratch: str) -> None:
    enter_private_mounts()
    with ExitStack() as stack:
        below = stack.enter_context(temporary_mount(lower, scratch))
        above = stack.enter_context(temporary_mount([_read_only(mount) for mount in upper], scratch))
        from_trees(below, above, layer)


def _read_only(mount: Mount) -> Mount:
    """The mount, so that comparing changes nothing. An overlay's upper folder becomes its uppermost lower one: overlayfs
    does not allow a second use of it while a container has it mounted."""
    upper = overlay_option(mount, "upperdir")
    if not upper:
        options = [option for option in mount.options if option not in ("rw", "ro")]
        return Mount(mount.type, mount.source, mount.target, (*options, "ro"))
    kept = [option for option in mount.options if not option.startswith(("upperdir=", "workdir=", "lowerdir="))]
    layers = f"lowerdir={upper}:{overlay_option(mount, 'lowerdir')}"
    return Mount(mount.type, mount.source, mount.target, (*kept, layers))


def _in_thread(work: Callable[[], None]) -> None:
    """Do `work` in a thread of its own, which may change namespaces; raises what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised below, in the thread that waits)
            failures.append(error)

    thread = threading.Thread(target=run, name="compare")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
