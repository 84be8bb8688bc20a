"""One NRI plugin: how it registers, which events it wants, and how it is called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from moorage_api.errors import (
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri.connection import Connection, Gone, Hanging, Rubbish
from moorage_cri.nri.launch import INDEX, NAME, Installed

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

VERSION = "v0.12.2"
"""The version of the protocol that is spoken here, as plugins' own library names it."""

_ALL_EVENTS = (1 << (pb.LAST - 1)) - 1
# What plugins of before protocol 0.12 know only as a StateChange.
_OLD = frozenset({
    "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PostUpdatePodSandbox", "PostCreateContainer",
    "StartContainer", "PostStartContainer", "PostUpdateContainer", "RemoveContainer",
})  # fmt: skip
# Bytes of pods and containers in one message of a synchronisation; ttrpc's messages have at most 4 MiB.
_PART = 3 << 20

Update = Callable[["Plugin", pb.UpdateContainersRequest], Awaitable[pb.UpdateContainersResponse]]


class Plugin:
    """A plugin that has connected, or that the daemon has started as `program`. Of one that has connected `name` and
    `index` are known once it has registered. `update` answers its wishes."""

    def __init__(self, timeout: float, update: Update, program: Installed | None = None) -> None:
        self.name = program.name if program is not None else ""
        self.index = program.index if program is not None else ""
        self.registered = asyncio.Event()
        self.connection = Connection(self._answer)
        self._program = program
        self._timeout = timeout
        self._update = update
        self._events = 0
        self._old = False

    @property
    def id(self) -> str:
        """By which it is named in logs and errors, and owns what it sets."""
        return f"{self.index}-{self.name}" if self.name else "(not registered)"

    @property
    def closed(self) -> bool:
        return self.connection.closed.is_set()

    def close(self, reason: str) -> None:
        """Have nothing more to do with it."""
        logger.warning("NRI plugin %s is let go: %s", self.id, reason)
        self.connection.close()

    def wants(self, event: pb.Event.ValueType) -> bool:
        """Whether it is there and has asked for these."""
        return not self.closed and bool(self._events & (1 << (event - 1)))

    async def wait_registered(self, timeout: float) -> None:
        """Wait until it has registered. `Hanging`, `Gone`."""
        waits = [asyncio.ensure_future(each.wait()) for each in (self.registered, self.connection.closed)]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.closed:
            raise Gone("it left before it had registered")
        if not self.registered.is_set():
            raise Hanging(f"it did not register within {timeout:g} s")

    async def configure(self, runtime: str, version: str, registration_timeout: float) -> None:
        """Give it its configuration; it answers with the events that it wants, none for all. `InvalidArgument` for
        events that there are not."""
        answer = await self._call(
            "Configure",
            pb.ConfigureRequest(
                config=self._program.config if self._program is not None else "",
                runtime_name=runtime,
                runtime_version=version,
                registration_timeout=int(registration_timeout * 1000),
                request_timeout=int(self._timeout * 1000),
                NRI_version=VERSION,
            ),
            pb.ConfigureResponse,
        )
        if answer.events & ~_ALL_EVENTS:
            raise InvalidArgument(f"it asks for unknown events ({answer.events:#x})")
        self._events = answer.events or _ALL_EVENTS

    async def synchronize(
        self, pods: Iterable[pb.PodSandbox], containers: Iterable[pb.Container]
    ) -> list[pb.ContainerUpdate]:
        """Tell it of all that there is, in as many messages as it takes; returns the updates that it wants."""
        *firsts, last = _requests(pods, containers)
        for request in firsts:
            answer = await self._call("Synchronize", request, pb.SynchronizeResponse)
            if not answer.more or answer.update:
                raise Unimplemented("it does not take a synchronisation in parts")
        answer = await self._call("Synchronize", last, pb.SynchronizeResponse)
        return list(answer.update)

    async def relay(self, event: pb.Event.ValueType, method: str, request: Message, answer: type[M]) -> M | None:
        """Call `method` if the plugin wants the event. None where it does not, and where it is lost by this: one that
        has gone, or does not answer in time, is let go, and the event goes on without it.

        An error that it answers with is raised, naming it; so is rubbish, after which it is let go, too.
        """
        if not self.wants(event):
            return None
        try:
            return await self._relay(event, method, request, answer)
        except (Gone, Hanging) as error:
            self.close(str(error))
            return None
        except MoorageError as error:
            if isinstance(error, Rubbish):
                self.close(str(error))
            raise type(error)(f"NRI plugin {self.id} failed {method}: {error}") from error

    async def validate(self, request: pb.ValidateContainerAdjustmentRequest) -> None:
        """`PermissionDenied` where it rejects the adjustment; a validator that is lost by this rejects it, too."""
        try:
            answer = await self._call("ValidateContainerAdjustment", request, pb.ValidateContainerAdjustmentResponse)
        except MoorageError as error:
            if isinstance(error, Gone | Hanging | Rubbish):
                self.close(str(error))
            raise type(error)(f"NRI validator {self.id} failed: {error}") from error
        if answer.reject:
            reason = answer.reason or "it gives no reason"
            raise PermissionDenied(f"NRI validator {self.id} rejected the adjustment of the container: {reason}")

    async def _relay(self, event: pb.Event.ValueType, method: str, request: Message, answer: type[M]) -> M:
        if not (self._old and method in _OLD):
            try:
                return await self._call(method, request, answer)
            except Unimplemented:
                if method not in _OLD:
                    raise
                self._old = True
        change = pb.StateChangeEvent(event=event)
        for field in ("pod", "container"):
            if field in request.DESCRIPTOR.fields_by_name:
                getattr(change, field).CopyFrom(getattr(request, field))
        await self._call("StateChange", change, pb.Empty)
        return answer()

    async def _call(self, method: str, request: Message, answer: type[M]) -> M:
        return await self.connection.call(method, request, answer, self._timeout)

    async def _answer(self, method: str, payload: bytes) -> Message:
        """What the plugin calls."""
        if method == "RegisterPlugin":
            self._register(_parse(payload, pb.RegisterPluginRequest))
            return pb.Empty()
        if method == "UpdateContainers":
            if not self.registered.is_set():
                raise Unavailable("the plugin is not registered")
            return await self._update(self, _parse(payload, pb.UpdateContainersRequest))
        raise Unimplemented(f"unknown method {method}")

    def _register(self, request: pb.RegisterPluginRequest) -> None:
        """`InvalidArgument` for a name or an index that is none, `FailedPrecondition` the second time. One that the daemon
        started keeps the daemon's."""
        if self.registered.is_set():
            raise FailedPrecondition(f"the plugin is registered as {self.id}")
        if self._program is None:
            if NAME.fullmatch(request.plugin_name) is None:
                raise InvalidArgument(f"invalid plugin name {request.plugin_name[:80]!r}")
            if INDEX.fullmatch(request.plugin_idx) is None:
                raise InvalidArgument(f"invalid plugin index {request.plugin_idx[:80]!r}: two digits are expected")
            self.name, self.index = request.plugin_name, request.plugin_idx
        self.registered.set()


def _requests(pods: Iterable[pb.PodSandbox], containers: Iterable[pb.Container]) -> list[pb.SynchronizeRequest]:
    """One message, or as many as it takes; all but the last say that more will come."""
    requests, size = [pb.SynchronizeRequest()], 0
    items: list[pb.PodSandbox | pb.Container] = [*pods, *containers]
    for item in items:
        length = item.ByteSize()
        if size and size + length > _PART:
            requests[-1].more = True
            requests.append(pb.SynchronizeRequest())
            size = 0
        if isinstance(item, pb.PodSandbox):
            requests[-1].pods.append(item)
        else:
            requests[-1].containers.append(item)
        size += length
    return requests


def _parse(payload: bytes, message: type[M]) -> M:
    """A request of a plugin's. `InvalidArgument`."""
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument(f"the request is no {message.DESCRIPTOR.full_name}") from error
