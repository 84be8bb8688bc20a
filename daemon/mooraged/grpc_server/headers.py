"""Header blocks: those of requests, read by HPACK (RFC 7541), and those of responses.

What is written needs no state of HPACK's: it refers to the static table alone, so that a response is a constant with two
numbers in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import hpack

from moorage_api.errors import Code, Internal, MoorageError, ResourceExhausted
from moorage_api.remote.status import shortened
from mooraged.grpc_server.decoder import Field, HeaderDecoder
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode, StreamFailed

LIST_SIZE = 64 << 10
"""The largest header list of a call, as RFC 9113 counts it: name, value and 32 bytes each field."""
# What ends the connection: HPACK's state is lost where a block is not read to its end.
_LIST_LIMIT = 2 * LIST_SIZE
# How many requests are remembered, and how large their values may be: what a client can make the daemon keep.
_REMEMBERED = 256
_VALUES_MAX = 2048

_NAME = re.compile(rb"[!-9;-@\[-~]+")
_VALUE_FORBIDDEN = re.compile(rb"[\x00\r\n]")
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_THE_WIRE = frozenset({"te", "content-type", "content-length", "grpc-encoding", "grpc-accept-encoding"})
_TIMEOUT_HEADER = b"grpc-timeout"
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclass(frozen=True, slots=True)
class Request:
    """What the headers of a call say. `timeout` in seconds; `metadata` has the text headers, of each the first value;
    `failure` is why the call cannot be served, and `refusal` the HTTP status where it is none of gRPC's."""

    path: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    encoding: str = "identity"
    length: int | None = None
    refusal: int = 0
    failure: MoorageError | None = None


class HeaderReader:
    """Reads the header blocks of one connection, in the order in which they came."""

    def __init__(self) -> None:
        self._decoder = HeaderDecoder(_LIST_LIMIT)
        # A client says the same in the same bytes as long as HPACK's dynamic table is the same.
        self._blocks: dict[bytes, Request] = {}
        # What fields mean, without the timeout, is the same for ever.
        self._requests: dict[tuple[Field, ...], Request] = {}

    def request(self, block: bytes) -> Request:
        """The request of a block that opens a stream. `StreamFailed` for one that is malformed, `ConnectionFailed` for a
        block that cannot be read."""
        request = self._blocks.get(block)
        if request is None:
            before = self._decoder.changes
            request = self._request(self.fields(block))
            # One that changes the table has to be read each time that it comes.
            if self._decoder.changes == before and len(block) <= _VALUES_MAX:
                if len(self._blocks) == _REMEMBERED:
                    self._blocks.clear()
                self._blocks[block] = request
        return request

    def fields(self, block: bytes) -> list[Field]:
        """All fields of a block. The blocks that are remembered are forgotten if it changes the dynamic table."""
        before = self._decoder.changes
        try:
            fields = self._decoder.decode(block)
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from None
        except hpack.HPACKError as error:
            raise ConnectionFailed(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if self._decoder.changes != before:
            self._blocks.clear()
        return fields

    def _request(self, fields: list[Field]) -> Request:
        lasting = tuple([field for field in fields if field[0] != _TIMEOUT_HEADER])
        request = self._requests.get(lasting)
        if request is None:
            request = _request(lasting)
            if len(self._requests) == _REMEMBERED:
                self._requests.clear()
            if sum(len(value) for _, value in lasting) <= _VALUES_MAX:
                self._requests[lasting] = request
        if len(lasting) == len(fields):
            return request
        return _limited(request, next(value for name, value in fields if name == _TIMEOUT_HEADER))


def _request(fields: Sequence[Field]) -> Request:
    pseudo, regular = _parted(fields)
    if not {b":method", b":scheme", b":path"} <= pseudo.keys() or not pseudo[b":path"]:
        raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a request without method, scheme and path")
    path = pseudo[b":path"].decode("utf-8", "replace")
    if pseudo[b":method"] != b"POST":
        return Request(path, refusal=405)
    if not _is_grpc(regular.get("content-type", "")):
        return Request(path, refusal=415)
    metadata = {name: value for name, value in regular.items() if name not in _OF_THE_WIRE and name[-4:] != "-bin"}
    if sum(len(name) + len(value) + 32 for name, value in fields) > LIST_SIZE:
        return Request(path, failure=ResourceExhausted(f"the headers are larger than {LIST_SIZE} bytes"))
    encoding = regular.get("grpc-encoding", "identity")
    return Request(path, metadata, None, encoding, _length(regular.get("content-length")))


def _limited(request: Request, timeout: bytes) -> Request:
    """The same request with a timeout, as its header has it."""
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        malformed = timeout.decode(errors="replace")
        return replace(request, failure=request.failure or Internal(f"malformed grpc-timeout: {malformed!r}"))
    seconds = int(found[1]) * _UNITS[found[2]]
    return Request(
        request.path, request.metadata, seconds, request.encoding, request.length, request.refusal, request.failure
    )


def _parted(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], dict[str, str]]:
    """Pseudo-headers and regular ones, of these the first value each. RFC 9113, sections 8.2 and 8.3.1."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[str, str] = {}
    for name, value in fields:
        if _VALUE_FORBIDDEN.search(value):
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a control character in a header")
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a pseudo-header out of its place")
            pseudo[name] = value
        elif name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers") or not _NAME.fullmatch(name):
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a header that HTTP/2 does not have")
        else:
            regular.setdefault(name.decode(), value.decode("utf-8", "replace"))
    return pseudo, regular


def _is_grpc(kind: str) -> bool:
    return kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))


def _length(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "malformed content-length")
    return int(value)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field by its name and value, neither of which gets into a table (RFC 7541, section 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(data: bytes) -> bytes:
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    length = bytearray((127,))
    size -= 127
    while size >= 128:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + data


RESPONSE = b"\x88" + b"\x0f\x10" + _string(b"application/grpc")
"""`:status: 200` and `content-type`, by their places in the static table."""
_STATUS_OK = _literal(b"grpc-status", b"0")


def trailers(code: Code, message: str) -> bytes:
    """The block that ends a call. The message is cut to what fits into a frame and into clients' limits."""
    if code is Code.OK:
        return _STATUS_OK
    block = _literal(b"grpc-status", str(code.value).encode())
    if code is Code.UNIMPLEMENTED:
        block += _literal(b"grpc-accept-encoding", b"identity,deflate,gzip")
    return block + _literal(b"grpc-message", percent_encoded(shortened(message))) if message else block


def unserved(code: Code, message: str) -> bytes:
    """The block that is all of a response."""
    return RESPONSE + trailers(code, message)


def refused(status: int) -> bytes:
    """The block of a response of HTTP's, to what is none of gRPC's calls."""
    return b"\x08" + _string(str(status).encode())


def percent_encoded(message: str) -> bytes:
    """As gRPC writes messages: whatever is not printable ASCII, and the percent sign, in UTF-8 and hexadecimal."""
    return b"".join(_PERCENT[byte] for byte in message.encode("utf-8", "replace"))


_PERCENT = [bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in range(256)]
