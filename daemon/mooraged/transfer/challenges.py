"""`WWW-Authenticate`: what a registry asks for, parsed. Bytes in, challenges out.

Source: RFC 9110, sections 11.2, 11.3 and 11.6.1; the distribution project's token authentication
(https://distribution.github.io/distribution/spec/auth/token/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SPACE = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")

_HEADER_MAX = 16 << 10


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in; `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all `WWW-Authenticate` headers, in order.

    A header that leaves the grammar counts up to that point: a registry that writes one badly may still mean a good
    challenge before it. A header above 16 KiB is not read.
    """
    return [challenge for header in headers if len(header) <= _HEADER_MAX for challenge in _parse(header)]


def _parse(header: str) -> Iterable[Challenge]:
    position = _skip(_SEPARATORS, header, 0)
    while scheme := _TOKEN.match(header, position):
        position = _skip(_SPACE, header, scheme.end())
        parameters, position = _parameters(header, position)
        yield Challenge(scheme[0].lower(), parameters)
        position = _skip(_SEPARATORS, header, position)


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    """The parameters from `position` on, and where they end: at the next scheme, or where the grammar is left."""
    parameters: dict[str, str] = {}
    blob = _TOKEN68.match(header, position)
    if blob and position > 0 and header[position - 1] in " \t":
        return parameters, blob.end()
    while name := _TOKEN.match(header, position):
        equals = _skip(_SPACE, header, name.end())
        if not header.startswith("=", equals):
            break
        start = _skip(_SPACE, header, equals + 1)
        if quoted := _QUOTED.match(header, start):
            value, position = _ESCAPE.sub(r"\1", quoted[1]), quoted.end()
        elif token := _TOKEN.match(header, start):
            value, position = token[0], token.end()
        else:
            return parameters, len(header)
        parameters.setdefault(name[0].lower(), value)
        position = _skip(_SEPARATORS, header, position)
    return parameters, position


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
