"""A container's own streams at a client, beside its log."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from moorage_api.errors import MoorageError
from moorage_cri.container.execution import running_container
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.streaming.fifos import Fifos, FifoWriter
from moorage_cri.streaming.flow import beside, follow_sizes, outputs, take_input
from moorage_cri.streaming.remotecommand import RemoteStreams, Wanted


class Attachment:
    """One client of a container. What the container wrote before is in its log only."""

    def __init__(self, cri: Cri, container_id: str, wanted: Wanted) -> None:
        self._cri = cri
        self._container_id = container_id
        self._wanted = wanted

    async def run(self, streams: RemoteStreams) -> int:
        """Until the container's output ends, or the client's input does where it is not the only one that the container
        will have."""
        cri, wanted = self._cri, self._wanted
        container = running_container(cri, self._container_id)
        fifos = Fifos(cri.state / "attach" / secrets.token_hex(16))
        try:
            stderr = wanted.stderr and not container.config.tty
            if wanted.stdout or stderr:
                fifos.open(stdin=False, stdout=wanted.stdout, stderr=stderr, terminal=False)
                await cri.k8s.tasks.attach(container.id, fifos.stdio)
                fifos.release()
            await self._converse(container, fifos, streams)
        finally:
            fifos.close()
        return 0

    async def _converse(self, container: Container, fifos: Fifos, streams: RemoteStreams) -> None:
        async with beside(*self._sizes(container, streams)), beside(*outputs(fifos.outputs, streams)) as sending:
            ends: list[asyncio.Future[Any]] = [asyncio.gather(*sending)] if sending else []
            async with beside(*self._input(container, streams)) as taking:
                # With `stdin_once`, the output goes on when the input has ended.
                if not (container.config.stdin_once and not container.config.tty and sending):
                    ends += taking
                done, _ = await asyncio.wait(ends or taking, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()

    def _sizes(self, container: Container, streams: RemoteStreams) -> list[Coroutine[Any, Any, None]]:
        if streams.resize is None or not container.config.tty:
            return []
        tasks = self._cri.k8s.tasks
        return [follow_sizes(streams.resize, lambda width, height: tasks.resize(container.id, width, height))]

    def _input(self, container: Container, streams: RemoteStreams) -> list[Coroutine[Any, Any, None]]:
        if streams.stdin is None:
            return []
        if not container.config.stdin:
            streams.stdin.refuse()
            return []
        return [self._take_input(container, streams)]

    async def _take_input(self, container: Container, streams: RemoteStreams) -> None:
        assert streams.stdin is not None
        target = FifoWriter(str(self._cri.stdin_path(container.id)))
        target.release()
        await take_input(streams.stdin, target)
        if container.config.stdin_once and not container.config.tty:
            with suppress(MoorageError):
                await self._cri.k8s.tasks.close_io(container.id)
