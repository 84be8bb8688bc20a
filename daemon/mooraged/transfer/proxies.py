"""Proxies as the environment names them: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in capitals or not.

What `NO_PROXY` means is written down nowhere; here it means what it means to Go's programs, which run beside this daemon with
the same environment (https://pkg.go.dev/golang.org/x/net/http/httpproxy).
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping

from yarl import URL

from moorage_api.errors import FailedPrecondition
from mooraged.transfer.failures import HostFailure

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: URL) -> tuple[URL | None, Mapping[str, str]]:
    """The proxy for `url` and its login; never one for this machine itself. `HostFailure` for a variable that names none."""
    proxy = _variable(f"{url.scheme}_proxy")
    if not proxy or bypasses(url.host or "", url.port or 0, _variable("no_proxy")):
        return None, {}
    try:
        address = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        address = URL()
    if address.scheme not in _PORTS or not address.host:
        name = f"{url.scheme}_proxy".upper()
        raise HostFailure(FailedPrecondition(f"{name} names no proxy that is spoken to over HTTP"))
    if not address.user:
        return address, {}
    pair = base64.b64encode(f"{address.user}:{address.password or ''}".encode()).decode()
    return address.with_user(None), {"Proxy-Authorization": f"Basic {pair}"}


def bypasses(host: str, port: int, no_proxy: str) -> bool:
    """Whether `host` is asked directly: it is this machine, or `no_proxy` has it, by name, domain, address or network."""
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(host, address, port, entry) for entry in no_proxy.lower().replace(" ", ",").split(",") if entry)


def _matches(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    else:
        return address is not None and address in network
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdecimal():
        if int(wanted) != port:
            return False
        entry = name.strip("[]")
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*")
    # A domain with a dot before it is for the names below it alone.
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper(), "")
