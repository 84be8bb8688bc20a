"""`grpc.health.v1.Health`, as clients written in Go ask it."""

from __future__ import annotations

import grpc
import pytest

from moorage_api.wire import health_pb2 as pb
from moorage_api.wire.health_pb2_grpc import HealthStub
from support.daemon import Daemon

Status = pb.HealthCheckResponse


@pytest.fixture
def health(daemon: Daemon) -> HealthStub:
    return HealthStub(grpc.insecure_channel(f"unix:{daemon.address}"))


def test_the_daemon_serves_until_it_stops(daemon: Daemon, health: HealthStub) -> None:
    assert health.Check(pb.HealthCheckRequest(), timeout=20).status == Status.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(pb.HealthCheckRequest(service="absent"), timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watched = health.Watch(pb.HealthCheckRequest(), timeout=60)
    absent = health.Watch(pb.HealthCheckRequest(service="absent"), timeout=60)
    assert next(watched).status == Status.SERVING
    assert next(absent).status == Status.SERVICE_UNKNOWN
    assert daemon.stop() == 0
    with pytest.raises(grpc.RpcError) as ended:
        next(watched)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
