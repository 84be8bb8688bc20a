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

from moorage.network import links
from moorage.network.plan import ERROR, Attached, Link, Plan, Records, write
from moorage.network.ports import busy
from moorage_api.errors import FailedPrecondition, MoorageError


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
            for link in before.links:
                links.take_down(before.plan, link)
        _check_ports(plan, records)
        made: list[Link] = []
        try:
            made.extend(links.make(plan, join, f"/proc/{pid}/ns/net") for join in plan.joins)
        except MoorageError:
            for link in reversed(made):
                links.take_down(plan, link)
            raise
        records.put(Attached(plan, tuple(made)))
        records.tell(plan.namespace, [join.network for join in plan.joins])


def delete(plan: Plan) -> None:
    """Give back what a container had; one that has nothing is no error. What fails is raised when all has been tried."""
    records = Records(plan.state)
    failures: list[MoorageError] = []
    with records.locked():
        attached = records.get(plan.namespace, plan.id)
        if attached is None:
            return
        for link in reversed(attached.links):
            try:
                links.take_down(attached.plan, link)
            except MoorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        records.remove(plan.namespace, plan.id)
        records.tell(plan.namespace, [link.join.network for link in attached.links])


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
