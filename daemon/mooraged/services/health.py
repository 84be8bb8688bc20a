"""`grpc.health.v1.Health`: whether the daemon serves, as clients ask before they go on (the gRPC health checking protocol).

Whoever gets an answer at all gets it from a daemon that serves: the socket opens when all plugins have started.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from moorage_api.errors import NotFound
from moorage_api.rpc import Call, Service
from moorage_api.wire import health_pb2 as pb

# The daemon as a whole; its services are not told apart.
_WHOLE = ""
_SERVING = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
_UNKNOWN = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)


class Health:
    """The handlers."""

    def Check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        """`NotFound` for any service by name."""
        if request.service != _WHOLE:
            raise NotFound(f"the health of {request.service!r} is not told apart")
        return _SERVING

    async def Watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        """One answer: the health does not change before the daemon stops, which ends the stream."""
        yield _SERVING if request.service == _WHOLE else _UNKNOWN
        await asyncio.Event().wait()


def service() -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Health"], Health())
