"""Calls Version of the daemon at the given address until standard input ends; prints how many seconds each call took."""

from __future__ import annotations

import select
import sys
import time

import grpc

from moorage_api.wire import version_pb2

_PAUSE = 0.005


def main(address: str) -> None:
    """Connect, say so in a line, and begin."""
    with grpc.insecure_channel(f"unix:{address}") as channel:
        version = channel.unary_unary(
            "/containerd.services.version.v1.Version/Version",
            request_serializer=lambda _: b"",
            response_deserializer=version_pb2.VersionResponse.FromString,
        )
        version(None)
        print("connected", flush=True)
        taken = []
        while not select.select([sys.stdin], [], [], _PAUSE)[0]:
            start = time.perf_counter()
            version(None)
            taken.append(time.perf_counter() - start)
    print("\n".join(map(str, taken)))


if __name__ == "__main__":
    main(sys.argv[1])
