"""`moorage_cri.nri.mux`: frames as the plugins' own library reads and writes them."""

from __future__ import annotations

import pytest

from moorage_api.ttrpc import MAX_MESSAGE, ProtocolError
from moorage_cri.nri import mux


@pytest.mark.parametrize(
    ("length", "frames"), [(10, [10]), (4096, [4096]), (4097, [4096, 1]), (100_000, [4096, 95_904])]
)
def test_a_message_is_cut_after_the_first_4096_bytes(length: int, frames: list[int]) -> None:
    message = bytes(index % 251 for index in range(length))
    found = list(mux.Decoder().feed(mux.encode(mux.PLUGIN, message)))
    assert [len(payload) for _, payload in found] == frames
    assert b"".join(payload for _, payload in found) == message


def test_bytes_may_come_one_by_one() -> None:
    decoder = mux.Decoder()
    data = mux.encode(mux.RUNTIME, b"first") + mux.encode(mux.PLUGIN, b"second")
    found = [frame for byte in data for frame in decoder.feed(bytes([byte]))]
    assert found == [(mux.RUNTIME, b"first"), (mux.PLUGIN, b"second")]


def test_a_frame_that_is_too_long_ends_it() -> None:
    header = (1).to_bytes(4, "big") + (MAX_MESSAGE + 11).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="longer than"):
        list(mux.Decoder().feed(header))
