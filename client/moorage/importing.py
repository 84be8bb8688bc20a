"""An image of one layer from the tar of a root file system."""

from __future__ import annotations

import bz2
import datetime as dt
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from moorage.commit import put_image, write_image
from moorage.image_config import resolve
from moorage.stdio import Source
from moorage.unpack import unpack
from moorage_api.errors import InvalidArgument
from moorage_api.images import Image
from moorage_api.oci import build
from moorage_api.oci.image import OCI_LAYER, OCI_LAYER_GZIP
from moorage_api.oci.platforms import default_platform
from moorage_api.types import Descriptor, Platform

if TYPE_CHECKING:
    from moorage.client import Client

_GZIP = b"\x1f\x8b"


async def import_rootfs(
    client: Client, source: Source, name: str, change: build.Change = build.Change(), platform: Platform | None = None
) -> Image:
    """Make an image of the tar that `source` gives: plain, or compressed by gzip, bzip2, xz or zstd.

    `name` is normalised already; an image that has it gets the new content; an empty one makes an image that is called by its
    id. `InvalidArgument` for what is no such tar;
    then nothing stays.
    """
    async with client.leased() as leased:
        tar = _Tar(source)
        try:
            digest, size = await leased.content.write_from(tar.stored)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
            raise InvalidArgument(f"the archive cannot be decompressed: {error}") from error
        layer = Descriptor(tar.media_type, digest, size, {build.UNCOMPRESSED: tar.diff_id})
        created = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = build.add_layer(_empty(platform or default_platform()), layer, replace(change, created=created))
        image = await write_image(leased, name, config, [layer])
        # Unpacked at once: so what is no tar, or a hostile one, never becomes an image.
        await unpack(
            leased.session, await resolve(leased.content, image, platform), (await client.defaults()).snapshotter
        )
        return await put_image(leased, image)


def _empty(platform: Platform) -> bytes:
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    return json.dumps(document).encode()


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Members:
    """A decompressor for one member after the other, as compressors that work in parallel write them."""

    def __init__(self, make: Callable[[], _Decompressor]) -> None:
        self._make = make
        self._current = make()

    def __call__(self, data: bytes) -> bytes:
        plain = bytearray()
        while data:
            if self._current.eof:
                self._current = self._make()
            plain += self._current.decompress(data)
            data = self._current.unused_data if self._current.eof else b""
        return bytes(plain)


class _Tar:
    """A tar on its way into the store: gzip is stored as it is, other compressions are taken off."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begun = False
        self._plain: Callable[[bytes], bytes] = bytes
        self._hash = hashlib.sha256()
        self.media_type = OCI_LAYER

    @property
    def diff_id(self) -> str:
        """The digest of the tar without compression, once all has been stored."""
        return f"sha256:{self._hash.hexdigest()}"

    async def stored(self) -> bytes:
        """The next bytes for the store; empty at the end."""
        while data := await self._source():
            if not self._begun:
                self._begin(data)
            plain = self._plain(data)
            self._hash.update(plain)
            kept = data if self.media_type == OCI_LAYER_GZIP else plain
            if kept:
                return kept
        return b""

    def _begin(self, head: bytes) -> None:
        self._begun = True
        if head.startswith(_GZIP):
            self.media_type = OCI_LAYER_GZIP
            self._plain = _Members(lambda: zlib.decompressobj(31))
        elif head.startswith(b"BZh"):
            self._plain = _Members(bz2.BZ2Decompressor)
        elif head.startswith(b"\xfd7zXZ\0"):
            self._plain = _Members(lzma.LZMADecompressor)
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            import zstandard

            self._plain = _Members(lambda: zstandard.ZstdDecompressor().decompressobj())
