"""The sandboxes of all namespaces, each with a shim of its own (`moorage_api.sandboxes.SandboxController`)."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field

from google.protobuf.message import Message

from moorage_api.convert import typed_value
from moorage_api.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    MoorageError,
    NotFound,
    Unavailable,
    Unimplemented,
)
from moorage_api.linux import mount
from moorage_api.oci import spec as oci
from moorage_api.runtime import Exit
from moorage_api.sandboxes import SandboxMetrics, SandboxSpec, SandboxStatus
from moorage_api.types import TypedValue, check_identifier
from moorage_api.wire import events_types_pb2 as events
from moorage_api.wire import runtime_sandbox_pb2 as pb
from moorage_api.wire.moorage_shim_pb2 import SandboxOptions
from mooraged.runtime import convert
from mooraged.runtime.bundle import Bundle, Launch, Record
from mooraged.runtime.deletion import KILLED, Deleter
from mooraged.runtime.failures import step
from mooraged.runtime.resolver import Handler
from mooraged.runtime.shim import Shim
from mooraged.runtime.surroundings import Surroundings
from mooraged.runtime.ttrpc_client import consumed

log = logging.getLogger(__name__)
_STOP_MARGIN = 2.0


@dataclass(eq=False, slots=True)
class SandboxState:
    """One sandbox in memory. `exit` is set once, when it is no longer ready."""

    namespace: str
    id: str
    bundle: Bundle
    launch: Launch
    shim: Shim | None = None
    ready: bool = False
    pid: int = 0
    created_at: int = 0
    exit: Exit | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def view(self) -> SandboxStatus:
        exit = self.exit
        return SandboxStatus(
            id=self.id,
            state="notready" if exit is not None else "ready",
            pid=self.pid,
            path=str(self.bundle.path),
            created_at=self.created_at,
            exited_at=exit.at if exit else 0,
            exit_status=exit.status if exit else 0,
            address=self.shim.client.address if self.shim else "",
        )


class Sandboxes:
    """All sandboxes. Those being started hold their ids but are not shown."""

    def __init__(self, surroundings: Surroundings, deleter: Deleter) -> None:
        self._around = surroundings
        self._deleter = deleter
        self._states: dict[tuple[str, str], SandboxState] = {}

    def shim(self, namespace: str, id: str) -> tuple[Shim, str] | None:
        """The shim of a sandbox, and its launcher's id; None for a sandbox that nobody started here.
        `FailedPrecondition` for one that has stopped."""
        state = self._states.get((namespace, id))
        if state is None:
            return None
        if not state.ready or state.shim is None or state.exit is not None:
            raise FailedPrecondition(f"sandbox {id} is not ready")
        return state.shim, state.launch.launcher

    def get(self, namespace: str, id: str) -> SandboxState:
        """`NotFound`."""
        state = self._states.get((namespace, id))
        if state is None or not state.ready:
            raise NotFound(f"sandbox {id} not found")
        return state

    def all(self, namespace: str) -> list[SandboxState]:
        """By creation."""
        found = [state for state in self._states.values() if state.namespace == namespace and state.ready]
        return sorted(found, key=lambda state: (state.created_at, state.id))

    def add(self, state: SandboxState) -> None:
        """Take in a sandbox, found or about to be started. `AlreadyExists`."""
        key = state.namespace, state.id
        if key in self._states:
            raise AlreadyExists(f"sandbox {state.id} already exists")
        self._states[key] = state

    async def start(self, namespace: str, spec: SandboxSpec) -> SandboxStatus:
        """Start the shim, then the sandbox in it. On an error nothing stays; the message names the step."""
        check_identifier(spec.id, "sandbox id")
        with step("find the runtime"):
            handler = await self._around.resolver.resolve(spec.runtime.name, spec.runtime.options)
        bundle = Bundle(self._around.sandbox_folder, namespace, spec.id)
        state = SandboxState(namespace, spec.id, bundle, Launch(handler.launcher_id, handler.runtime))
        self.add(state)
        async with state.lock:
            return await self._start(state, spec, handler)

    async def _start(self, state: SandboxState, spec: SandboxSpec, handler: Handler) -> SandboxStatus:
        bundle = state.bundle
        try:
            with step("make the sandbox's folder"):
                await asyncio.to_thread(_make_bundle, bundle, state.launch, spec)
            with step("start the shim"):
                state.shim = await self._around.shims.launch(bundle, handler, sandbox=True)
            with step("start the sandbox"):
                await self._start_in(state.shim, state, spec, handler)
            with step("record the sandbox"):
                bundle.write_record(Record(state.pid, state.created_at))
                if not state.shim.client.connected:
                    raise Unavailable("the shim died")
        except Exception:
            await self._undo(state)
            raise
        state.ready = True
        self.watch(state)
        self._publish(state, "/sandboxes/create", events.SandboxCreate(sandbox_id=spec.id))
        self._publish(state, "/sandboxes/start", events.SandboxStart(sandbox_id=spec.id))
        return state.view()

    async def stop(self, namespace: str, id: str, timeout: float) -> None:
        """Stop the sandbox and end its shim, by force after `timeout` seconds. Idempotent."""
        state = self._states.get((namespace, id))
        if state is None:
            return
        async with state.lock:
            shim = state.shim
            if shim is None:
                return
            try:
                stopped = await self._stop_in(shim, state, timeout)
            except DeadlineExceeded as error:
                # Who did not answer this will answer nothing.
                log.warning("sandbox %s did not stop, its shim is killed: %s", id, error.message)
                self._around.shims.kill(shim)
                await self._bury(state, "its shim did not answer and was killed")
                return
            if stopped:
                await self._release(shim, state)
            else:
                await self._end_shim(shim, id)
                await self._bury(state, "its sandbox was stopped by force")

    async def shutdown(self, namespace: str, id: str) -> None:
        """Stop it if need be, and forget it. Idempotent."""
        state = self._states.get((namespace, id))
        if state is None:
            return
        await self.stop(namespace, id, self._around.config.call_timeout)
        async with state.lock:
            with step(f"remove sandbox {id}"):
                await asyncio.to_thread(_remove_bundle, state.bundle)
            if self._states.get((namespace, id)) is state:
                del self._states[namespace, id]

    def watch(self, state: SandboxState) -> None:
        """Learn of the sandbox's end from its shim."""
        if state.shim is None:
            return
        wait = state.shim.sandboxes.WaitSandbox
        answer = wait.submit(pb.WaitSandboxRequest(sandbox_id=state.id))

        def answered(answer: asyncio.Future[bytes]) -> None:
            if answer.cancelled() or consumed(answer) is not None:
                return
            with suppress(MoorageError):
                ended = wait.parse(answer.result())
                self._finish(state, Exit(ended.exit_status, convert.nanoseconds(ended.exited_at), state.pid))

        answer.add_done_callback(answered)

    async def metrics(self, namespace: str, id: str) -> SandboxMetrics:
        """Ask the shim. `NotFound`, `FailedPrecondition` once the sandbox has stopped."""
        state = self.get(namespace, id)
        if state.shim is None or state.exit is not None:
            raise FailedPrecondition(f"sandbox {id} is not ready")
        request = pb.SandboxMetricsRequest(sandbox_id=id)
        answer = await state.shim.sandboxes.SandboxMetrics(request, timeout=self._around.config.call_timeout)
        return SandboxMetrics(id, convert.nanoseconds(answer.metrics.timestamp), typed_value(answer.metrics.data))

    async def lost(self, shim: Shim, reason: str) -> None:
        """The shim of a sandbox is gone, unasked."""
        for state in list(self._states.values()):
            if state.shim is shim and state.ready:
                async with state.lock:
                    await self._bury(state, reason)

    async def found_dead(self, state: SandboxState) -> None:
        """The shim of a recovered sandbox had died while the daemon was away. Its tasks are recovered after it."""
        told = await self._around.shims.delete(state.bundle, state.launch.launcher)
        self._finish(state, told if told is not None and told.at else Exit(KILLED, time.time_ns(), state.pid))

    async def _start_in(self, shim: Shim, state: SandboxState, spec: SandboxSpec, handler: Handler) -> None:
        options = SandboxOptions(
            namespaces=spec.namespaces,
            hostname=spec.hostname,
            sysctls=dict(spec.sysctls),
            shm_size=spec.shm_size,
            path=str(state.bundle.path),
            uid_map=str(spec.uids or ""),
            gid_map=str(spec.gids or ""),
            cgroups_path=spec.cgroups_path,
        )
        value = TypedValue(SandboxOptions.DESCRIPTOR.full_name, options.SerializeToString())
        request = pb.CreateSandboxRequest(
            sandbox_id=spec.id,
            bundle_path=str(state.bundle.path),
            rootfs=convert.mount_messages(spec.rootfs),
            netns_path=spec.netns,
            options=convert.any_message(value),
            annotations=dict(spec.annotations),
        )
        timeout = self._around.config.create_timeout
        try:
            await shim.sandboxes.CreateSandbox(request, timeout=timeout)
        except Unimplemented:
            shim.keep_pause(handler.options)
            await shim.sandboxes.CreateSandbox(request, timeout=timeout)
        answer = await shim.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=spec.id), timeout=timeout)
        state.pid = answer.pid
        state.created_at = convert.nanoseconds(answer.created_at) or time.time_ns()

    async def _stop_in(self, shim: Shim, state: SandboxState, timeout: float) -> bool:
        """Stop the sandbox in its shim; False when it could not. `DeadlineExceeded` where the shim hangs."""
        try:
            request = pb.StopSandboxRequest(sandbox_id=state.id, timeout_secs=max(1, round(timeout)))
            await shim.sandboxes.StopSandbox(request, timeout=timeout + _STOP_MARGIN)
            async with asyncio.timeout(_STOP_MARGIN):
                await state.ended.wait()  # the answer to `watch`, which comes with the other
        except DeadlineExceeded:
            raise
        except MoorageError as error:
            log.warning("sandbox %s did not stop and is killed: %s", state.id, error.message)
            return False
        except TimeoutError:
            log.warning("sandbox %s stopped, and its shim did not tell how it ended", state.id)
            return False
        return True

    async def _release(self, shim: Shim, state: SandboxState) -> None:
        """End a shim whose sandbox has stopped; in good order, so that it leaves nothing to clean up."""
        tasks = self._around.ledger.of_shim(shim)
        await asyncio.gather(*(self._deleter.release(task) for task in tasks))
        await self._end_shim(shim, state.id)
        if self._around.ledger.of_shim(shim):
            await self._bury(state, "its sandbox was stopped")
        state.shim = None

    async def _undo(self, state: SandboxState) -> None:
        """Take back what a failed start has done. Never fails."""
        if state.shim is not None:
            await self._end_shim(state.shim, state.id)
            await self._around.shims.delete(state.bundle, state.launch.launcher)
        try:
            await asyncio.to_thread(_remove_bundle, state.bundle)
        except OSError as error:
            log.error("sandbox %s, whose start failed, could not be removed: %s", state.id, error)
        self._states.pop((state.namespace, state.id), None)

    async def _end_shim(self, shim: Shim, id: str) -> None:
        timeout = self._around.config.shutdown_timeout
        shim.client.expect_end()
        with suppress(MoorageError):
            await shim.sandboxes.ShutdownSandbox(pb.ShutdownSandboxRequest(sandbox_id=id), timeout=timeout)
        await self._around.shims.shutdown(shim)

    async def _bury(self, state: SandboxState, reason: str) -> None:
        """The shim has ended: tell how its tasks ended, and remove what it left."""
        shim, state.shim = state.shim, None
        if shim is not None:
            tasks = self._around.ledger.of_shim(shim)
            await asyncio.gather(*(self._deleter.bury(task, reason) for task in tasks))
            told = await self._around.shims.delete(state.bundle, state.launch.launcher)
            self._finish(state, told if told is not None and told.at else Exit(KILLED, time.time_ns(), state.pid))
            with suppress(OSError):
                await asyncio.to_thread(mount.unmount_recursive, str(state.bundle.path))

    def _finish(self, state: SandboxState, exit: Exit) -> None:
        if state.exit is not None:
            return
        state.exit = exit
        state.ended.set()
        record = Record(state.pid, state.created_at, exited=True, exit_status=exit.status, exited_at=exit.at)
        try:
            state.bundle.write_record(record)
        except OSError as error:
            log.error("exit of sandbox %s could not be recorded: %s", state.id, error)
        event = events.SandboxExit(sandbox_id=state.id, exit_status=exit.status, exited_at=convert.timestamp(exit.at))
        self._publish(state, "/sandboxes/exit", event)

    def _publish(self, state: SandboxState, topic: str, event: Message) -> None:
        try:
            self._around.bus.publish(state.namespace, topic, event)
        except MoorageError as error:
            log.error("event %s of sandbox %s was not published: %s", topic, state.id, error.message)


class NamespacedSandboxes:
    """The sandboxes of one namespace. What must not stop half-way runs on when its caller is cancelled."""

    def __init__(self, namespace: str, sandboxes: Sandboxes, surroundings: Surroundings) -> None:
        self._namespace = namespace
        self._sandboxes = sandboxes
        self._jobs = surroundings.jobs

    async def start(self, spec: SandboxSpec) -> SandboxStatus:
        starting = self._jobs.spawn(self._sandboxes.start(self._namespace, spec), f"start sandbox {spec.id}")
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if not starting.cancelled():
                self._jobs.start(self._abandon(starting, spec.id), f"abandon sandbox {spec.id}")
            raise

    def status(self, id: str) -> SandboxStatus:
        return self._sandboxes.get(self._namespace, id).view()

    def list(self) -> list[SandboxStatus]:
        return [state.view() for state in self._sandboxes.all(self._namespace)]

    async def stop(self, id: str, timeout: float = 10.0) -> None:
        await self._jobs.finish(self._sandboxes.stop(self._namespace, id, timeout), f"stop sandbox {id}")

    async def shutdown(self, id: str) -> None:
        await self._jobs.finish(self._sandboxes.shutdown(self._namespace, id), f"shut down sandbox {id}")

    async def wait(self, id: str) -> SandboxStatus:
        state = self._sandboxes.get(self._namespace, id)
        await state.ended.wait()
        return state.view()

    async def metrics(self, id: str) -> SandboxMetrics:
        return await self._sandboxes.metrics(self._namespace, id)

    async def _abandon(self, starting: asyncio.Task[SandboxStatus], id: str) -> None:
        """Take back a start whose caller went away."""
        with suppress(MoorageError, asyncio.CancelledError):
            await starting
            await self._sandboxes.shutdown(self._namespace, id)


def _make_bundle(bundle: Bundle, launch: Launch, spec: SandboxSpec) -> None:
    """Shims of others read annotations from a specification before they say what they can."""
    if bundle.path.exists():
        _remove_bundle(bundle)
    bundle.create(oci.encode({"ociVersion": oci.VERSION, "annotations": dict(spec.annotations)}).value, launch)


def _remove_bundle(bundle: Bundle) -> None:
    mount.unmount_recursive(str(bundle.path))
    bundle.remove()
