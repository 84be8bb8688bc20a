"""What went through the network interfaces of pods."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from moorage_api.linux import syscalls
from moorage_cri.concurrency import finish

_LOOPBACK = "lo"
# The columns of a line of /proc/net/dev after the interface's name (proc_pid_net(5)).
_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Interface:
    """What one interface has counted since it was made."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def parse(text: str) -> list[Interface]:
    """The interfaces of `/proc/net/dev`, without the loopback."""
    found = []
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        columns = rest.split()
        if colon and len(columns) >= _COLUMNS and name.strip() != _LOOPBACK:
            received, sent = columns[:4], columns[8:12]
            found.append(Interface(name.strip(), *(int(value) for value in (*received, *sent))))
    return found


async def read(namespaces: Mapping[str, str]) -> dict[str, list[Interface]]:
    """The interfaces in each network namespace, by key; `namespaces` has the path of each. One that is gone is left
    out.

    Read in a thread of its own, which ends with it: a thread that was in another namespace serves nobody else.
    """
    if not namespaces:
        return {}
    loop = asyncio.get_running_loop()
    done: asyncio.Future[dict[str, list[Interface]]] = loop.create_future()

    def work() -> None:
        found = {}
        for key, path in namespaces.items():
            try:
                found[key] = parse(_enter_and_read(path))
            except OSError:
                continue
        loop.call_soon_threadsafe(done.set_result, found)

    threading.Thread(target=work, name="netstat", daemon=True).start()
    return await finish(done)


def _enter_and_read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
    finally:
        os.close(fd)
    with open("/proc/thread-self/net/dev", encoding="ascii") as file:
        return file.read()
