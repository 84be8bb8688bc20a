"""The daemon's side of the zygote: asks it for shims, and starts it again when it is gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from moorage_api.errors import DeadlineExceeded, MoorageError, Unavailable, from_code
from moorage_api.runtime import Exit
from moorage_api.shim import Bootstrap, ShimRequest
from moorage_api.wire.shim_v3_pb2 import DeleteResponse
from moorage_shim.sealed import SCRATCH_VARIABLE
from moorage_shim.sockets import SCHEME, socket_path

_MESSAGE_MAX = 64 << 10
_WORKSHOP = "moorage_shim.workshop"
# No docstrings and no columns of code in the zygote's memory: every shim would share the weight of them. And nothing of
# Python's own start, nor of the environment's packages: the zygote needs only the files beside this one.
_PYTHON = (sys.executable, "-OO", "-X", "no_debug_ranges")
_LEAN = ("-I", "-S")
_SCRATCH = "copies"
# For a zygote that is told to end while it starts, on a busy machine.
_END_TIMEOUT = 3.0
_FOLDER = str(Path(__file__).parent.parent)
_BEGIN = "import sys; sys.path.append(sys.argv[1]); from moorage_shim.zygote import main; main(sys.argv[2:])"
_STAMP = f"{version('moorage')}/{sys.version}"


class ZygoteLauncher:
    """A `moorage_api.shim.ShimLauncher`. Deadlines are in seconds; one shim is started at a time."""

    def __init__(self, start_timeout: float = 10.0, delete_timeout: float = 90.0, cache: Path | None = None) -> None:
        """`cache` is a folder for compiled code: a zygote that compiles is slow to start, and large for all its life."""
        self._cache = cache
        self._scratch = cache.parent / _SCRATCH if cache is not None else None
        self._start_timeout = start_timeout
        self._delete_timeout = delete_timeout
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None

    async def prepare(self) -> None:
        """Start the zygote now, so that the first shim need not wait for it. A failure shows with the first shim."""
        async with self._lock:
            await asyncio.to_thread(self._clear_scratch)
            with suppress(MoorageError):
                await self._ensure()

    async def start(self, request: ShimRequest) -> Bootstrap:
        path = socket_path(str(request.socket_dir), request.namespace, request.id)
        message = {
            "id": request.id,
            "namespace": request.namespace,
            "bundle": str(request.bundle),
            "socket": path,
            "ttrpc_address": request.ttrpc_address,
        }
        async with self._lock:
            answer = await self._ask(json.dumps(message).encode())
        if "error" in answer:
            raise from_code(int(answer["code"]), str(answer["error"]))
        return Bootstrap(SCHEME + path, pid=int(answer["pid"]))

    async def delete(self, request: ShimRequest) -> Exit:
        """In a process of its own: what a dead shim left may hang whoever touches it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "moorage_shim", "-namespace", request.namespace, "-id", request.id),
            *("-address", request.daemon_address, "-bundle", str(request.bundle), "delete"),
            cwd=request.bundle,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), self._delete_timeout)
        except TimeoutError as error:
            raise DeadlineExceeded(f"cleaning up after shim {request.id} took too long") from error
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise MoorageError(f"cleaning up after shim {request.id}: {errors.decode(errors='replace').strip()}")
        return _parse_exit(out)

    async def close(self) -> None:
        """Let the zygote end; its shims live on."""
        async with self._lock:
            await self._drop()

    async def _ask(self, message: bytes) -> dict[str, Any]:
        """Ask once more when the zygote turns out to be dead; a hung one is killed and not asked again."""
        for attempt in (1, 2):
            control = await self._ensure()
            try:
                answer = await asyncio.wait_for(_exchange(control, message), self._start_timeout)
                return dict(json.loads(answer))
            except TimeoutError as error:
                await self._drop()
                raise DeadlineExceeded(f"the zygote gave no shim within {self._start_timeout:g} s") from error
            except (OSError, ValueError) as error:
                await self._drop()
                if attempt == 2:
                    raise Unavailable(f"the zygote died: {error}") from error
        raise Unavailable("the zygote died")

    async def _ensure(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.returncode is None:
            return self._control
        await self._drop()
        try:
            await self._compile()
            self._control = await self._begin()
        except OSError as error:
            raise Unavailable(f"the zygote could not be started: {error}") from error
        return self._control

    async def _begin(self) -> socket.socket:
        """Start the process; returns the socket that leads to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = ("-c", _BEGIN, _FOLDER, str(theirs.fileno()), *self._command("-m", _WORKSHOP))
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            ours.setblocking(False)
            self._process = await self._run(self._command(*_LEAN, *arguments), theirs.fileno())
            undo.pop_all()
        return ours

    async def _compile(self) -> None:
        """Fill the cache, once a version, by importing all in a process that ends; `runpy` is what `-m` needs."""
        if self._cache is None:
            return
        stamp = self._cache / "stamp"
        if stamp.exists() and stamp.read_text() == _STAMP:
            return
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = await self._run(self._command("-c", f"import runpy, {_WORKSHOP}"))
        try:
            done = await process.wait() == 0
        finally:
            # A daemon that ends at once leaves nobody who writes below its root.
            if process.returncode is None:
                process.kill()
                await process.wait()
        if done:
            stamp.write_text(_STAMP)

    def _command(self, *arguments: str) -> list[str]:
        cache = ("-X", f"pycache_prefix={self._cache}") if self._cache is not None else ()
        return [*_PYTHON, *cache, *arguments]

    async def _run(self, command: Sequence[str], *fds: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *command,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=fds,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        cached = self._cache is not None
        environment = {
            key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE" or not cached
        }
        if self._scratch is not None:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment[SCRATCH_VARIABLE] = str(self._scratch)
        return environment

    def _clear_scratch(self) -> None:
        if self._scratch is not None and self._scratch.exists():
            for path in self._scratch.iterdir():
                with suppress(OSError):
                    path.unlink()

    async def _drop(self) -> None:
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            try:
                await asyncio.wait_for(process.wait(), _END_TIMEOUT)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _exchange(control: socket.socket, message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(control, message)
    answer = await loop.sock_recv(control, _MESSAGE_MAX)
    if not answer:
        raise ConnectionResetError(os.strerror(104))
    return answer


def _parse_exit(data: bytes) -> Exit:
    try:
        answer = DeleteResponse.FromString(data)
    except DecodeError as error:
        raise MoorageError("cleaning up after a shim gave no answer") from error
    return Exit(answer.exit_status, answer.exited_at.ToNanoseconds(), answer.pid)
