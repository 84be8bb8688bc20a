"""Large images for benchmarks: deterministic, made without a network, and kept between runs in a registry's folder."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from support.images import CONFIG, ENV, MANIFEST, digest_of
from support.transfer import put

STORE = Path("/tmp/moorage-benchmark-images")
"""Where the registry keeps the images. Safe to remove: the next run makes them again."""
_LAYER = "application/vnd.oci.image.layer.v1.tar+"
_MTIME = 1_700_000_000
_MIB = 1 << 20
_TEXT_POOL = 24 * _MIB


@dataclass(frozen=True)
class Layer:
    """What a layer is like: `files` files of `size` bytes in all, a file's size drawn around the mean."""

    name: str
    files: int
    size: int

    def tar(self) -> bytes:
        """Folders as in a root file system, files that compress to a third, and a link for every twentieth."""
        source = _Source(self.name)
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(_info(self.name, tarfile.DIRTYPE))
            for number, size in enumerate(source.sizes(self.files, self.size)):
                folder = f"{self.name}/{number // 400}/{number // 8}"
                if number % 8 == 0:
                    if number % 400 == 0:
                        archive.addfile(_info(folder.rpartition("/")[0], tarfile.DIRTYPE))
                    archive.addfile(_info(folder, tarfile.DIRTYPE))
                if number % 20 == 19:
                    archive.addfile(_info(f"{folder}/link-{number}", tarfile.SYMTYPE, link=f"file-{number - 1}"))
                archive.addfile(_info(f"{folder}/file-{number}", size=size), io.BytesIO(source.data(size)))
        return output.getvalue()


@dataclass(frozen=True)
class BenchImage:
    """An image in the benchmarks' registry."""

    name: str
    layers: Sequence[Layer]
    compression: str = "gzip"

    @property
    def repository(self) -> str:
        return f"benchmark/{self.name}"


class _Source:
    """Names and bytes that are the same in every run."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        words = [self._random.randbytes(self._random.randint(6, 20)) for _ in range(1200)]
        weights = [1 / (rank + 1) for rank in range(len(words))]
        text = b"".join(self._random.choices(words, weights, k=_TEXT_POOL // 13))
        self._pool = text + self._random.randbytes(len(text) // 24)

    def sizes(self, count: int, total: int) -> Iterator[int]:
        """Sizes with many small and few large ones, as in a distribution's packages."""
        drawn = [self._random.lognormvariate(0, 1.8) for _ in range(count)]
        scale = total / sum(drawn)
        return (int(size * scale) for size in drawn)

    def data(self, size: int) -> bytes:
        parts = []
        while size:
            start = self._random.randrange(len(self._pool) - 1)
            part = self._pool[start : start + min(size, 1 << 16)]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mtime = kind, size, link, _MTIME
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=6).compress(data)


_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": _zstd}


def publish(registry: str, image: BenchImage) -> int:
    """Have the registry at host:port hold the image; returns the bytes of its layers, compressed."""
    made = STORE / f"{image.name}.json"
    if made.exists():
        return int(json.loads(made.read_text())["size"])
    descriptors, diff_ids = [], []
    for layer in image.layers:
        tar = layer.tar()
        blob = _COMPRESSIONS[image.compression](tar)
        digest = put(registry, image.repository, "blobs", "", blob, "application/octet-stream")
        descriptors.append({"mediaType": _LAYER + image.compression, "size": len(blob), "digest": digest})
        diff_ids.append(digest_of(tar))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": [ENV]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    put(registry, image.repository, "blobs", "", config, "application/octet-stream")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": descriptors,
    }
    put(registry, image.repository, "manifests", "latest", json.dumps(manifest).encode(), MANIFEST)
    size = sum(int(str(descriptor["size"])) for descriptor in descriptors)
    made.write_text(json.dumps({"size": size}))
    return size
