"""A container and its life: start, exec, stop, remove."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

from moorage import labels
from moorage.attaching import Command, attached, spawned, watched
from moorage.logs import Record, read
from moorage.logs import follow as follow_log
from moorage.process import Output, ProcessHandle
from moorage.state import State, state_of, status_of
from moorage.stdio import Fifos, remove_kept
from moorage_api import native
from moorage_api.containers import Container
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, Unimplemented
from moorage_api.mounts import Mount
from moorage_api.oci import capabilities
from moorage_api.oci import spec as oci
from moorage_api.runtime import Exit, Process, Status, Stdio

if TYPE_CHECKING:
    from moorage.attachment import Attachment
    from moorage.client import Client

STOP_SECONDS = 10.0
_KILL_SECONDS = 10.0
_TRIES = 5


class ContainerHandle:
    """A container of a client's namespace. `record` is as it was when the handle was made."""

    def __init__(self, client: Client, record: Container) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        """The name that its maker gave, or the short id."""
        return labels.name_of(self.record)

    @property
    def log_path(self) -> str:
        """Where its output is kept; empty where it is kept nowhere."""
        return self.record.labels.get(labels.LOG_PATH, "") if self.record.runtime.name in native.RUNTIMES else ""

    @property
    def terminal(self) -> bool:
        """Whether its first process has a terminal."""
        return bool(oci.decode(self.record.spec)["process"].get("terminal"))

    @property
    def stdio(self) -> Stdio:
        """The streams of its first process while no client is there."""
        return native.stdio(self.record.labels, self.id, runtime=self.record.runtime.name, terminal=self.terminal)

    @property
    def auto_remove(self) -> bool:
        """Whether it is to be removed when it ends."""
        return self.record.labels.get(labels.AUTO_REMOVE) == "true"

    @property
    def main(self) -> ProcessHandle:
        """Its first process."""
        return ProcessHandle(self._client.tasks, self.id)

    async def process(self) -> Process | None:
        """Its task, None where there is none."""
        try:
            return await self._client.tasks.get(self.id)
        except NotFound:
            return None

    async def state(self) -> State:
        """Whether it runs, and how it ended."""
        process = await self.process()
        if process is None:
            # The daemon may have written down its end, and deleted its task, since this record was read.
            self.record = await self._client.containers.get(self.id)
        return state_of(self.record, process)

    async def create_task(self, stdio: Stdio, rootfs: Sequence[Mount] = ()) -> ProcessHandle:
        """Create its task, to be started; what is left of an earlier run is cleared away first.

        `FailedPrecondition` where it runs already. Without `stdio` paths its output goes nowhere.
        """
        if not rootfs:
            await self._clear()
            rootfs = await self._client.snapshots(self.record.snapshotter).mounts(self.record.snapshot_key)
        await self._join_network()
        await asyncio.to_thread(native.note_start, self.record.labels, self.id)
        await self._want(native.RUNNING)
        try:
            await self._client.tasks.create(self.id, rootfs=rootfs, stdio=stdio, options=self.record.runtime.options)
        except MoorageError as error:
            await self._want(native.STOPPED)
            reason = await asyncio.to_thread(self._network_failure)
            raise (
                FailedPrecondition(f"the network of container {self.name}: {reason}") if reason else error
            ) from error
        return self.main

    async def _join_network(self) -> None:
        """Let one that joins another container's network join the one that this has now. `FailedPrecondition`."""
        other = self.record.labels.get(native.NETWORK_OF, "")
        if not other:
            return
        try:
            process = await self._client.tasks.get(other)
        except NotFound:
            process = None
        if process is None or process.status is Status.STOPPED:
            raise FailedPrecondition(f"container {other[:12]}, whose network {self.name} joins, does not run")
        self.record = await self._client.containers.update(native.in_network_of(self.record, process.pid), ["spec"])

    async def _want(self, status: str) -> None:
        """Tell the daemon's restart monitor whether it is to run, where it has a restart policy."""
        if native.RESTART_POLICY not in self.record.labels:
            return
        stopped = "false" if status == native.RUNNING else "true"
        wanted = {native.RESTART_STATUS: status, native.EXPLICITLY_STOPPED: stopped, native.RESTART_COUNT: "0"}
        await self._label(wanted)

    async def _label(self, changes: Mapping[str, str]) -> None:
        """Set labels of its record. One that is gone has nobody to tell."""
        changed = replace(self.record, labels={**self.record.labels, **changes})
        with contextlib.suppress(NotFound):
            self.record = await self._client.containers.update(changed, [f"labels.{key}" for key in changes])

    def _network_failure(self) -> str:
        from moorage.network.attach import failure

        return failure(native.own_folder(self.record.labels, self.id))

    async def start(self, rootfs: Sequence[Mount] = ()) -> int:
        """Start it detached, its output going to its log; returns the pid."""
        await asyncio.to_thread(self._make_log_folder)
        process = await self.create_task(self.stdio, rootfs)
        return await process.start()

    def fifos(self, *, stdin: bool = False) -> Fifos:
        """FIFOs for a client of its first process, to be given to `create_attached` or `join`. Its folder is made."""
        if not self.stdio.stdout:
            return Fifos(terminal=self.terminal, stdin=stdin)
        self._make_log_folder()
        folder = native.own_folder(self.record.labels, self.id)
        return Fifos(terminal=self.terminal, inside=folder, input=self.stdio.stdin if stdin else "")

    async def create_attached(self, fifos: Fifos, rootfs: Sequence[Mount] = ()) -> ProcessHandle:
        """Create its task, to be started, with what it writes going to `fifos`, and to its log if it has one."""
        if not self.stdio.stdout:
            return await self.create_task(fifos.stdio, rootfs)
        process = await self.create_task(self.stdio, rootfs)
        try:
            await self._client.tasks.attach(self.id, fifos.stdio)
        except BaseException:
            with contextlib.suppress(MoorageError):
                await process.delete()
            raise
        return process

    async def join(self, fifos: Fifos) -> ProcessHandle:
        """Let a running container write to `fifos`, too, from now on. `FailedPrecondition` where it does not run."""
        state = await self.state()
        if not state.running:
            raise FailedPrecondition(f"container {self.name} is not running (it is {state.status})")
        try:
            await self._client.tasks.attach(self.id, fifos.stdio)
        except Unimplemented as error:
            raise FailedPrecondition(
                f"container {self.name} cannot be attached to: its shim or daemon is not Moorage's"
            ) from error
        return self.main

    def attach(self, *, start: bool = False) -> AbstractAsyncContextManager[Attachment]:
        """Its streams, from now on: `async for chunk in attachment`, `attachment.write`, `attachment.wait`. With `start`
        it is started so that nothing is missed. It runs on when the context is left. `FailedPrecondition` where it does
        not run, or does already."""
        return attached(self, start=start)

    def spawn(
        self,
        args: Sequence[str],
        *,
        stdin: bool = False,
        terminal: bool = False,
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
    ) -> AbstractAsyncContextManager[Attachment]:
        """A command in it, with its streams; what still runs when the context is left is killed. Errors of
        `add_process`."""
        command = Command(args, env, user, workdir)
        return spawned(self, command, stdin=stdin, terminal=terminal)

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, since: int = 0
    ) -> AsyncGenerator[Record, None]:
        """What it wrote: the last `tail` lines, from `since` (Unix nanoseconds) on; with `follow` also what it writes until
        it ends. Nothing where it never ran. `FailedPrecondition` where it keeps no log."""
        if not self.log_path:
            raise FailedPrecondition(f"container {self.name} keeps no log: its shim or daemon is not Moorage's")
        try:
            if not follow:
                for record in read(self.log_path, tail=tail, since=since):
                    yield record
                return
            async with watched(self) as ended:
                async for record in follow_log(self.log_path, ended, tail=tail, since=since):
                    yield record
        except NotFound:
            # It never ran: there is nothing to show, which is no error.
            return

    async def wait(self) -> Exit:
        """Return when it has ended. `NotFound` where it was never started."""
        return await self.main.wait()

    async def kill(self, signal: int = SIGKILL) -> None:
        """Send a signal to its first process. `FailedPrecondition` where it does not run.

        One that is killed by SIGKILL is not started again by its restart policy.
        """
        if signal == SIGKILL:
            await self._want(native.STOPPED)
        try:
            await self.main.kill(signal)
        except NotFound as error:
            raise FailedPrecondition(f"container {self.name} is not running") from error

    @property
    def stop_seconds(self) -> float:
        """How long it may take to end when it is asked to, as its maker said; infinite for a negative number."""
        try:
            seconds = float(self.record.labels.get(native.STOP_TIMEOUT, STOP_SECONDS))
        except ValueError:
            return STOP_SECONDS
        return seconds if seconds >= 0 else float("inf")

    async def stop(self, timeout: float | None = None, signal: int | None = None) -> Exit | None:
        """Ask it to end with `signal` (its stop signal), kill it after `timeout` seconds (its own, or 10); None where it
        does not run.

        The task is gone afterwards; the record says how it ended.
        """
        await self._want(native.STOPPED)
        process = await self.process()
        if process is None or process.status is Status.CREATED:
            await self._discard(process)
            return None
        if process.status is not Status.STOPPED:
            number = signal or int(self.record.labels.get(labels.STOP_SIGNAL, SIGTERM))
            ended = await self._end(number, self.stop_seconds if timeout is None else timeout)
            return await self.finish() or ended
        return await self.finish()

    async def finish(self) -> Exit | None:
        """Keep how it ended in the record, and delete the task. None where someone else was first, or it runs again."""
        process = await self.process()
        if process is None or process.status is not Status.STOPPED:
            return None
        await self._label({labels.EXIT_STATUS: str(process.exit_status), labels.EXITED_AT: str(process.exited_at)})
        try:
            exit = await self.main.delete()
        except (NotFound, FailedPrecondition):
            return None
        remove_kept(process.stdio)
        return exit

    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, its writable layer and its log; a running one only by `force`, which kills it first. With `volumes`,
        or where it was made to be removed at its end, its volumes without a name go as well.

        `FailedPrecondition` where it runs.
        """
        process = await self.process()
        if not force and process is not None and process.status not in (Status.STOPPED, Status.CREATED):
            raise FailedPrecondition(
                f"container {self.name} is {status_of(process)}: stop it first, or remove it by force"
            )
        await self._want(native.STOPPED)
        for _ in range(_TRIES):
            if await self._taken_down(force=force):
                break
        await self._client.containers.delete(self.id)
        if self.record.snapshot_key:
            with contextlib.suppress(NotFound):
                await self._client.snapshots(self.record.snapshotter).remove(self.record.snapshot_key)
        await asyncio.to_thread(self._remove_log)
        own = native.anonymous_volumes(self.record.labels) if volumes or self.auto_remove else []
        if own:
            await self._remove_volumes(own)

    async def _remove_volumes(self, names: Sequence[str]) -> None:
        """Remove volumes that no other container has been given since."""
        from moorage.options import options_of
        from moorage.volumes import Volumes

        others = [options for record in await self._client.containers.list() if (options := options_of(record))]
        used = {volume.name for options in others for volume in options.volumes}
        volumes = Volumes((await self._client.defaults()).volumes, self._client.namespace)
        for name in names:
            if name not in used:
                with contextlib.suppress(NotFound):
                    await asyncio.to_thread(volumes.remove, name)

    async def _taken_down(self, *, force: bool) -> bool:
        """Delete its task, kill it first by `force`; False where the restart monitor has started it at that moment."""
        process = await self.process()
        if process is None:
            return True
        # A created one may be starting at this very moment, by a call that was given up.
        if force and process.status is not Status.STOPPED:
            await self._end(SIGKILL, _KILL_SECONDS)
        try:
            await self._discard(process)
        except FailedPrecondition:
            if not force:
                raise
            return False
        return native.RESTART_POLICY not in self.record.labels

    async def add_process(
        self,
        args: Sequence[str],
        stdio: Stdio,
        *,
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
        privileged: bool = False,
    ) -> ProcessHandle:
        """Add a process to the running container, to be started; `privileged` gives it all capabilities that there are.
        `FailedPrecondition` where it does not run."""
        process = await self.process()
        if process is None or process.status is not Status.RUNNING:
            state = state_of(self.record, process).status
            wrong = "paused: unpause it first" if state == "paused" else f"not running (it is {state})"
            raise FailedPrecondition(f"container {self.name} is {wrong}")
        spec = oci.decode(self.record.spec)
        request = oci.exec_process(spec, args, env=env, cwd=workdir, terminal=stdio.terminal)
        if user:
            from moorage.rootfs import user_of_process

            who = await asyncio.to_thread(user_of_process, process.pid, user)
            oci.set_user({"process": request}, who.uid, who.gid, who.groups)
        if privileged:
            oci.set_capabilities({"process": request}, capabilities.held())
        exec_id = uuid.uuid4().hex
        try:
            await self._client.tasks.exec(self.id, exec_id, oci.encode(request, oci.PROCESS_URL), stdio)
        except NotFound as error:
            raise FailedPrecondition(f"container {self.name} is not running") from error
        return ProcessHandle(self._client.tasks, self.id, exec_id)

    async def exec(
        self,
        args: Sequence[str],
        *,
        input: bytes = b"",
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
    ) -> Output:
        """Run a command in it to its end, and return its exit status and output."""
        async with Fifos(stdin=bool(input)) as fifos:
            process = await self.add_process(args, fifos.stdio, env=env, user=user, workdir=workdir)
            return await process.run_captured(fifos, input)

    async def _clear(self) -> None:
        """Make room for a new task."""
        process = await self.process()
        if process is None:
            return
        if process.status not in (Status.STOPPED, Status.CREATED):
            raise FailedPrecondition(f"container {self.name} is {status_of(process)} already")
        await self._discard(process)

    async def _discard(self, process: Process | None) -> None:
        """Delete a task that does not run."""
        if process is not None:
            with contextlib.suppress(NotFound):
                await self.main.delete()
            remove_kept(process.stdio)

    async def _end(self, signal: int, timeout: float) -> Exit | None:
        """Signal it, wait `timeout` seconds, then kill it; returns how it ended. None where it had ended, and somebody
        deleted its task meanwhile."""
        waiting = asyncio.create_task(self.main.wait(), name="moorage wait")
        try:
            for number, patience in ((signal, timeout), (SIGKILL, _KILL_SECONDS)):
                with contextlib.suppress(NotFound):
                    await self.main.kill(number)
                done, _ = await asyncio.wait([waiting], timeout=None if patience == float("inf") else patience)
                if done:
                    return None if isinstance(waiting.exception(), NotFound) else waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        raise FailedPrecondition(f"container {self.name} does not end, not even by SIGKILL")

    def _make_log_folder(self) -> None:
        if self.log_path:
            os.makedirs(os.path.dirname(self.log_path), mode=0o700, exist_ok=True)

    def _remove_log(self) -> None:
        """Remove its log and its other files."""
        folder = native.own_folder(self.record.labels, self.id)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
