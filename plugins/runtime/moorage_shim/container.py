"""A container: its first process, those added to it, and what it holds on the host."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from moorage_api.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, MoorageError, NotFound
from moorage_api.mounts import Mount
from moorage_api.runtime import Status, Stdio
from moorage_api.wire import events_types_pb2 as events
from moorage_shim import cgroups, idmounts, log, records, scratch, shortcuts, spec
from moorage_shim.ahead import Aheads
from moorage_shim.cgroups import Cgroup
from moorage_shim.launching import Host, LaunchRequest, launch_process
from moorage_shim.loop import Future, Lock
from moorage_shim.oci import Launch, OciRuntime
from moorage_shim.oom import OomWatch
from moorage_shim.process import Process
from moorage_shim.processes import Ended
from moorage_shim.rootfs import Rootfs

# How long the exit of the first process waits for those of the others, once they have been killed.
_STRAGGLERS = 10.0
_MAP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is asked for when a container is made."""

    id: str
    bundle: str
    stdio: Stdio
    rootfs: Sequence[Mount] = ()
    flags: Sequence[str] = ()
    owner: tuple[int, int] = (0, 0)
    restore: Sequence[str] = field(default=())


class Container:
    """One container. Calls that change it through the OCI runtime take turns; signals never wait."""

    def __init__(self, host: Host, runtime: OciRuntime, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.runtime = runtime
        self.cgroup = Cgroup()
        self.init = Process(host.forker.loop, plan.stdio)
        self.execs: dict[str, Process] = {}
        self._specs: dict[str, bytes] = {}
        self._aheads = Aheads(host, plan.id, runtime, plan.owner)
        self._loop = host.forker.loop
        self._lock = Lock(self._loop)
        self._oom: OomWatch | None = None
        self._own_pids = True
        self._rootfs = Rootfs(host.forker, plan.rootfs, os.path.join(plan.bundle, "rootfs"))

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def bundle(self) -> str:
        return self.plan.bundle

    def process(self, exec_id: str) -> Process:
        """By its id; the first process for an empty one. `NotFound`."""
        if not exec_id:
            return self.init
        try:
            return self.execs[exec_id]
        except KeyError:
            raise NotFound(f"process {exec_id} does not exist in {self.id}") from None

    async def create(self, timeout: float | None) -> None:
        """Mount its root file system and make it, up to the start of its first process. Undone on any error."""
        self._record()
        await self._rootfs.mount()
        try:
            if not self.plan.restore:
                await self._launch_init(timeout)
        except BaseException:
            await self._undo_create()
            raise
        self._publish_create()
        self.init.announced.set(None)

    def wake(self) -> None:
        """Go on after a rest: watch what was watched, and wait for the processes that live."""
        for process in (self.init, *self.execs.values()):
            if process.streams is not None:
                process.streams.wake()
            if process.pid and not process.exited.done:
                future = self.host.forker.reaper.watch(process.pid, adopted=True)
                self._loop.background(self._follow(process, future), f"exit of {self.id}/{process.exec_id}")
        if self._oom is not None:
            self._oom.wake()

    async def start(self, exec_id: str, timeout: float | None) -> int:
        """Start the first process, or an added one; returns its pid."""
        process = self.process(exec_id)
        if exec_id:
            await self._start_exec(process, timeout)
        else:
            await self._start_init()
        return process.pid

    async def add(self, exec_id: str, process_spec: bytes, stdio: Stdio) -> None:
        """Add a process, to be started later; `process_spec` is an OCI `process` as JSON. `AlreadyExists`."""
        self.init.check("exec")
        if exec_id in self.execs:
            raise AlreadyExists(f"process {exec_id} exists in {self.id}")
        self.execs[exec_id] = Process(self._loop, stdio, exec_id)
        self._specs[exec_id] = process_spec
        if self.init.status is Status.RUNNING:
            await self._aheads.begin(self.execs[exec_id], process_spec)
        self.host.publish("exec-added", events.TaskExecAdded(container_id=self.id, exec_id=exec_id))

    async def kill(self, exec_id: str, number: int, *, all: bool) -> None:
        """Send a signal. A frozen container is thawed for SIGKILL, or it would never die.

        `all` means every process of the container, and with SIGKILL to an exec what that has started.
        """
        process = self.process(exec_id)
        process.check("kill")
        if exec_id and all and number == signal.SIGKILL:
            process.signal(signal.SIGSTOP, self.host.pid)
            self.cgroup.kill_family(process.pid)
        elif exec_id:
            process.signal(number, self.host.pid)
        elif not self.runtime.direct:
            await self.runtime.kill(self.id, number, all=all)
        elif all and number == signal.SIGKILL and self.cgroup.folders:
            self.cgroup.kill()
        elif all and self.cgroup.folders:
            for pid in self.cgroup.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            process.signal(number, self.host.pid)
        if number == signal.SIGKILL and self.init.status is Status.PAUSED:
            self.cgroup.freeze(False)

    async def delete(self, exec_id: str) -> Process:
        """Forget a process that does not run; with the first one goes everything that the container held."""
        process = self.process(exec_id)
        process.check("delete")
        await process.claimed()
        async with self._lock:
            process.check("delete")
            if exec_id:
                await self._aheads.end(exec_id)
                await process.release()
                self.execs.pop(exec_id, None)
                self._specs.pop(exec_id, None)
                process.exited.fail(NotFound(f"process {exec_id} was deleted"))
            else:
                await self._delete_init()
        return process

    async def pause(self) -> None:
        """Freeze all its processes."""
        async with self._lock:
            self.init.check("pause")
            self.init.status = Status.PAUSING
            try:
                await self.runtime.pause(self.id)
                self._leave_pausing(Status.PAUSED)
            except MoorageError:
                self._leave_pausing(Status.RUNNING)
                raise
        self.host.publish("paused", events.TaskPaused(container_id=self.id))

    async def resume(self) -> None:
        """Thaw them."""
        async with self._lock:
            self.init.check("resume")
            await self.runtime.resume(self.id)
            if self.init.status is Status.PAUSED:
                self.init.status = Status.RUNNING
        self.host.publish("resumed", events.TaskResumed(container_id=self.id))

    async def update(self, resources: bytes) -> None:
        """Set new limits."""
        async with self._lock:
            self.init.check("update")
            await self.runtime.update(self.id, resources)

    async def checkpoint(self, flags: Sequence[str], path: str) -> None:
        """Write its state to `path`."""
        async with self._lock:
            self.init.check("checkpoint")
            await self.runtime.checkpoint(self.id, flags)
        self.host.publish("checkpointed", events.TaskCheckpointed(container_id=self.id, checkpoint=path))

    def pids(self) -> list[int]:
        """Every process in it; only its first where it has no control group of its own."""
        if self.cgroup.folders:
            return self.cgroup.pids()
        return [self.init.pid] if self.init.pid and self.init.ended is None else []

    def kill_now(self) -> None:
        """End it without asking anybody."""
        if self.cgroup.folders:
            self.cgroup.kill()
        elif self.init.pid and self.init.ended is None:
            with suppress(NotFound):
                self.init.signal(signal.SIGKILL, self.host.pid)

    def _publish_create(self) -> None:
        plan = self.plan
        event = events.TaskCreate(container_id=plan.id, bundle=plan.bundle, pid=self.init.pid)
        event.io.stdin, event.io.stdout, event.io.stderr = plan.stdio.stdin, plan.stdio.stdout, plan.stdio.stderr
        event.io.terminal = plan.stdio.terminal
        for each in plan.rootfs:
            event.rootfs.add(type=each.type, source=each.source, target=each.target, options=each.options)
        self.host.publish("create", event)

    async def _launch_init(self, timeout: float | None) -> None:
        async def run(launch: Launch) -> None:
            if self.plan.restore:
                await self.runtime.restore(self.id, launch, [*self.plan.flags, *self.plan.restore])
            else:
                await self.runtime.create(self.id, launch, self.plan.flags, timeout)

        async def run_mapped(launch: Launch) -> None:
            try:
                await self.host.forker.call(lambda: idmounts.attach(self.bundle), _MAP_TIMEOUT, "ID-mapped mounts")
                await run(launch)
            finally:
                idmounts.detach(self.bundle)

        request = LaunchRequest(
            self.id, self.bundle, scratch.path(self.bundle, "init.pid"), lambda: spec.adjust_bundle(self.bundle)
        )
        step = run_mapped if idmounts.wanted(self.bundle) else run
        future = await launch_process(self.host, self.init, request, step, self.plan.owner)
        self.cgroup = cgroups.of_process(self.init.pid)
        self._own_pids = _is_init_of_namespace(self.init.pid)
        self._oom = OomWatch(self._loop, self.cgroup, self._on_oom)
        self._record()
        self._loop.background(self._follow(self.init, future), f"exit of {self.id}")

    async def _start_init(self) -> None:
        async with self._lock:
            init = self.init
            init.check("start")
            init.announced = self._loop.future()
            try:
                if self.plan.restore:
                    await self._launch_init(None)
                elif not await shortcuts.start(self._loop, self.runtime, self.id, lambda: init.ended is None):
                    await self.runtime.start(self.id)
                if init.ended is None:
                    init.status = Status.RUNNING
                self.host.publish("start", events.TaskStart(container_id=self.id, pid=init.pid))
            finally:
                init.announced.set(None)

    async def _start_exec(self, process: Process, timeout: float | None) -> None:
        process.check("start")
        if self.init.ended is not None:
            raise FailedPrecondition(f"the first process of container {self.id} is not running")
        if process.exec_id not in self._specs:
            raise FailedPrecondition(f"process {process.exec_id} is being started")
        process_spec = self._specs.pop(process.exec_id)
        try:
            if self.init.status is not Status.RUNNING:
                await self._aheads.end(process.exec_id)
            future = await self._aheads.launch(process) or await self._launch_exec(process, process_spec, timeout)
            process.status = Status.RUNNING
            self._loop.background(self._follow(process, future), f"exit of {self.id}/{process.exec_id}")
            # Behind the answer, which somebody waits for.
            self._loop.soon(self._tell_exec_started, process)
        except BaseException:
            self._specs[process.exec_id] = process_spec
            raise

    def _tell_exec_started(self, process: Process) -> None:
        started = events.TaskExecStarted(container_id=self.id, exec_id=process.exec_id, pid=process.pid)
        self.host.publish("exec-started", started)
        process.announced.set(None)

    async def _launch_exec(self, process: Process, process_spec: bytes, timeout: float | None) -> Future[Ended]:
        path, pid_file = (scratch.path(self.bundle, f".exec-{process.exec_id}.{kind}") for kind in ("json", "pid"))
        write = lambda: spec.write_exec(path, process_spec, terminal=process.stdio.terminal)  # noqa: E731
        request = LaunchRequest(self.id, self.bundle, pid_file, write)
        run = lambda launch: self.runtime.exec(self.id, path, launch, timeout)  # noqa: E731
        try:
            return await launch_process(self.host, process, request, run, self.plan.owner)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    async def _follow(self, process: Process, future: Future[Ended]) -> None:
        """Wait for a process's end and report it: the container's first on disk, then, when its output is safe, to everybody."""
        ended = process.ended = await future
        oom = self._oom.check() if self._oom is not None else False
        if process is self.init:
            self._write_exit(ended, oom_killed=oom)
            await self._end_stragglers()
        if process.streams is not None:
            await process.streams.settle()
            if process is self.init and process.streams.dropped:
                self._write_exit(ended, oom_killed=oom)
        await process.announced
        process.status = Status.STOPPED
        process.exited.set(ended)
        # Behind the answers to those who wait for it, and before anything that somebody does then.
        self._loop.soon(self._tell_exit, process, ended)

    def _tell_exit(self, process: Process, ended: Ended) -> None:
        event = events.TaskExit(
            container_id=self.id, id=process.exec_id or self.id, pid=process.pid, exit_status=ended.status
        )
        event.exited_at.FromNanoseconds(ended.at)
        self.host.publish("exit", event)

    async def _end_stragglers(self) -> None:
        """The first process's exit is the last to be told. In a PID namespace of its own the kernel kills the others."""
        if not self._own_pids:
            self.cgroup.kill()
        for process in list(self.execs.values()):
            if process.pid:
                try:
                    await self._loop.within(process.exited, _STRAGGLERS, f"exec {process.exec_id}")
                except DeadlineExceeded as error:
                    log.warning(f"container {self.id} has ended: {error.message}")

    async def _delete_init(self) -> None:
        """A failure leaves the container as it is, so that it can be deleted again."""
        init = self.init
        await self._aheads.end()
        if init.streams is not None:
            await init.streams.settle()
        if init.status is Status.CREATED or not self.runtime.forget(self.id, self.cgroup):
            await self.runtime.delete(self.id, force=init.status is Status.CREATED)
        await init.release()
        await self._rootfs.unmount()
        if self._oom is not None:
            self._oom.close()
        ended = init.ended or Ended(0, 0)
        event = events.TaskDelete(container_id=self.id, pid=init.pid, exit_status=ended.status)
        if ended.at:
            event.exited_at.FromNanoseconds(ended.at)
        self.host.publish("delete", event)

    async def _undo_create(self) -> None:
        self.kill_now()
        try:
            await self.runtime.delete(self.id, force=True)
        except MoorageError as error:
            log.warning(f"after a failed create: {error.message}")
        await self.init.release()
        await self._rootfs.unmount()
        if self._oom is not None:
            self._oom.close()

    def _leave_pausing(self, status: Status) -> None:
        if self.init.status is Status.PAUSING:
            self.init.status = status

    def _on_oom(self) -> None:
        self.host.publish("oom", events.TaskOOM(container_id=self.id))

    def _record(self) -> None:
        runtime = self.runtime
        folders = dict(self.cgroup.folders)
        record = records.RunRecord(
            self.id, runtime.binary, runtime.root, runtime.systemd_cgroup, self.init.pid, folders
        )
        records.write_run(self.bundle, record)

    def _write_exit(self, ended: Ended, *, oom_killed: bool) -> None:
        init = self.init
        dropped = init.streams.dropped if init.streams is not None else 0
        record = records.ExitRecord(self.id, init.pid, ended.status, ended.at, oom_killed, dropped)
        try:
            records.write_exit(self.bundle, record)
        except OSError as error:
            log.warning(f"exit of {self.id} is not on disk: {error}")


def _is_init_of_namespace(pid: int) -> bool:
    """Whether a process is the first of a PID namespace of its own (not of one that others share with it)."""
    for line in cgroups.read_file(f"/proc/{pid}/status").splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 1 and numbers[-1] == "1"
    return True
