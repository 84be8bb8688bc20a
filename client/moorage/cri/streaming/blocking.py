"""The same streams for programs without an event loop."""

from __future__ import annotations

from moorage.cri.streaming.ports import AsyncPort
from moorage.cri.streaming.process import AsyncProcess
from moorage.portal import Facade, call, iterate


class Process(Facade[AsyncProcess]):
    """As `AsyncProcess`. Writing and reading may be done from two threads."""

    write = call(AsyncProcess.write)
    close_stdin = call(AsyncProcess.close_stdin)
    resize = call(AsyncProcess.resize)
    read = call(AsyncProcess.read)
    output = iterate(AsyncProcess.output)
    wait = call(AsyncProcess.wait)
    communicate = call(AsyncProcess.communicate)


class Port(Facade[AsyncPort]):
    """As `AsyncPort`."""

    write = call(AsyncPort.write)
    close_writing = call(AsyncPort.close_writing)
    read = call(AsyncPort.read)
