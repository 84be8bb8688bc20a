"""What goes out on a connection: as the windows allow, as the client reads, each stream in its turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mooraged.grpc_server import frames
from mooraged.grpc_server.budget import Budget
from mooraged.grpc_server.peer import PeerSettings

if TYPE_CHECKING:
    from mooraged.grpc_server.stream import Stream

# A stream that sends much lets others have their turn after this many bytes. More at once would be slower: memory that is
# taken and given back anew for each turn costs more than the calls of the kernel.
_TURN = 64 << 10


class Output(Protocol):
    """Where bytes go. What is written is sent in that order."""

    @property
    def paused(self) -> bool:
        """Whether the client does not read as fast as it is written to."""

    def write(self, data: bytes) -> None:
        """Send now."""

    def write_soon(self, data: bytes) -> None:
        """Send with what else is written before the loop's next turn."""

    def write_from_thread(self, data: bytes, claim: Callable[[], bool]) -> bool:
        """Send now, from another thread than the loop's, if nothing else waits to be sent and `claim` gives the right to it;
        else False. From `claim` on, nothing can hinder it but the client's going."""

    def close(self) -> None:
        """Send what was written, then close."""


class Sender:
    """The windows for sending, and the streams that wait for room. Never more than a message of each stream is kept."""

    def __init__(self, output: Output, peer: PeerSettings, chatter: Budget) -> None:
        """`chatter` is cleared by data: a client that gets some is at work."""
        self._output = output
        self._peer = peer
        self._chatter = chatter
        self._window = frames.DEFAULT_WINDOW
        self._ready: deque[Stream] = deque()  # streams that have something to send, and a window for it

    def room(self, stream: Stream) -> int:
        """How many bytes the stream may send at once, in one frame."""
        return 0 if self._output.paused else min(self._window, stream.window, self._peer.max_frame, _TURN)

    def spend(self, stream: Stream, size: int) -> None:
        """Count what a stream sends."""
        self._window -= size
        stream.window -= size
        self._chatter.clear()

    def refund(self, stream: Stream, size: int) -> None:
        """Take back what was counted and not sent."""
        self._window += size
        self.widen_stream(stream, size)
        self.pump()

    def send(self, stream: Stream) -> None:
        """Let the stream have its turns until its message is sent."""
        if stream.window > 0:
            self._ready.append(stream)
            self.pump()

    def pump(self) -> None:
        """Send what may be sent now."""
        while self._ready and self._window > 0 and not self._output.paused:
            stream = self._ready.popleft()
            size = min(stream.unsent, stream.window, self._window, _TURN)
            if size <= 0:  # its window has shrunk, or it has ended
                continue
            self.spend(stream, size)
            self._output.write(b"".join(stream.cut(size, self._peer.max_frame)))
            if stream.unsent and stream.window > 0:
                self._ready.append(stream)

    def widen(self, change: int) -> bool:
        """The client lets more be sent on the connection; False for more than a window can be."""
        self._window += change
        return self._window <= frames.WINDOW_MAX

    def widen_stream(self, stream: Stream, change: int) -> bool:
        """The client lets more be sent on a stream, or less; False for more than a window can be."""
        before = stream.window
        stream.window += change
        if before <= 0 < stream.window and stream.unsent:
            self._ready.append(stream)
        return stream.window <= frames.WINDOW_MAX
