"""Compressed streams: whole ones are read, and none that stops short is taken for whole."""

from __future__ import annotations

import gzip
import io
import random

import pytest
import zstandard

from mooraged.differ.compression import Decompressor
from mooraged.differ.tar.events import TarError

SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
CONTENTS = {
    "nothing": b"",
    "a byte": b"x",
    "noise": random.Random(1).randbytes(300_000),
    "zeros": bytes(300_000),
    "words": b"words and " * 30_000,
}


def read(data: bytes) -> bytes:
    source, found, buffer = Decompressor(io.BytesIO(data)), bytearray(), memoryview(bytearray(50_000))
    while count := source.readinto(buffer):
        found += buffer[:count]
    return bytes(found)


def zstd(data: bytes, checksum: bool, size: bool) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size).compress(data)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize("name", CONTENTS)
def test_zstd_frames(name: str, checksum: bool, size: bool) -> None:
    data = CONTENTS[name]
    frame = zstd(data, checksum, size)
    for stream, expected in ((frame, data), (frame + frame, data * 2), (SKIPPABLE + frame + SKIPPABLE, data)):
        assert read(stream) == expected
        for cut in {1, 2, len(frame) // 2, len(frame) - 5}:
            if stream[-cut:] != SKIPPABLE[-cut:] or cut < len(SKIPPABLE):
                with pytest.raises(TarError, match="damaged"):
                    read(stream[:-cut])


def test_gzip_members() -> None:
    member = gzip.compress(CONTENTS["words"])
    assert read(member + member) == CONTENTS["words"] * 2
    for cut in (1, 7, 9, len(member) // 2):
        with pytest.raises(TarError, match="damaged"):
            read(member + member[:-cut])


def test_what_is_not_compressed() -> None:
    assert read(CONTENTS["noise"]) == CONTENTS["noise"]
