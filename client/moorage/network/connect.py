"""Putting a container that is there into one more network, and taking it out of one; at once where it runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from moorage.network import links
from moorage.network.attach import join_of
from moorage.network.definitions import Networks
from moorage.network.plan import Attached, Plan, Records
from moorage_api import native
from moorage_api.containers import Container
from moorage_api.errors import AlreadyExists, FailedPrecondition, NotFound
from moorage_api.oci import spec as oci


def connect(
    networks: Networks, record: Container, pid: int, network: str, aliases: tuple[str, ...] = (), address: str = ""
) -> None:
    """Put a container, whose first process is `pid` (0: it does not run), into a network. Blocks.

    `NotFound` for the network, `AlreadyExists` where it is in it, `FailedPrecondition` for a container without networks
    of its own.
    """
    found = networks.get(network)
    plan = _plan(record)
    records = Records(plan.state)
    with records.locked():
        if plan.join(found.name) is not None:
            raise AlreadyExists(f"container {record.id[:12]} is in the network {found.name} already")
        used = {join.interface for join in plan.joins}
        interface = next(name for name in (f"eth{number}" for number in count()) if name not in used)
        join = join_of(networks, found, interface, aliases, address)
        changed = replace(plan, joins=(*plan.joins, join))
        if pid:
            link = links.make(changed, join, f"/proc/{pid}/ns/net")
            before = records.get(plan.namespace, plan.id) or Attached(plan)
            records.put(Attached(changed, (*before.links, link)))
        changed.save()
        records.tell(plan.namespace, [found.name])


def disconnect(networks: Networks, record: Container, pid: int, network: str) -> None:
    """Take a container out of a network. Blocks. `NotFound` where there is no such network, or it is not in it."""
    found = networks.get(network)
    plan = _plan(record)
    records = Records(plan.state)
    with records.locked():
        if plan.join(found.name) is None:
            raise NotFound(f"container {record.id[:12]} is not in the network {found.name}")
        changed = replace(plan, joins=tuple(join for join in plan.joins if join.network != found.name))
        before = records.get(plan.namespace, plan.id)
        link = before.link(found.name) if before is not None else None
        if before is not None and link is not None:
            links.take_down(before.plan, link, f"/proc/{pid}/ns/net" if pid else "")
            records.put(Attached(changed, tuple(other for other in before.links if other is not link)))
            out = links.way_out(changed)
            if pid and out is not None and out != links.way_out(plan):
                links.lead_out(out, pid)
        changed.save()
        records.tell(plan.namespace, [found.name], plan.id)


def _plan(record: Container) -> Plan:
    """`FailedPrecondition` where a container has no network namespace of its own with the hooks that make networks."""
    if not oci.decode(record.spec).get("hooks"):
        raise FailedPrecondition(
            f"container {record.id[:12]} was made without networks (none, host, or another container's): "
            "it cannot be put into one"
        )
    try:
        return Plan.load(native.own_folder(record.labels, record.id))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FailedPrecondition(f"container {record.id[:12]} was made by another client: {error}") from error
