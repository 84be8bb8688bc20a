"""RPCs of a connection, as functions: blocking or awaited, with one answer or many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from moorage_api.errors import Cancelled, MoorageError, from_code

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
R_co = TypeVar("R_co", bound=Message, covariant=True)


def translate(error: grpc.RpcError) -> MoorageError:
    """The error of `moorage_api.errors` that a failed call stands for."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return MoorageError(str(error))
    details = error.details() or error.code().name.lower().replace("_", " ")
    return from_code(error.code().value[0], details)


class UnaryCall(Generic[Q, R]):
    """`call(field=value, …)` or `call(message)`; `deadline` is in seconds. Errors are those of `moorage_api.errors`."""

    def __init__(self, stub: Any, request: type[Q], seconds: float) -> None:
        self._stub, self._request, self._seconds = stub, request, seconds

    def __call__(self, message: Q | None = None, /, *, deadline: float | None = None, **fields: Any) -> R:
        return self.begin(message, deadline=deadline, **fields).result()

    def begin(self, message: Q | None = None, /, *, deadline: float | None = None, **fields: Any) -> Pending[R]:
        """Send the request and return at once."""
        request = message if message is not None else self._request(**fields)
        return Pending(self._stub.future(request, timeout=self._seconds if deadline is None else deadline))


class Pending(Generic[R_co]):
    """A call that is under way."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self) -> R_co:
        """Wait for the answer."""
        try:
            answer: R_co = self._future.result()
        except grpc.FutureCancelledError:
            raise Cancelled("the call was given up") from None
        except grpc.RpcError as error:
            raise translate(error) from None
        return answer

    def done(self) -> bool:
        return bool(self._future.done())

    def cancel(self) -> None:
        """Give it up; the runtime is told."""
        self._future.cancel()


class AsyncUnaryCall(Generic[Q, R]):
    """As `UnaryCall`, to be awaited. Cancelling the awaiting task gives the call up."""

    def __init__(self, stub: Any, request: type[Q], seconds: float) -> None:
        self._stub, self._request, self._seconds = stub, request, seconds

    async def __call__(self, message: Q | None = None, /, *, deadline: float | None = None, **fields: Any) -> R:
        request = message if message is not None else self._request(**fields)
        try:
            answer: R = await self._stub(request, timeout=self._seconds if deadline is None else deadline)
        except grpc.RpcError as error:
            raise translate(error) from None
        return answer


class StreamCall(Generic[Q, R]):
    """As `UnaryCall`, with many answers, and no deadline unless there is one given."""

    def __init__(self, stub: Any, request: type[Q]) -> None:
        self._stub, self._request = stub, request

    def __call__(self, message: Q | None = None, /, *, deadline: float | None = None, **fields: Any) -> Answers[R]:
        return Answers(self._stub(message if message is not None else self._request(**fields), timeout=deadline))


class Answers(Generic[R_co]):
    """The answers of a stream as they come. `cancel`, from any thread, ends it; leaving a `with` block does."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[R_co]:
        return self

    def __next__(self) -> R_co:
        try:
            answer: R_co = next(self._call)
        except grpc.RpcError as error:
            raise translate(error) from None
        return answer

    def cancel(self) -> None:
        self._call.cancel()

    def __enter__(self) -> Answers[R_co]:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class AsyncStreamCall(Generic[Q, R]):
    """As `StreamCall`, for `async for`."""

    def __init__(self, stub: Any, request: type[Q]) -> None:
        self._stub, self._request = stub, request

    def __call__(self, message: Q | None = None, /, *, deadline: float | None = None, **fields: Any) -> AsyncAnswers[R]:
        return AsyncAnswers(self._stub(message if message is not None else self._request(**fields), timeout=deadline))


class AsyncAnswers(Generic[R_co]):
    """The answers of a stream as they come. `cancel` ends it; leaving an `async with` block does."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._answers: AsyncIterator[R_co] = aiter(call)

    def __aiter__(self) -> AsyncIterator[R_co]:
        return self

    async def __anext__(self) -> R_co:
        try:
            return await anext(self._answers)
        except grpc.RpcError as error:
            raise translate(error) from None

    def cancel(self) -> None:
        self._call.cancel()

    async def __aenter__(self) -> AsyncAnswers[R_co]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
