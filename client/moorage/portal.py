"""A loop in a thread, and descriptors that make blocking methods of asynchronous ones, with the same signatures.

One thread serves all blocking clients of a process. It is a daemon thread: it never keeps a program from ending.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")

_CANCEL_SECONDS = 10.0


class Portal:
    """Runs coroutines in a loop of its own, for callers in other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="moorage loop", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end. An interrupt (Ctrl-C) of the caller cancels it, and is raised when it has tidied up."""
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine, name="moorage call"))
            tasks[0].add_done_callback(lambda task: _pass_on(task, outcome))

        self._loop.call_soon_threadsafe(begin)
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                # In this order: what begins it is called first.
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                concurrent.futures.wait([outcome], _CANCEL_SECONDS)
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """What it gives, as it comes; closing the iterator closes it."""

        async def following() -> tuple[bool, T | None]:
            try:
                return True, await anext(source)
            except StopAsyncIteration:
                return False, None

        try:
            while True:
                more, value = self.call(following())
                if not more:
                    return
                yield value  # type: ignore[misc]  # only absent at the end
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                self.call(close())

    @contextlib.contextmanager
    def enter(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context, entered and left in the loop."""

        async def leave(error: BaseException | None) -> bool:
            kind = type(error) if error is not None else None
            return bool(await manager.__aexit__(kind, error, error.__traceback__ if error else None))

        async def begin() -> T:
            return await manager.__aenter__()

        value = self.call(begin())
        try:
            yield value
        except BaseException as error:
            if not self.call(leave(error)):
                raise
        else:
            self.call(leave(None))


def _pass_on(task: asyncio.Task[T], outcome: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        outcome.set_exception(concurrent.futures.CancelledError())
        return
    error = task.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


@functools.cache
def shared() -> Portal:
    """The process's own."""
    return Portal()


class Facade(Generic[S]):
    """The blocking form of an asynchronous object."""

    def __init__(self, inner: S) -> None:
        self._inner = inner


class _Method(Generic[S]):
    """A method of the asynchronous class, by its function; it has its name and its documentation."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Called while the class is made; the name is the function's, or the class says something else than it does."""
        if name.rstrip("_") != self.function.__name__.rstrip("_"):
            raise TypeError(f"{owner.__name__}.{name} is made of {self.function.__qualname__}")


class call(_Method[S], Generic[S, P, T]):  # noqa: N801 - reads as a decorator does
    """`name = call(Asynchronous.name)`: runs the coroutine to its end."""

    def __init__(self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> None:
        super().__init__(function)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Facade[S], owner: type) -> Callable[P, T]: ...

    def __get__(self, instance: Facade[S] | None, owner: type) -> Self | Callable[P, T]:
        if instance is None:
            return self

        @functools.wraps(self.function)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            result: T = shared().call(self.function(instance._inner, *args, **kwargs))
            return result

        return method


class calls(_Method[S], Generic[S, P, T, U]):  # noqa: N801
    """`name = calls(Asynchronous.name, Blocking)`: as `call`, and what it returns becomes a blocking object."""

    def __init__(self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, T]], wrap: Callable[[T], U]) -> None:
        super().__init__(function)
        self.wrap = wrap

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Facade[S], owner: type) -> Callable[P, U]: ...

    def __get__(self, instance: Facade[S] | None, owner: type) -> Self | Callable[P, U]:
        if instance is None:
            return self

        @functools.wraps(self.function)
        def method(*args: P.args, **kwargs: P.kwargs) -> U:
            return self.wrap(shared().call(self.function(instance._inner, *args, **kwargs)))

        return method


class iterate(_Method[S], Generic[S, P, T]):  # noqa: N801
    """`name = iterate(Asynchronous.name)`: an iterator in place of an asynchronous one."""

    def __init__(self, function: Callable[Concatenate[S, P], AsyncIterator[T]]) -> None:
        super().__init__(function)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Facade[S], owner: type) -> Callable[P, Iterator[T]]: ...

    def __get__(self, instance: Facade[S] | None, owner: type) -> Self | Callable[P, Iterator[T]]:
        if instance is None:
            return self

        @functools.wraps(self.function)
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return shared().iterate(self.function(instance._inner, *args, **kwargs))

        return method


class enter(_Method[S], Generic[S, P, T, U]):  # noqa: N801
    """`name = enter(Asynchronous.name, Blocking)`: a context manager in place of an asynchronous one."""

    def __init__(
        self, function: Callable[Concatenate[S, P], AbstractAsyncContextManager[T]], wrap: Callable[[T], U]
    ) -> None:
        super().__init__(function)
        self.wrap = wrap

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Facade[S], owner: type) -> Callable[P, AbstractContextManager[U]]: ...

    def __get__(self, instance: Facade[S] | None, owner: type) -> Self | Callable[P, AbstractContextManager[U]]:
        if instance is None:
            return self

        @functools.wraps(self.function)
        @contextlib.contextmanager
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[U]:
            with shared().enter(self.function(instance._inner, *args, **kwargs)) as value:
                yield self.wrap(value)

        return method


class service(Generic[U]):  # noqa: N801
    """`images = service(Images)`: the blocking form of what the asynchronous object has under the same name."""

    def __init__(self, wrap: Callable[[Any], U]) -> None:
        self.wrap = wrap
        self.__doc__ = wrap.__doc__
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Facade[Any], owner: type) -> U: ...

    def __get__(self, instance: Facade[Any] | None, owner: type) -> Self | U:
        return self if instance is None else self.wrap(getattr(instance._inner, self._name))
