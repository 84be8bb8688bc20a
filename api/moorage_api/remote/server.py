"""Serve contracts on a Unix socket, in threads: what `moorage plugin serve` stands on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from moorage_api.content import ContentStore
from moorage_api.differ import Differ
from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.remote.answers import ContentAnswers, DiffAnswers, SnapshotAnswers
from moorage_api.remote.channel import MESSAGE_MAX
from moorage_api.remote.status import fail
from moorage_api.rpc import LEASE_HEADER, NAMESPACE_HEADER
from moorage_api.snapshots import Snapshotter
from moorage_api.wire import content_pb2, diff_pb2, snapshots_pb2

_THREADS = 32

ContentOf = Callable[[str, str], ContentStore]
"""The content of a namespace, under a lease or an empty name: where a differ that is served finds its blobs."""


class Server:
    """One object, answered for on `address`. `start` binds the socket, mode 0600; an old one in its place is removed."""

    def __init__(self, instance: object, *, content: ContentOf | None = None) -> None:
        """`InvalidArgument` for an object that keeps none of the contracts; a differ needs `content`."""
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="serve"),
            options=[
                ("grpc.max_receive_message_length", MESSAGE_MAX),
                ("grpc.max_send_message_length", MESSAGE_MAX),
                ("grpc.so_reuseport", 0),
            ],
        )
        descriptor, answers = _service(instance, content)
        handlers = {method.name: _handler(method, answers) for method in descriptor.methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))
        self._stopped = threading.Event()

    def start(self, address: str) -> None:
        """Serve. `FailedPrecondition` where the socket cannot be made."""
        path = address.removeprefix("unix://")
        before = os.umask(0o177)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._server.add_insecure_port(f"unix:{path}")
        except (OSError, RuntimeError) as error:
            raise FailedPrecondition(f"cannot listen on {path}: {error}") from error
        finally:
            os.umask(before)
        self._server.start()

    def wait(self) -> None:
        """Return when `stop` was called and has ended."""
        self._stopped.wait()

    def stop(self, grace: float = 2.0) -> None:
        """Take no more calls, and give those under way `grace` seconds."""
        self._server.stop(grace).wait()
        self._stopped.set()


Answer = Callable[[Any, Mapping[str, str]], Any]
"""From a request and the call's headers to the response, or to an iterator of responses."""


def _service(instance: object, content: ContentOf | None) -> tuple[ServiceDescriptor, Callable[[str], Answer]]:
    """The service that stands for the contract of `instance`, and what answers each method."""
    if isinstance(instance, Snapshotter):
        return snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"], _fixed(SnapshotAnswers(instance))
    if isinstance(instance, ContentStore):
        return content_pb2.DESCRIPTOR.services_by_name["Content"], _fixed(ContentAnswers(instance))
    if isinstance(instance, Differ):
        if content is None:
            raise InvalidArgument("a differ reads and writes content: say on which daemon's socket it finds that")
        return diff_pb2.DESCRIPTOR.services_by_name["Diff"], _by_namespace(instance, content)
    raise InvalidArgument(f"{type(instance).__name__} is no snapshotter, no content store and no differ")


def _fixed(answers: object) -> Callable[[str], Answer]:
    def answer(name: str) -> Answer:
        method = getattr(answers, name)
        return lambda request, _: method(request)

    return answer


def _by_namespace(differ: Differ, content: ContentOf) -> Callable[[str], Answer]:
    def answer(name: str) -> Answer:
        def call(request: Any, headers: Mapping[str, str]) -> Any:
            namespace = headers.get(NAMESPACE_HEADER, "")
            if not namespace:
                raise FailedPrecondition("namespace is required")
            lease = headers.get(LEASE_HEADER, "")
            return getattr(DiffAnswers(differ, lambda: content(namespace, lease)), name)(request)

        return call

    return answer


def _handler(method: MethodDescriptor, answers: Callable[[str], Answer]) -> grpc.RpcMethodHandler[Any, Any]:
    answer = answers(method.name)
    decode = GetMessageClass(method.input_type).FromString
    encode = GetMessageClass(method.output_type).SerializeToString
    path = f"/{method.containing_service.full_name}/{method.name}"

    def one(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(request, _headers(context))
        except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
            fail(path, context, error)
            return GetMessageClass(method.output_type)()

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from answer(request, _headers(context))
        except Exception as error:  # noqa: BLE001 - as above
            fail(path, context, error)

    if not method.server_streaming:
        return grpc.unary_unary_rpc_method_handler(one, decode, encode)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(many, decode, encode)
    return grpc.unary_stream_rpc_method_handler(many, decode, encode)


def _headers(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
