"""Header blocks: what is remembered of them is what reading them again would give."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_api.errors import Code
from mooraged.grpc_server import headers
from mooraged.grpc_server.decoder import HeaderDecoder
from mooraged.grpc_server.failures import ConnectionFailed
from mooraged.grpc_server.headers import HeaderReader

from .conftest import HEADERS

# Few names and values, some large enough to drive others out of the dynamic table.
NAMES = st.sampled_from(["a", "b", "containerd-namespace", "user-agent", "x-bin"])
VALUES = st.sampled_from(["", "1", "2", "y" * 900, "z" * 3000, "w" * 5000])
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=5)
SIZES = st.sampled_from([None, None, None, 0, 100, 1000, 4096])


@settings(max_examples=100, deadline=None)
@given(blocks=st.lists(st.tuples(FIELDS, SIZES), max_size=20), repeats=st.integers(1, 3))
def test_what_is_remembered_is_what_is_read(
    blocks: list[tuple[list[tuple[str, str, bool]], int | None]], repeats: int
) -> None:
    encoder, reader, plain = hpack.Encoder(), HeaderReader(), hpack.Decoder()
    for fields, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        for _ in range(repeats):
            block = encoder.encode([*((n, v, False) for n, v in HEADERS), *fields], huffman=False)
            expected: dict[str, str] = {}
            for name, value in plain.decode(block):
                if not name.startswith(":") and name not in ("te", "content-type", "x-bin"):
                    expected.setdefault(str(name), str(value))
            assert reader.request(block).metadata == expected


def read(decode: Callable[[bytes], Iterable[tuple[object, object]]], block: bytes) -> list[tuple[object, object]] | str:
    """What a decoder makes of a block, or that it refuses it."""
    try:
        return [(name, value) for name, value in decode(block)]
    except hpack.HPACKError:
        return "malformed"


VALID = st.builds(
    lambda fields: hpack.Encoder().encode(fields),
    st.lists(st.tuples(NAMES, st.text(max_size=9), st.booleans()), max_size=4),
)
PARTS = st.one_of(
    VALID,
    st.binary(max_size=6),
    st.sampled_from(
        [b"\xbe", b"\xbf", b"\xff\x00", b"\x3f\xe1\x1f", b"\x20", b"\x3f\x45", b"\x40\x01a\x01b", b"\xff" * 9]
    ),
)


@settings(max_examples=500, deadline=None)
@given(blocks=st.lists(st.builds(b"".join, st.lists(PARTS, max_size=5)), max_size=5))
def test_any_block_is_read_as_by_the_library(blocks: list[bytes]) -> None:
    ours, theirs = HeaderDecoder(2000), hpack.Decoder(2000)
    for block in blocks:
        expected = read(lambda block: theirs.decode(block, raw=True), block)
        assert read(ours.decode, block) == expected
        if expected == "malformed":  # and the state with it
            return


def test_a_block_that_changes_nothing_is_read_once() -> None:
    encoder, reader = hpack.Encoder(), HeaderReader()
    first = reader.request(encoder.encode(HEADERS))
    second, third = reader.request(encoder.encode(HEADERS)), reader.request(encoder.encode(HEADERS))
    assert first == second
    assert second is third
    literal = encoder.encode([*HEADERS, hpack.NeverIndexedHeaderTuple("secret", "x")])
    assert reader.request(literal) is reader.request(literal)
    changing = hpack.Encoder().encode([*HEADERS, ("new", "x")])
    before = reader._decoder.changes
    assert reader.request(changing) == reader.request(changing)
    assert reader._decoder.changes > before + 8


def test_a_change_of_the_table_changes_what_bytes_mean() -> None:
    """The same byte, before and after an entry was put in front."""
    reader = HeaderReader()
    static = b"\x83\x86"  # POST, http
    rest = [("te", "trailers"), ("content-type", "application/grpc")]
    opening = static + b"\x44\x02/a" + hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in rest])
    assert reader.request(opening).path == "/a"
    assert reader.request(static + b"\xbe").path == reader.request(static + b"\xbe").path == "/a"
    reader.fields(b"\x44\x02/b")
    assert reader.request(static + b"\xbe").path == "/b"
    assert reader.request(static + b"\xbf").path == "/a"
    with pytest.raises(ConnectionFailed):
        reader.request(static + b"\xc0")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2H", 7200), ("3M", 180), ("99999999S", 99999999), ("5m", 0.005), ("7u", 7e-6), ("1n", 1e-9)],
)
def test_timeouts(value: str, seconds: float) -> None:
    assert HeaderReader().request(hpack.Encoder().encode([*HEADERS, ("grpc-timeout", value)])).timeout == pytest.approx(
        seconds
    )


@pytest.mark.parametrize("value", ["", "5", "S", "-1S", "1.5S", "123456789S", "1s", "١S"])
def test_timeouts_that_are_none(value: str) -> None:
    failure = HeaderReader().request(hpack.Encoder().encode([*HEADERS, ("grpc-timeout", value)])).failure
    assert failure is not None
    assert failure.code is Code.INTERNAL


@given(message=st.text(max_size=6000), code=st.sampled_from(list(Code)))
@settings(max_examples=50, deadline=None)
def test_trailers_are_read_as_they_were_meant(message: str, code: Code) -> None:
    block = headers.unserved(code, message)
    found = {str(name): str(value) for name, value in hpack.Decoder().decode(block)}
    assert found[":status"] == "200"
    assert found["grpc-status"] == str(code.value)
    assert len(block) < 8192
    assert found.get("grpc-message", "").isascii()
