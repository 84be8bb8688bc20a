"""What the result of an ADD says of a pod's addresses (CNI specification, section 5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from moorage_api.cni.call import Result
from moorage_api.errors import Unavailable


def addresses(result: Result, interface: str, preference: str) -> list[str]:
    """The addresses of `interface`, the preferred family's first one in front (`ipv4`, `ipv6`; `cni`: as reported).

    `Unavailable` for a result without an address, or with one that is not well-formed.
    """
    found = [_address(entry, interface) for entry in result.get("ips") or () if _belongs(entry, result, interface)]
    if not found:
        raise Unavailable(f"the CNI result has no address for {interface}")
    wanted = {"ipv4": 4, "ipv6": 6}.get(preference)
    first = next((address for address in found if ipaddress.ip_address(address).version == wanted), found[0])
    return [first, *(address for address in found if address != first)]


def _belongs(entry: dict[str, object], result: Result, interface: str) -> bool:
    """An address without an interface belongs to the one that was asked for."""
    index = entry.get("interface")
    if index is None:
        return True
    interfaces: Sequence[dict[str, object]] = result.get("interfaces") or ()
    if not isinstance(index, int) or not 0 <= index < len(interfaces):
        raise Unavailable(f"the CNI result refers to an interface {index!r} that it does not have")
    return interfaces[index].get("name") == interface


def _address(entry: dict[str, object], interface: str) -> str:
    text = entry.get("address")
    try:
        return str(ipaddress.ip_interface(str(text)).ip)
    except ValueError as error:
        raise Unavailable(f"the CNI result has an address for {interface} that is none: {text!r}") from error
