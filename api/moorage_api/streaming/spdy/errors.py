"""What can be wrong with what the other side sends."""

from __future__ import annotations

from enum import IntEnum

from moorage_api.errors import InvalidArgument


class Reset(IntEnum):
    """Why a stream is ended early (RST_STREAM, section 2.6.3)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


class GoAway(IntEnum):
    """Why a session is ended (GOAWAY, section 2.6.6)."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class ProtocolError(InvalidArgument):
    """The session cannot go on: its framing, or the state of its compression, is lost."""
