"""The program that OCI runtimes call to make a container's network and to take it down.

`python -m moorage.network.hook add|delete FOLDER`, with the container's state on standard input (OCI runtime
specification, `hooks`). What goes wrong is written into the container's folder, because runtimes keep a hook's own words
to themselves. It imports as little as it can: each start of a container waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from moorage.network import masquerade
from moorage.network.plan import ERROR, Attached, Plan, Records, write
from moorage.network.ports import busy
from moorage_api.cni.call import Attachment, Result, environment, parse_result, request
from moorage_api.cni.config import of_document
from moorage_api.cni.result import addresses
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, Unavailable

_SECONDS = 30


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where a network could not be made. Taking down goes as far as it can."""
    command, folder = arguments
    try:
        if command == "add":
            add(Plan.load(folder), int(json.load(sys.stdin)["pid"]))
        else:
            delete(Plan.load(folder))
    except (MoorageError, OSError, ValueError, subprocess.SubprocessError) as error:
        message = error.message if isinstance(error, MoorageError) else str(error)
        if os.path.isdir(folder):
            write(os.path.join(folder, ERROR), message)
        print(message, file=sys.stderr)
        return 1
    return 0


def add(plan: Plan, pid: int) -> None:
    """Attach the container whose first process is `pid`. On an error nothing stays."""
    records = Records(plan.state)
    with records.locked():
        before = records.get(plan.namespace, plan.id)
        if before is not None:
            # Left by a machine or a runtime that died: its address is free by now, or is to be.
            _call_all("DEL", before.plan, "", before.result)
        _check_ports(plan, records)
        way_out = masquerade.of_config(plan.config)
        if way_out is not None:
            masquerade.ensure(*way_out)
        try:
            result = _call_all("ADD", plan, f"/proc/{pid}/ns/net", {})
            address = addresses(result, "eth0", "ipv4")[0]
        except MoorageError:
            _call_all("DEL", plan, "", {})
            raise
        records.put(Attached(plan, result, address))
        records.tell(plan.namespace, plan.network)


def delete(plan: Plan) -> None:
    """Give back what a container had; one that has nothing is no error."""
    records = Records(plan.state)
    with records.locked():
        attached = records.get(plan.namespace, plan.id)
        if attached is None:
            return
        _call_all("DEL", attached.plan, "", attached.result)
        records.remove(plan.namespace, plan.id)
        records.tell(plan.namespace, plan.network)


def _check_ports(plan: Plan, records: Records) -> None:
    """`FailedPrecondition` where another container, or a process of the host, has a port."""
    for other in records.list():
        if other.plan.id == plan.id:
            continue
        for port in plan.ports:
            for taken in other.plan.ports:
                same = (port.host, port.protocol) == (taken.host, taken.protocol)
                if same and (not port.host_ip or not taken.host_ip or port.host_ip == taken.host_ip):
                    raise FailedPrecondition(
                        f"port {port.host}/{port.protocol} is already allocated, by container {other.plan.names[0]}"
                    )
    port_in_use = busy(plan.ports)
    if port_in_use is not None:
        raise FailedPrecondition(f"port {port_in_use.host}/{port_in_use.protocol} is in use by a process of the host")


def _call_all(command: str, plan: Plan, netns: str, previous: Result) -> Result:
    """Run the plugins of a network, for DEL in reverse. DEL goes on after an error and raises the first at its end."""
    config = of_document(plan.config, plan.network)
    attachment = Attachment(plan.id, netns, args={"IgnoreUnknown": "1"})
    capabilities: dict[str, Any] = {"portMappings": [port.mapping() for port in plan.ports]}
    failures: list[MoorageError] = []
    result = previous
    for plugin in config.plugins if command == "ADD" else reversed(config.plugins):
        given = request(config.version, config.name, plugin, capabilities, result or None)
        try:
            answer = _call(command, attachment, plan.bin_dirs, given)
        except MoorageError as error:
            if command == "ADD":
                raise
            failures.append(error)
            continue
        if command == "ADD":
            result = answer
    if failures:
        raise failures[0]
    return result


def _call(command: str, attachment: Attachment, folders: tuple[str, ...], config: dict[str, Any]) -> Result:
    kind = config["type"]
    paths = [os.path.join(folder, kind) for folder in folders]
    path = next((path for path in paths if os.access(path, os.X_OK)), None)
    if path is None:
        raise NotFound(f"CNI plugin {kind} is not in {', '.join(folders)}")
    variables = {**os.environ, **environment(command, attachment, folders)}
    done = subprocess.run(
        [path], env=variables, input=json.dumps(config).encode(), capture_output=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise Unavailable(
            f"CNI plugin {kind} failed ({command}): {_reason(done.stdout) or done.stderr.decode()[-500:]}"
        )
    return parse_result(done.stdout, kind)


def _reason(stdout: bytes) -> str:
    try:
        error = json.loads(stdout)
        return "; ".join(str(error[key]) for key in ("msg", "details") if error.get(key))
    except (ValueError, AttributeError):
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
