"""`Content.Write`: a session (`moorage_api.remote.write_session`) over the messages of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator

from moorage_api.remote.write_session import WriteSession
from moorage_api.rpc import Call
from moorage_api.wire import content_pb2 as pb
from mooraged.services.handlers import Handlers


class WriteHandler(Handlers):
    """Runs a session over the messages of a call."""

    async def Write(
        self, request: AsyncIterator[pb.WriteContentRequest], call: Call
    ) -> AsyncIterator[pb.WriteContentResponse]:
        first = await anext(request, None)
        if first is None:
            return
        async with self._opened(call, lambda space: WriteSession(space.content, first)) as session:
            message: pb.WriteContentRequest | None = first
            while message is not None:
                yield await self._core.run(session.step, message)
                if message.action == pb.COMMIT:
                    return
                message = await anext(request, None)
