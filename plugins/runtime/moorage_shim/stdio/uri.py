"""URIs of standard streams. A few lines instead of urllib, which would be the largest thing in the shim."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamUri:
    """`scheme://path?key=value`, decoded. A bare path is a FIFO's; without anything all is empty."""

    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()


def parse_uri(uri: str) -> StreamUri:
    """Split and decode (RFC 3986; `+` in a query is a space). A host part, as in `file://host/path`, is kept in the path."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return StreamUri("fifo" if uri else "", uri)
    path, _, query = rest.partition("?")
    pairs = []
    for part in query.split("&"):
        if part:
            key, _, value = part.replace("+", " ").partition("=")
            pairs.append((_decode(key), _decode(value)))
    return StreamUri(scheme, _decode(path), tuple(pairs))


def _decode(text: str) -> str:
    """Undo percent-encoding; what is no encoding stays."""
    if "%" not in text:
        return text
    first, *parts = text.encode().split(b"%")
    decoded = [first]
    for part in parts:
        try:
            decoded.append(bytes.fromhex(part[:2].decode()) + part[2:])
        except ValueError:
            decoded.append(b"%" + part)
    return b"".join(decoded).decode(errors="surrogateescape")
