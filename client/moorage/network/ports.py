"""Published ports: `-p` as docker's users write it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moorage_api.errors import InvalidArgument

_PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "sctp": None}
_SPAN_MAX = 1024


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the host that leads to one of the container. `host_ip` is empty for all of the host's addresses."""

    host: int
    container: int
    protocol: str = "tcp"
    host_ip: str = ""

    def mapping(self) -> dict[str, Any]:
        """As CNI's capability `portMappings` has it."""
        return {
            "hostPort": self.host,
            "containerPort": self.container,
            "protocol": self.protocol,
            "hostIP": self.host_ip,
        }

    def __str__(self) -> str:
        """As docker shows it: `0.0.0.0:8080->80/tcp`."""
        return f"{self.host_ip or '0.0.0.0'}:{self.host}->{self.container}/{self.protocol}"


def parse(text: str) -> list[Port]:
    """`[[IP:][HOST]:]CONTAINER[/PROTOCOL]`, each port a number or a span (`8000-8009`); a host port that is not given
    is one that is free now. `InvalidArgument`."""
    rest, slash, protocol = text.partition("/")
    protocol = protocol if slash else "tcp"
    address, host, container = _split(rest, text)
    if protocol not in _PROTOCOLS:
        raise InvalidArgument(f"invalid port {text!r}: expected tcp, udp or sctp")
    inside = _span(container, text)
    outside = _span(host, text) if host else [_free(protocol, address) for _ in inside]
    if len(outside) != len(inside):
        raise InvalidArgument(f"invalid port {text!r}: the spans are not of one length")
    return [Port(own, port, protocol, address) for own, port in zip(outside, inside, strict=True)]


def _split(rest: str, text: str) -> tuple[str, str, str]:
    address = ""
    if rest.startswith("["):
        address, bracket, rest = rest[1:].partition("]:")
        if not bracket:
            raise InvalidArgument(f"invalid port {text!r}: an address without its closing bracket")
    *front, container = rest.split(":")
    if len(front) > (1 if address else 2):
        raise InvalidArgument(f"invalid port {text!r}: expected [[IP:][HOST]:]CONTAINER[/PROTOCOL]")
    host = front[-1] if front else ""
    address = address or (front[0] if len(front) == 2 else "")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidArgument(f"invalid port {text!r}: {address!r} is no IP address") from None
    return ("" if address == "0.0.0.0" else address), host, container


def _span(text: str, whole: str) -> list[int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise InvalidArgument(f"invalid port {whole!r}: {text!r} is no port")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535 or high - low >= _SPAN_MAX:
        raise InvalidArgument(f"invalid port {whole!r}: expected 1 to 65535, and at most {_SPAN_MAX} at once")
    return list(range(low, high + 1))


def _free(protocol: str, address: str) -> int:
    kind = _PROTOCOLS[protocol] or socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def busy(ports: Sequence[Port]) -> Port | None:
    """The first that a process of this host listens on already."""
    for port in ports:
        kind = _PROTOCOLS[port.protocol]
        if kind is None:
            continue
        family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host_ip, port.host))
            except OSError:
                return port
    return None
