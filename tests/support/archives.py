"""Archives of images for tests: bytes to feed to an import, and what an export gave."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from support.images import ImageSpec, digest_of


class Collected:
    """A sink that keeps what an export wrote."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def __call__(self, piece: bytes) -> None:
        self.data += piece

    def files(self) -> dict[str, bytes]:
        """The files of the archive, by name."""
        return tar_files(bytes(self.data))


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """`data` as a client sends it."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def tar_files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def tar_of(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """An archive of these files, and of symbolic links after them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def folder_of(data: bytes, folder: Path) -> Path:
    """The archive unpacked, as tools want it that read OCI layouts as folders."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder)  # an archive that was made here
    return folder


def oci_layout(image: ImageSpec, *, name: str = "", platform: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of an OCI layout of one image; `name` goes into its annotation as skopeo and umoci write it."""
    config, layers = image.blobs()
    manifest = image.manifest()
    entry: dict[str, Any] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(manifest),
        "size": len(manifest),
    }
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    if platform:
        entry["platform"] = dict(platform)
    blobs = {f"blobs/sha256/{digest_of(data)[7:]}": data for data in (config, *layers, manifest)}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **blobs,
    }
