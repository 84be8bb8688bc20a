"""A command in a container, its streams at a client."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from moorage_api.errors import MoorageError, NotFound
from moorage_cri.container.execution import discard, exec_folder, process_spec, running_container
from moorage_cri.context import Cri
from moorage_cri.streaming.fifos import Fifos
from moorage_cri.streaming.flow import beside, follow_sizes, outputs, take_input
from moorage_cri.streaming.remotecommand import RemoteStreams, Wanted
from moorage_cri.undo import Undo


class Execution:
    """One command. Whoever cancels `run` kills it."""

    def __init__(self, cri: Cri, container_id: str, command: Sequence[str], wanted: Wanted) -> None:
        self._cri = cri
        self._container_id = container_id
        self._command = command
        self._wanted = wanted
        self._exec_id = secrets.token_hex(16)

    async def run(self, streams: RemoteStreams) -> int:
        """Run it to its end, and until all that it wrote has been sent; returns its exit code."""
        cri, wanted = self._cri, self._wanted
        container = running_container(cri, self._container_id)
        process = await process_spec(cri, container, self._command, terminal=wanted.tty)
        id = container.id
        fifos = Fifos(exec_folder(cri, id, self._exec_id))
        try:
            fifos.open(stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr, terminal=wanted.tty)
            async with Undo(f"exec {self._exec_id} in container {id}") as undo:
                undo.push("process", lambda: discard(cri, id, self._exec_id))
                await cri.k8s.tasks.exec(id, self._exec_id, process, fifos.stdio)
                await cri.k8s.tasks.start(id, self._exec_id)
                fifos.release()
                code = await self._converse(id, fifos, streams)
                with suppress(NotFound):
                    await cri.k8s.tasks.delete(id, self._exec_id)
            return code
        finally:
            fifos.close()

    async def _converse(self, id: str, fifos: Fifos, streams: RemoteStreams) -> int:
        tasks = self._cri.k8s.tasks
        async with beside(*self._inputs(id, fifos, streams)), beside(*outputs(fifos.outputs, streams)) as sending:
            ended = await tasks.wait(id, self._exec_id)
            for reader in fifos.outputs.values():
                reader.settle(self._cri.config.drain_exec_sync_io_timeout)
            await asyncio.gather(*sending)
        return ended.status

    def _inputs(self, id: str, fifos: Fifos, streams: RemoteStreams) -> list[Coroutine[Any, Any, None]]:
        tasks, exec_id = self._cri.k8s.tasks, self._exec_id
        works: list[Coroutine[Any, Any, None]] = []

        async def stdin() -> None:
            assert streams.stdin is not None
            assert fifos.stdin is not None
            await take_input(streams.stdin, fifos.stdin)
            # The shim holds the FIFO open, too, until it is told.
            with suppress(MoorageError):
                await tasks.close_io(id, exec_id)

        if streams.stdin is not None:
            works.append(stdin())
        if streams.resize is not None and self._wanted.tty:
            works.append(follow_sizes(streams.resize, lambda width, height: tasks.resize(id, width, height, exec_id)))
        return works
