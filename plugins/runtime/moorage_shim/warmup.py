"""Warm up the zygote for the one thing that every shim does for all its life: being a keeper.

Python rewrites code that runs often, and fills caches at the first use. What happens before the fork happens once; what
happens after it costs each shim its own copy of a page. Workers are not worth it: their memory goes with them.
"""

from __future__ import annotations

import os
import socket
from typing import NoReturn

from moorage_shim.keeper import HELD, REST, Exits, Keeper
from moorage_shim.loop import READ

# A function is rewritten for the types that it meets after eight calls.
_ROUNDS = 10


def warm_up() -> None:
    """Be a keeper for a few rounds."""
    keeper = Keeper(_rest_or_end, [])
    keeper.run()
    keeper.close()


def _rest_or_end(channel: socket.socket, state: bytes, _: Exits) -> NoReturn:
    """A worker that rests at once, with something that is ready, so that the next one begins; the last one ends."""
    if len(state) < _ROUNDS:
        read, write = os.pipe()
        os.write(write, b"x")
        message = REST.pack(0, len(state) + 1, 2) + HELD.pack(read, READ) + HELD.pack(write, 0)
        socket.send_fds(channel, [message], [read, write])
        channel.send(state + b"x")
    os._exit(0)
