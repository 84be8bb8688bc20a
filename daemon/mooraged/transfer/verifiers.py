"""Asks programs whether an image may be pulled, and does not take silence for consent.

Source of the contract: containerd's image verification
(https://github.com/containerd/containerd/blob/main/docs/image-verification.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from typing import Annotated

import msgspec

from moorage_api.errors import FailedPrecondition, MoorageError, PermissionDenied
from moorage_api.oci import build
from moorage_api.types import Descriptor
from moorage_api.verifier import ImageVerifier, Judgement

_MEDIA_TYPE = "application/vnd.oci.descriptor.v1+json"
_OUTPUT_MAX = 32 << 10
_REASON_MAX = 300
_log = logging.getLogger(__name__)


class BindirConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins."io.containerd.image-verifier.v1.bindir"]`."""

    bin_dir: Annotated[
        str,
        msgspec.Meta(
            description="The folder of verifiers; where it does not exist or is empty, every image is accepted."
        ),
    ] = "/opt/containerd/image-verifier/bin"
    max_verifiers: Annotated[
        int,
        msgspec.Meta(description="How many verifiers, by name, are asked; the rest are not. Negative for all of them."),
    ] = 10
    per_verifier_timeout: Annotated[
        float | str,
        msgspec.Meta(
            description='Time for one verifier, in seconds or as "10s"; one that takes longer forbids the image.'
        ),
    ] = 10.0


class Bindir:
    """All programs of a folder must accept an image (`moorage_api.verifier.ImageVerifier`)."""

    def __init__(self, folder: str, most: int, timeout: float) -> None:
        self._folder = folder
        self._most = most
        self._timeout = timeout

    async def verify(self, name: str, target: Descriptor) -> Judgement:
        """Ask one after the other, by name. `FailedPrecondition` for one that cannot be run, is killed, or takes too
        long, and for a folder that cannot be read."""
        reasons = []
        for program in await asyncio.to_thread(self._programs):
            code, said = await self._run(program, name, target)
            if code != 0:
                return Judgement(False, f"{program} rejects it (exit status {code}): {said or 'it does not say why'}")
            reasons.append(f"{program}: {said}")
        return Judgement(True, ", ".join(reasons) or f"no verifiers in {self._folder}")

    def _programs(self) -> list[str]:
        try:
            programs = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FailedPrecondition(f"image verifiers in {self._folder} cannot be listed: {error.strerror}") from error
        if 0 <= self._most < len(programs):
            _log.warning(
                "%d of %d image verifiers in %s are not asked: max_verifiers is %d",
                len(programs) - self._most,
                len(programs),
                self._folder,
                self._most,
            )
            return programs[: self._most]
        return programs

    async def _run(self, program: str, name: str, target: Descriptor) -> tuple[int, str]:
        """The exit status, and what it printed. The program gets a session of its own, which dies with it."""
        path = os.path.join(self._folder, program)
        arguments = ["-name", name, "-digest", target.digest, "-stdin-media-type", _MEDIA_TYPE]
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                path, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, limit=_OUTPUT_MAX
            )
        except OSError as error:
            raise FailedPrecondition(f"image verifier {program} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout):
                said = await _converse(process, build.encode(build.descriptor_json(target)), program)
        except BaseException as error:
            # Its group holds its children too, and keeps its number as long as one of them lives.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                late = f"image verifier {program} did not answer within {self._timeout:g} seconds"
                raise FailedPrecondition(late) from None
            raise
        finally:
            # A child that left the group may hold the pipes open for good: they are closed here whatever it does.
            process._transport.close()  # type: ignore[attr-defined]
        code = process.returncode if process.returncode is not None else -1
        if code < 0:
            raise FailedPrecondition(f"image verifier {program} was killed by signal {-code}")
        return code, said


async def _converse(process: asyncio.subprocess.Process, document: bytes, program: str) -> str:
    """Give it the descriptor and collect what it says until it has ended; what is too long is cut."""
    _, said, complained = await asyncio.gather(
        _feed(process.stdin, document), _bounded(process.stdout), _bounded(process.stderr)
    )
    await process.wait()
    for line in complained.splitlines():
        _log.debug("image verifier %s: %s", program, line)
    return said


async def _feed(pipe: asyncio.StreamWriter | None, document: bytes) -> None:
    if pipe is None:
        return
    # One that decides by its arguments alone need not read.
    with contextlib.suppress(ConnectionError):
        pipe.write(document + b"\n")
        await pipe.drain()
    pipe.close()


async def _bounded(stream: asyncio.StreamReader | None) -> str:
    """What a stream gives, of which the beginning is kept, to its end."""
    kept = bytearray()
    if stream is None:
        return ""
    while piece := await stream.read(_OUTPUT_MAX):
        kept += piece[: _OUTPUT_MAX - len(kept)]
    return kept.decode("utf-8", "replace").strip()


class Gate:
    """All verifiers of the daemon. `broken` holds those that did not start, which nobody may do without."""

    def __init__(
        self, verifiers: Mapping[str, ImageVerifier] | None = None, broken: Mapping[str, MoorageError] | None = None
    ) -> None:
        self._verifiers = dict(verifiers or {})
        self._broken = dict(broken or {})

    async def check(self, name: str, target: Descriptor) -> None:
        """Return if all verifiers accept the image. `PermissionDenied` where one rejects it, `FailedPrecondition` where
        one cannot say."""
        for id, error in sorted(self._broken.items()):
            raise FailedPrecondition(f"{name} is not pulled: the image verifier {id} did not start: {error}")
        for id, verifier in sorted(self._verifiers.items()):
            try:
                judgement = await verifier.verify(name, target)
            except MoorageError as error:
                raise FailedPrecondition(f"{name} is not pulled: {error}") from error
            except Exception as error:
                _log.exception("the image verifier %s failed", id)
                raise FailedPrecondition(f"{name} is not pulled: the image verifier {id} failed: {error!r}") from error
            if judgement.ok is not True:
                raise PermissionDenied(f"{name} is not pulled: {judgement.reason[:_REASON_MAX]}")
            _log.info("%s (%s) is accepted: %s", name, target.digest, judgement.reason[:_REASON_MAX])
