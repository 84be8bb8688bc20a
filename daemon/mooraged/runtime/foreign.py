"""Shims of others: programs that keep to containerd's binary contract (its docs/runtime-v2.md, "Commands").

`start` prints where the shim listens and exits; `delete` cleans up after a dead shim and prints how its task ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from moorage_api.errors import DeadlineExceeded, Internal, Unavailable, Unimplemented
from moorage_api.runtime import Exit
from moorage_api.shim import Bootstrap, ShimRequest
from moorage_api.types import TypedValue
from moorage_api.wire import shim_v3_pb2
from moorage_api.wire.bootstrap_pb2 import BootstrapResult
from moorage_api.wire.types_pb2 import RuntimeInfo
from mooraged.runtime import convert
from mooraged.runtime.bundle import shim_pid

log = logging.getLogger(__name__)
_NEWEST = 3
_STDERR_MAX = 2000


class ForeignLauncher:
    """Starts the shims of one binary (`moorage_api.shim.ShimLauncher`)."""

    def __init__(self, binary: str, timeout: float) -> None:
        self.binary = binary
        self._timeout = timeout
        self._logs: dict[Path, _LogPipe] = {}

    async def start(self, request: ShimRequest, options: TypedValue | None = None) -> Bootstrap:
        """Run `start`; `options` go to its standard input. `Unavailable` with what it wrote to stderr."""
        self.attach_log(request.bundle)
        try:
            message = convert.any_message(options)
            output = await self._run(request, "start", [], message.SerializeToString() if message else b"")
            bootstrap = parse_start(output)
            (request.bundle / "address").write_text(bootstrap.address)
        except BaseException:
            self.detach_log(request.bundle)
            raise
        return Bootstrap(bootstrap.address, bootstrap.version, bootstrap.protocol, shim_pid(request.bundle))

    async def delete(self, request: ShimRequest) -> Exit:
        """Run `delete`. `Unavailable` when it fails."""
        output = await self._run(request, "delete", ["-bundle", str(request.bundle)], b"")
        self.detach_log(request.bundle)
        try:
            return convert.exit_of(shim_v3_pb2.DeleteResponse.FromString(output))
        except DecodeError as error:
            raise Internal(f"{self.binary} delete printed no DeleteResponse: {error}") from error

    def attach_log(self, bundle: Path) -> None:
        """Read what the shim writes to the FIFO `log` in its bundle, which it opens before it does anything else."""
        if bundle not in self._logs:
            self._logs[bundle] = _LogPipe(bundle)

    def detach_log(self, bundle: Path) -> None:
        pipe = self._logs.pop(bundle, None)
        if pipe is not None:
            pipe.close()

    def close(self) -> None:
        """Read no more logs. The shims live on."""
        for bundle in list(self._logs):
            self.detach_log(bundle)

    async def _run(self, request: ShimRequest, action: str, arguments: list[str], stdin: bytes) -> bytes:
        command = [self.binary, *_flags(request), *arguments, action]
        stdout, said = await run(command, stdin, self._timeout, cwd=request.bundle, env=_environment(request))
        if said:
            log.info("%s %s of %s: %s", self.binary, action, request.id, said)
        return stdout


async def info(binary: str, options: TypedValue | None, timeout: float) -> RuntimeInfo:
    """Run `-info`: what the shim says of itself and of the OCI runtime below it, with these options. `Unavailable`
    when it fails, as that of a shim from before this flag does."""
    message = convert.any_message(options)
    stdout, _ = await run([binary, "-info"], message.SerializeToString() if message else b"", timeout)
    try:
        return RuntimeInfo.FromString(stdout)
    except DecodeError as error:
        raise Internal(f"{binary} -info printed no RuntimeInfo: {error}") from error


async def run(
    command: list[str], stdin: bytes, timeout: float, *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> tuple[bytes, str]:
    """Run a shim's binary to its end; returns what it wrote to standard output, and the end of what it wrote to standard
    error. `Unavailable` with the latter when it fails, `DeadlineExceeded`."""
    what = f"{command[0]} {command[-1]}"
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError:
        raise DeadlineExceeded(f"{what} took longer than {timeout:g} s") from None
    finally:
        if process.returncode is None:
            # Its children too: they hold the pipes that wait for their end.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    said = stderr.decode(errors="replace").strip()[-_STDERR_MAX:]
    if process.returncode:
        said = said or stdout.decode(errors="replace").strip()[-_STDERR_MAX:]
        raise Unavailable(f"{what} failed ({process.returncode}): {said}")
    return stdout, said


class _LogPipe:
    """The FIFO `log` of a bundle, copied line by line into the daemon's log.

    Opened for reading and writing, so that neither the shim's opening nor a daemon that is away gives it an error.
    """

    def __init__(self, bundle: Path) -> None:
        path = bundle / "log"
        with suppress(FileExistsError):
            os.mkfifo(path, 0o700)
        self._name = bundle.name
        self._rest = b""
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            log.info("shim of %s: %s", self._name, line.decode(errors="replace"))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


def parse_start(output: bytes) -> Bootstrap:
    """What `start` printed: a bare address (version 2), JSON, or a `BootstrapResult`. `Unimplemented` for a version
    that is too new."""
    text = output.strip()
    if not text:
        raise Unavailable("the shim printed no address")
    if text.startswith(b"{"):
        bootstrap = _from_json(text)
    elif text[:1] == b"\x08":  # the tag of BootstrapResult.version; no address starts with it
        result = BootstrapResult.FromString(output)
        bootstrap = Bootstrap(result.address, result.version, result.protocol)
    else:
        bootstrap = Bootstrap(text.decode(errors="replace"), 2, "ttrpc")
    if bootstrap.version > _NEWEST:
        raise Unimplemented(f"the shim speaks version {bootstrap.version}: the newest known is {_NEWEST}")
    return bootstrap


def _from_json(text: bytes) -> Bootstrap:
    try:
        fields: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        return Bootstrap(str(fields["address"]), int(fields.get("version", 2)), str(fields.get("protocol", "ttrpc")))
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise Unavailable(f"the shim printed no valid bootstrap: {text[:200]!r}") from error


def _flags(request: ShimRequest) -> list[str]:
    # Old shims run `publish-binary publish …` when they are given no ttrpc address; ours are given one, so that the
    # flag only has to be an executable.
    flags = ["-namespace", request.namespace, "-address", request.daemon_address]
    flags += ["-publish-binary", sys.executable, "-id", request.id]
    return [*flags, "-debug"] if request.debug else flags


def _environment(request: ShimRequest) -> dict[str, str]:
    return {
        **os.environ,
        "GOMAXPROCS": "2",
        "MAX_SHIM_VERSION": str(_NEWEST),
        "TTRPC_ADDRESS": request.ttrpc_address,
        "GRPC_ADDRESS": request.daemon_address,
        "NAMESPACE": request.namespace,
    }
