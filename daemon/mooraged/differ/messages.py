"""What the daemon and its worker processes say to each other: MessagePack, each message after its length (4 bytes,
big-endian), over the worker's standard input and output."""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

from moorage_api.mounts import Mount
from mooraged.differ.limits import Limits
from mooraged.differ.media import Compression

_LENGTH = struct.Struct(">I")


class Apply(msgspec.Struct, frozen=True, tag=True):
    """Extract the layer in the file `path`, of `size` bytes, onto `mounts`. Answer: `Extracting` now and then, then `Done`
    or `Failed`. `grows`: of the file only as much is there as `Grown` says that follow. `settle`: begin to bring files to
    disk before all are there."""

    path: str
    mounts: list[Mount]
    limits: Limits
    scratch: str
    size: int
    sync: bool = False
    apart: bool = False
    grows: bool = False
    settle: bool = True


class Grown(msgspec.Struct, frozen=True, tag=True):
    """The file of the request under way has `size` bytes now. No answer."""

    size: int


class Compare(msgspec.Struct, frozen=True, tag=True):
    """Make a layer that turns `lower` into `upper`. Answer: any number of `Output`, then `Done` or `Failed`."""

    lower: list[Mount]
    upper: list[Mount]
    compression: Compression
    scratch: str


class Output(msgspec.Struct, frozen=True, tag=True):
    """The next bytes of the layer."""

    data: bytes


class Extracting(msgspec.Struct, frozen=True, tag=True):
    """So many bytes of the uncompressed layer are extracted."""

    size: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """Success: digest and size of the uncompressed layer; `incomplete` as in `moorage_api.differ.Extracted`."""

    digest: str
    size: int
    incomplete: bool = False


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Failure, with the gRPC code of the error that it is. `trace` is for the log, and empty for expected failures."""

    code: int
    message: str
    trace: str = ""


Request = Apply | Compare | Grown
Reply = Output | Extracting | Done | Failed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(stream: BinaryIO, message: Request | Reply) -> None:
    """Write a message. `OSError` (`BrokenPipeError`) when the other side is gone."""
    data = _encoder.encode(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive_request(stream: BinaryIO) -> Request | None:
    """The next request; None when the daemon is gone."""
    data = _receive(stream)
    return None if data is None else _requests.decode(data)


def receive_reply(stream: BinaryIO) -> Reply | None:
    """The next reply; None when the worker is gone."""
    data = _receive(stream)
    return None if data is None else _replies.decode(data)


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None
