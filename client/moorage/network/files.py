"""A container's `/etc/hosts` and `/etc/resolv.conf`: their text. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_PUBLIC = ("8.8.8.8", "8.8.4.4")
"""What docker falls back to where the host's own servers cannot be reached from a container."""


def hosts(
    own: Sequence[str], addresses: Iterable[str], extra: Iterable[str], others: Iterable[tuple[str, Sequence[str]]]
) -> str:
    """`own` are the container's names, at each of its `addresses`; `extra` entries are `NAME:ADDRESS`; `others` are
    the addresses of its neighbours, with their names."""
    lines = [f"{address}\t{' '.join(own)}\n" for address in addresses]
    for entry in extra:
        name, _, where = entry.partition(":")
        lines.append(f"{where}\t{name}\n")
    lines += [f"{where}\t{' '.join(names)}\n" for where, names in others]
    return _LOCAL + "".join(lines)


def resolv_conf(of_host: str, servers: Sequence[str], search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """The host's own with `servers` in place of its name servers, `search` in place of its domains (`.`: none) and
    `options` in place of its options. Without servers, those of the host that a container can reach (none on the
    loopback), or else public ones."""
    lines = of_host.splitlines()
    replaced = {"nameserver", *(("search", "domain") if search else ()), *(("options",) if options else ())}
    rest = [line for line in lines if line.strip() and line.split()[0] not in replaced]
    if search and list(search) != ["."]:
        rest.append(f"search {' '.join(search)}")
    if options:
        rest.append(f"options {' '.join(options)}")
    own = [line.split()[1] for line in lines if line.split()[:1] == ["nameserver"] and len(line.split()) > 1]
    chosen = list(servers) or [server for server in own if not _is_loopback(server)] or list(_PUBLIC)
    return "".join(f"{line}\n" for line in [*rest, *(f"nameserver {server}" for server in chosen)])


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
