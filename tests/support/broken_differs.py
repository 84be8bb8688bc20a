"""Differs that are broken on purpose, at least one for each rule of the conformance suite.

docs/conformance.md is made from this by `./dev docs`.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from moorage_api.content import ContentStore
from moorage_api.differ import Differ
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.mounts import Mount
from moorage_api.testing.differ import TAR, DifferSuite, digest_of
from moorage_api.types import Descriptor
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer
from support.mutations import mutants_of


@cache
def pool() -> WorkerPool:
    """The workers of all of them; they end with this process."""
    return WorkerPool(1)


class Sound(WalkingDiffer):
    """Nothing: it keeps every rule."""

    breaks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        super().__init__(pool(), Limits(), folder)


class Incomplete:
    """It does not make layers, and does not say so."""

    breaks = ("is_a_differ",)

    def __init__(self, folder: Path) -> None:
        self.apply = Sound(folder).apply


class NamesTheBlob(Sound):
    """What it returns is the layer as it came, and not what it was uncompressed."""

    breaks = ("files_come_out_of_layers",)

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        super().apply(content, layer, mounts, **options)
        return layer


class _Touching(Sound):
    """Does something to the folder after each layer."""

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        root = Path(mounts[0].source)
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
        applied = super().apply(content, layer, mounts, **options)
        for path in sorted(root.rglob("*")):
            self.touch(path)
        self.restore(before)
        return applied

    def touch(self, path: Path) -> None:
        return

    def restore(self, before: dict[Path, bytes]) -> None:
        return


class MakesFilesAlone(_Touching):
    """Neither fifos nor devices come out of a layer."""

    breaks = ("every_kind_of_entry",)

    def touch(self, path: Path) -> None:
        if stat.S_ISFIFO(path.lstat().st_mode) or stat.S_ISCHR(path.lstat().st_mode):
            path.unlink()


class LosesOwners(_Touching):
    """All files are root's."""

    breaks = ("owners_modes_and_times",)

    def touch(self, path: Path) -> None:
        os.lchown(path, 0, 0)


class LosesAttributes(_Touching):
    """Extended attributes are left out."""

    breaks = ("extended_attributes",)

    def touch(self, path: Path) -> None:
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)


class DeletesNothing(_Touching):
    """Whiteouts have no effect."""

    breaks = ("whiteouts_delete",)

    def restore(self, before: dict[Path, bytes]) -> None:
        for path, data in before.items():
            if not path.exists():
                path.write_bytes(data)


class KeepsWhatWasThere(_Touching):
    """A file that is there stays, whatever the layer has in its place."""

    breaks = ("later_layers_replace",)

    def restore(self, before: dict[Path, bytes]) -> None:
        for path, data in before.items():
            if path.is_dir():
                for child in path.iterdir():
                    child.unlink()
                path.rmdir()
                path.write_bytes(data)


class FollowsPaths(Sound):
    """A path that leads above the root is followed."""

    breaks = ("nothing_leaves_the_root",)

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        with content.open(layer.digest) as blob:
            if b"../outside" in blob.pread(blob.size, 0):
                Path(mounts[0].source, "../outside").write_text("escaped")
        return super().apply(content, layer, mounts, **options)


class MissesNothing(Sound):
    """A blob that is not there is an empty layer."""

    breaks = ("a_blob_that_is_not_there",)

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        try:
            return super().apply(content, layer, mounts, **options)
        except NotFound:
            return Descriptor(TAR, digest_of(b""), 0)


class ReadsAnything(Sound):
    """Whatever the media type, it is a layer."""

    breaks = ("a_media_type_that_it_does_not_read",)

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        return super().apply(content, Descriptor(TAR, layer.digest, layer.size), mounts, **options)


class IsContentWithHalf(Sound):
    """What can be read of a broken archive is enough."""

    breaks = ("an_archive_that_is_broken",)

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **options: Any) -> Descriptor:
        try:
            return super().apply(content, layer, mounts, **options)
        except InvalidArgument:
            return layer


class ForgetsDeletions(Sound):
    """A layer has all that is there, and nothing of what is gone."""

    breaks = ("a_difference_applied_gives_the_upper",)

    def compare(
        self, content: ContentStore, lower: Sequence[Mount], upper: Sequence[Mount], **options: Any
    ) -> Descriptor:
        with tempfile.TemporaryDirectory() as empty:
            return super().compare(content, [Mount("bind", empty, options=("rbind",))], upper, **options)


class CompressesAlways(Sound):
    """Layers are compressed, whatever is asked for."""

    breaks = ("media_types_and_labels",)

    def compare(
        self, content: ContentStore, lower: Sequence[Mount], upper: Sequence[Mount], **options: Any
    ) -> Descriptor:
        return super().compare(content, lower, upper, **{**options, "media_type": f"{TAR}+gzip"})


class WritesAnything(Sound):
    """A media type that it does not write is its own."""

    breaks = ("a_media_type_that_it_does_not_write",)

    def compare(
        self, content: ContentStore, lower: Sequence[Mount], upper: Sequence[Mount], **options: Any
    ) -> Descriptor:
        try:
            return super().compare(content, lower, upper, **options)
        except InvalidArgument:
            return super().compare(content, lower, upper, **{**options, "media_type": TAR})


def broken() -> list[type]:
    """All of them, in the order in which they stand here."""
    return mutants_of(globals())


def suite(cls: type) -> type:
    """The suite on one of them."""

    def open_differ(self: object, folder: Path) -> Differ:
        differ: Differ = cls(folder)
        return differ

    return type(f"Test{cls.__name__}", (DifferSuite,), {"open_differ": open_differ})
