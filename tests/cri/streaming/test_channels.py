"""The channels of WebSockets, their status documents and terminal sizes, as transcripts."""

from __future__ import annotations

import json

import pytest

from moorage_api.errors import InvalidArgument, Unavailable
from moorage_api.streaming.channels import (
    SUBPROTOCOLS,
    ChannelClosed,
    ChannelData,
    Demultiplexer,
    Subprotocol,
    message,
    negotiate,
)
from moorage_cri.streaming import status
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.remotecommand import Wanted, sizes

V4, V5 = SUBPROTOCOLS["v4.channel.k8s.io"], SUBPROTOCOLS["v5.channel.k8s.io"]
TEXT = SUBPROTOCOLS["v4.base64.channel.k8s.io"]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), Subprotocol("")),
        (("v5.channel.k8s.io", "v4.channel.k8s.io"), V5),
        (("v9.channel.k8s.io", "v4.channel.k8s.io"), V4),
        (("base64.channel.k8s.io",), Subprotocol("base64.channel.k8s.io", 1, base64=True)),
        (("channel.k8s.io",), Subprotocol("channel.k8s.io", 1)),
        (("chat",), None),
    ],
)
def test_negotiation(offered: tuple[str, ...], chosen: Subprotocol | None) -> None:
    assert negotiate(offered) == chosen


def test_binary_messages() -> None:
    channels = Demultiplexer(V5)
    assert list(channels.receive_bytes(b"\x00hello")) == [ChannelData(0, b"hello")]
    assert list(channels.receive_bytes(b"\x04", finished=False)) == [ChannelData(4, b"")]
    assert list(channels.receive_bytes(b"{}", finished=False)) == [ChannelData(4, b"{}")]
    assert list(channels.receive_bytes(b"!", finished=True)) == [ChannelData(4, b"!")]
    assert list(channels.receive_bytes(b"")) == []
    assert list(channels.receive_bytes(b"\xff\x00")) == [ChannelClosed(0)]


def test_before_version_5_a_channel_cannot_be_closed() -> None:
    assert list(Demultiplexer(V4).receive_bytes(b"\xff\x00")) == [ChannelData(255, b"\x00")]


def test_text_messages() -> None:
    channels = Demultiplexer(TEXT)
    assert list(channels.receive_text("0aGVs", finished=False)) == []
    assert list(channels.receive_text("bG8=")) == [ChannelData(0, b"hello")]
    for broken in ("0aGVsbG", "0***"):
        with pytest.raises(InvalidArgument):
            list(channels.receive_text(broken))
    with pytest.raises(InvalidArgument):
        list(channels.receive_text("0" + "A" * (5 << 20), finished=False))


def test_the_kind_of_message_must_fit() -> None:
    with pytest.raises(InvalidArgument):
        list(Demultiplexer(TEXT).receive_bytes(b"\x00x"))
    with pytest.raises(InvalidArgument):
        list(Demultiplexer(V4).receive_text("0"))


def test_messages() -> None:
    assert message(V4, 1, b"out") == b"\x01out"
    assert message(TEXT, 2, b"err") == "2ZXJy"


def test_status_documents() -> None:
    assert json.loads(status.ended(0, 4)) == {"metadata": {}, "status": "Success"}
    failure = json.loads(status.ended(7, 5))
    assert (failure["status"], failure["reason"]) == ("Failure", "NonZeroExitCode")
    assert failure["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    problem = json.loads(status.failed(Unavailable("the shim is gone"), 4))
    assert (problem["status"], problem["reason"], problem["code"]) == ("Failure", "InternalError", 500)
    assert "the shim is gone" in problem["message"]


def test_before_version_4_a_status_is_text() -> None:
    assert status.ended(0, 3) == b""
    assert b"7" in status.ended(7, 1)
    assert status.failed(Unavailable("the shim is gone"), 2) == b"the shim is gone"


async def test_sizes() -> None:
    resize = Inbox(lambda: False)
    for piece in ('{"Width":80,"Hei', 'ght":24}\n{"width":132,"height":50}', '{"Width":0,"Height":1}[]"x" {"Width":5}'):
        await resize.put(piece.encode())
    resize.end()
    assert [size async for size in sizes(resize)] == [(80, 24), (132, 50)]


async def test_what_is_no_size_is_not_kept() -> None:
    resize = Inbox(lambda: False)
    await resize.put(b"{" * 5000)
    assert [size async for size in sizes(resize)] == []


@pytest.mark.parametrize(
    "wanted", [Wanted(False, False, False, False), Wanted(True, True, True, True), Wanted(False, False, True, True)]
)
def test_streams_that_make_no_sense(wanted: Wanted) -> None:
    with pytest.raises(InvalidArgument):
        wanted.check()
