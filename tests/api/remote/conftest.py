"""Objects behind a socket of their own, in this process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from moorage_api.remote.channel import Channel
from moorage_api.remote.server import ContentOf, Server


@dataclass
class Wires:
    """Puts objects behind sockets; `close` ends all of it."""

    folder: Path
    _ends: ExitStack = field(default_factory=ExitStack)

    def connect(self, instance: object, content: ContentOf | None = None, namespace: str = "default") -> Channel:
        """Serve `instance`; returns a channel to it."""
        address = str(self.folder / f"{uuid.uuid4().hex[:8]}.sock")
        server = Server(instance, content=content)
        server.start(address)
        self._ends.callback(server.stop, 0)
        channel = Channel("tested", address, timeout=20, namespace=namespace)
        self._ends.callback(channel.close)
        return channel

    def close(self) -> None:
        self._ends.close()


@pytest.fixture
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    wires = Wires(tmp_path_factory.mktemp("s"))
    yield wires
    wires.close()
