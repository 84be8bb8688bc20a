"""Frames and messages, whatever the pieces are in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_api.errors import ResourceExhausted
from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode
from mooraged.grpc_server.frames import FrameReader
from mooraged.grpc_server.messages import MessageReader

from .conftest import message

FRAMES = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0, 1, 4, 5, 8, 9]), st.integers(0, 9), st.binary(max_size=50)),
    max_size=12,
)


def pieces(data: bytes, cuts: Sequence[int]) -> list[memoryview]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [memoryview(data)[begin:end] for begin, end in pairwise(bounds)]


@settings(max_examples=300, deadline=None)
@given(sent=FRAMES, cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_frames_in_any_pieces(sent: list[tuple[int, int, int, bytes]], cuts: list[int]) -> None:
    reader = FrameReader(1 << 14)
    found: list[tuple[int, int, int, bytes]] = []
    open_data: tuple[int, bytes] | None = None
    for piece in pieces(b"".join(frames.frame(*each) for each in sent), cuts):
        for kind, flags, stream, view in reader.feed(piece):
            payload = bytes(view)
            index = len(found)
            if kind == frames.DATA and not sent[index][1] & frames.PADDED:
                stream, payload = (stream, open_data[1] + payload) if open_data else (stream, payload)
                if len(payload) < len(sent[index][3]):
                    assert flags == 0
                    open_data = (stream, payload)
                    continue
                open_data = None
            found.append((kind, flags, stream, payload))
    assert found == sent


def test_a_frame_beyond_the_limit_is_refused_by_its_head() -> None:
    head = frames.head((1 << 14) + 1, frames.DATA, 0, 1)
    for cut in (0, 4, 8):
        reader = FrameReader(1 << 14)
        assert not list(reader.feed(memoryview(head[:cut])))
        with pytest.raises(ConnectionFailed) as caught:
            list(reader.feed(memoryview(head[cut:])))
        assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


@settings(max_examples=300, deadline=None)
@given(sent=st.lists(st.binary(max_size=60), max_size=10), cuts=st.lists(st.integers(0, 700), max_size=20))
def test_messages_in_any_pieces(sent: list[bytes], cuts: list[int]) -> None:
    reader = MessageReader(60, "identity")
    found = [bytes(m) for piece in pieces(b"".join(map(message, sent)), cuts) for m in reader.feed(piece)]
    assert found == sent
    assert reader.partial == 0


def test_a_message_beyond_the_limit_is_refused_by_its_prefix() -> None:
    prefix = message(bytes(11))[:5]
    for cut in (0, 3, 4):
        reader = MessageReader(10, "identity")
        assert not reader.feed(prefix[:cut])
        with pytest.raises(ResourceExhausted):
            reader.feed(prefix[cut:])
