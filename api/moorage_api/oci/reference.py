"""Image references: `[domain/]path[:tag][@digest]`, parsed and normalised as Docker's and containerd's clients do.

Source of the grammar: the distribution project's reference package
(https://pkg.go.dev/github.com/distribution/reference). Stricter in two points that no reachable registry misses: a
port is at most 65535, and an IPv6 address is a valid one.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import NoReturn

from moorage_api.errors import InvalidArgument
from moorage_api.types import check_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"

_TEXT_MAX = 1024
_PATH_MAX = 255
_PORT_MAX = 65535
_SHOWN_MAX = 256

_IMAGE_ID = re.compile(r"[a-f0-9]{64}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"\[[A-Fa-f0-9:]+\]|{_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"[0-9]+")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference. `domain` is never empty; `tag` and `digest` may both be there, or neither."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def canonical(self) -> str:
        """The name under which an image is stored: by digest where there is one (the tag then says nothing), else by tag."""
        return str(replace(self, tag="") if self.digest else self)

    @property
    def familiar(self) -> str:
        """The short form for people: without `docker.io` and `library/` where it still parses as this reference."""
        full = str(self)
        if self.domain != DEFAULT_DOMAIN:
            return full
        short = full.removeprefix(f"{DEFAULT_DOMAIN}/")
        official = short.removeprefix(_OFFICIAL)
        return next((text for text in (official, short) if _names(text, self)), full)

    @property
    def object(self) -> str:
        """What to ask the registry for: the digest, or else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse(text: str) -> Reference:
    """Parse and normalise; what has neither tag nor digest gets the tag `latest`.

    `InvalidArgument`, with the place (counted from 1) and what was expected there.
    """
    reference = parse_exact(text)
    return reference if reference.object else replace(reference, tag=DEFAULT_TAG)


def parse_exact(text: str) -> Reference:
    """As `parse`, but without a default tag: for a repository, or to see whether a tag was given."""
    if not text:
        raise InvalidArgument("invalid reference: it is empty")
    if len(text) > _TEXT_MAX:
        raise InvalidArgument(
            f"invalid reference {_shown(text)}: {len(text)} characters, at most {_TEXT_MAX} are allowed"
        )
    if _IMAGE_ID.fullmatch(text):
        raise InvalidArgument(f"invalid reference {text!r}: 64 hexadecimal digits are an image ID, not a name")
    domain, start = _split_domain(text)
    end = min((i for i in (text.find(":", start), text.find("@", start)) if i >= 0), default=len(text))
    path = _parse_path(text, start, end)
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    if len(path) > _PATH_MAX:
        raise InvalidArgument(
            f"invalid reference {_shown(text)}: the repository has {len(path)} characters, at most {_PATH_MAX}"
        )
    tag, digest = _parse_object(text, end)
    return Reference(domain, path, tag, digest)


def _names(text: str, reference: Reference) -> bool:
    try:
        return parse_exact(text) == reference
    except InvalidArgument:
        return False


def _split_domain(text: str) -> tuple[str, int]:
    """The domain, and where the path starts in `text`.

    The first component is a domain if it could not be a path of Docker Hub: it holds `.` or `:` or upper case, or is
    `localhost`.
    """
    first, slash, _ = text.partition("/")
    is_domain = first == "localhost" or "." in first or ":" in first or first != first.lower()
    if not slash or not is_domain or "@" in first:
        return DEFAULT_DOMAIN, 0
    _check_domain(text, first)
    return (DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first), len(first) + 1


def _check_domain(text: str, domain: str) -> None:
    host = _HOST.match(domain)
    if host is None:
        _fail(text, 0, "a host name, or an IPv6 address in brackets, was expected")
    if host[0].startswith("["):
        try:
            ipaddress.IPv6Address(host[0][1:-1])
        except ValueError:
            _fail(text, 1, f"{host[0][1:-1]!r} is not an IPv6 address")
    rest = domain[host.end() :]
    if not rest:
        return
    if not rest.startswith(":"):
        _fail(text, host.end(), "a host name is letters, digits, '.' and '-', then perhaps ':' and a port")
    port = _PORT.match(rest, 1)
    if port is None or port.end() != len(rest):
        _fail(text, host.end() + (port.end() if port else 1), "a port number was expected")
    if len(port[0]) > 5 or int(port[0]) > _PORT_MAX:
        _fail(text, host.end() + 1, f"the port is at most {_PORT_MAX}")


def _parse_path(text: str, start: int, end: int) -> str:
    position = start
    for component in text[start:end].split("/"):
        match = _COMPONENT.match(component)
        good = match.end() if match else 0
        if not component or good != len(component):
            _fail(
                text,
                position + good,
                "a repository is lower-case letters and digits, with '.', '_', '__' or '-' between them, "
                "in components separated by '/'",
            )
        position += len(component) + 1
    return text[start:end]


def _parse_object(text: str, position: int) -> tuple[str, str]:
    """The tag and the digest of what starts at `position`, which is the end, a `:` or an `@`."""
    tag = ""
    if text.startswith(":", position):
        match = _TAG.match(text, position + 1)
        if match is None:
            _fail(
                text,
                position + 1,
                "a tag was expected: letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
            )
        tag, position = match[0], match.end()
    if position == len(text):
        return tag, ""
    if text[position] != "@":
        _fail(text, position, "a tag is at most 128 letters, digits, '_', '.' and '-', then perhaps '@' and a digest")
    try:
        return tag, check_digest(text[position + 1 :])
    except InvalidArgument as error:
        _fail(text, position + 1, str(error))


def _fail(text: str, position: int, why: str) -> NoReturn:
    found = repr(text[position]) if position < len(text) else "the end"
    raise InvalidArgument(f"invalid reference {_shown(text)}: at character {position + 1} ({found}): {why}")


def _shown(text: str) -> str:
    """What was given, for a message that has to fit into an answer's trailer."""
    return repr(text) if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]!r}…"
