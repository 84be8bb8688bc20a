"""What every command that joins a container needs, however its streams go."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.oci.spec import PROCESS_URL, decode, encode, exec_process
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.model import Container

logger = logging.getLogger(__name__)

_KILL_SECONDS = 10.0


def running_container(cri: Cri, id: str) -> Container:
    """The container, which must run: `FailedPrecondition`, `NotFound`."""
    container = cri.containers.get(id)
    if not container.running:
        state = cri_pb2.ContainerState.Name(container.state)
        raise FailedPrecondition(f"container {container.id} is in state {state}, not running")
    return container


def check_command(command: Sequence[str]) -> None:
    """`InvalidArgument` without a command."""
    if not command:
        raise InvalidArgument("no command specified")


async def process_spec(cri: Cri, container: Container, command: Sequence[str], *, terminal: bool = False) -> TypedValue:
    """The OCI process of a command in a container. Probes run commands all the time, so what the record says of the
    container's own process is read once."""
    if not container.process:
        container.process = await cri.run(_process, cri, container.id)
    process = exec_process(json.loads(container.process), list(command), terminal=terminal)
    return encode(process, PROCESS_URL)


def _process(cri: Cri, id: str) -> bytes:
    spec = decode(cri.k8s.containers.get(id).spec)
    return json.dumps({"process": spec["process"]}, separators=(",", ":")).encode()


def exec_folder(cri: Cri, id: str, exec_id: str) -> Path:
    """Where the streams of a command lie: by the folder, a later run of the daemon knows what this one had begun."""
    return cri.state / "exec" / f"{id}.{exec_id}"


def begun_commands(cri: Cri) -> list[Path]:
    """The folders of commands that an earlier run of the daemon had begun: to be asked before this one begins any."""
    folder = cri.state / "exec"
    return list(folder.iterdir()) if folder.is_dir() else []


async def sweep_commands(cri: Cri, begun: Sequence[Path]) -> None:
    """Kill those commands: whoever waited for them has gone."""
    for path in begun:
        id, _, exec_id = path.name.partition(".")
        try:
            await discard(cri, id, exec_id)
        except MoorageError as error:
            logger.warning("command %s in container %s could not be ended: %s", exec_id, id, error)
        await cri.run(shutil.rmtree, path, ignore_errors=True)


async def discard(cri: Cri, id: str, exec_id: str) -> None:
    """Kill the process with all that it has started, and forget it."""
    tasks = cri.k8s.tasks
    with suppress(NotFound):
        await tasks.kill(id, signal.SIGKILL, exec_id, all=True)
    try:
        async with asyncio.timeout(_KILL_SECONDS):
            await tasks.wait(id, exec_id)
        await tasks.delete(id, exec_id)
    except NotFound:
        return
    except (TimeoutError, MoorageError) as error:
        logger.warning("process %s in container %s is not gone yet: %s", exec_id, id, error)
