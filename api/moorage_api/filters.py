"""The filter grammar of containerd's lists and subscriptions (its package `pkg/filters`).

    filters   := any of several strings; none of them, or an empty one, matches everything
    selectors := selector ("," selector)*            all must match
    selector  := fieldpath [operator value]          without an operator: the field is present
    fieldpath := field ("." field)*
    field     := quoted | [A-Za-z0-9_]+
    operator  := "==" | "!=" | "~="
    value     := quoted | printable characters but "," and white space
    quoted    := a Go string in double quotes; after "~=" also between slashes or bars: /expression/, |expression|

Regular expressions are Python's with ASCII classes, searched anywhere in the value; RE2 and Python agree on what
filters use. An absent field is the empty string to `!=` and `~=`, as in containerd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from moorage_api.errors import InvalidArgument

Adaptor = Callable[[Sequence[str]], str | None]
"""Gives the value of a field path of one object; None where the object has no such field."""


class _Operator(Enum):
    PRESENT = ""
    EQUAL = "=="
    NOT_EQUAL = "!="
    MATCHES = "~="


@dataclass(frozen=True, slots=True)
class _Selector:
    path: tuple[str, ...]
    operator: _Operator
    value: str = ""
    pattern: re.Pattern[str] | None = None

    def matches(self, adaptor: Adaptor) -> bool:
        found = adaptor(self.path)
        if self.operator is _Operator.EQUAL:
            return found is not None and found == self.value
        if self.operator is _Operator.NOT_EQUAL:
            return (found or "") != self.value
        if self.pattern is not None:
            return self.pattern.search(found or "") is not None
        return found is not None


@dataclass(frozen=True, slots=True)
class Filter:
    """Parsed filters: alternatives of selectors that must all match."""

    _alternatives: tuple[tuple[_Selector, ...], ...] = field(default=((),))

    @property
    def everything(self) -> bool:
        """True when no object can fail to match, so that a caller may skip making adaptors."""
        return any(not selectors for selectors in self._alternatives)

    def matches(self, adaptor: Adaptor) -> bool:
        """True when all selectors of any filter match."""
        return any(all(selector.matches(adaptor) for selector in selectors) for selectors in self._alternatives)


EVERYTHING = Filter()


def parse(filters: Sequence[str]) -> Filter:
    """Parse `filters`; `InvalidArgument` names the filter, the position (from zero) and what was expected there."""
    if not filters:
        return EVERYTHING
    return Filter(tuple(_Parser(text).selectors() if text else () for text in filters))


class _Kind(Enum):
    FIELD = "a field"
    VALUE = "a value"
    QUOTED = "a quoted string"
    SEPARATOR = "a separator"
    OPERATOR = "an operator"
    OTHER = "a character"
    END = "the end"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    position: int
    text: str
    quote: str = ""


_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_SPACE = re.compile(r"\s*")
_QUOTES = '"/|'


class _Scanner:
    """Cuts a filter into tokens. What counts as a value depends on whether an operator came before."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._value_next = False

    def error(self, position: int, message: str) -> InvalidArgument:
        return InvalidArgument(f"invalid filter {self.text!r}: at position {position}: {message}")

    def peek(self) -> str:
        """The next character, white space included; empty at the end."""
        return self.text[self.position : self.position + 1]

    def scan(self) -> _Token:
        """The next token, after any white space."""
        start = self._skip(_SPACE)
        char = self.peek()
        if not char:
            return _Token(_Kind.END, start, "")
        if char == "\0":
            raise self.error(start, "unexpected null character")
        if char in _QUOTES:
            return self._quoted(start, char)
        if char in ",.":
            self.position += 1
            self._value_next = False
            return _Token(_Kind.SEPARATOR, start, char)
        if char in "=!~":
            self._value_next = True
            return _Token(_Kind.OPERATOR, start, self.text[start : self._end(_OPERATOR)])
        if self._value_next:
            return self._value(start)
        if _FIELD.match(char):
            return _Token(_Kind.FIELD, start, self.text[start : self._end(_FIELD)])
        return _Token(_Kind.OTHER, start, char)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._end(pattern)
        return self.position

    def _end(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return self.position

    def _value(self, start: int) -> _Token:
        end = start
        while end < len(self.text) and _in_value(self.text[end]):
            end += 1
        self._value_next = False
        if end == start:
            return _Token(_Kind.OTHER, start, self.text[start])
        self.position = end
        return _Token(_Kind.VALUE, start, self.text[start:end])

    def _quoted(self, start: int, quote: str) -> _Token:
        """A quoted string with its escapes resolved. Escapes give bytes (\\x, octal) or characters, as in Go."""
        out = bytearray()
        at = start + 1
        while True:
            char = self.text[at : at + 1]
            if char in ("", "\n", "\0"):
                raise self.error(start, f"quoted string is not terminated by {quote}")
            if char == quote:
                break
            if char == "\\":
                at = self._escape(at, quote, out)
            else:
                out += char.encode("utf-8", "surrogatepass")
                at += 1
        self.position = at + 1
        self._value_next = False
        return _Token(_Kind.QUOTED, start, out.decode("utf-8", "surrogateescape"), quote)

    def _escape(self, at: int, quote: str, out: bytearray) -> int:
        """Append what the escape at `at` stands for; returns the position after it."""
        char = self.text[at + 1 : at + 2]
        if char and char == quote:
            out += quote.encode()
            return at + 2
        if char in _SIMPLE_ESCAPES:
            out += _SIMPLE_ESCAPES[char]
            return at + 2
        first, count, base = _NUMERIC_ESCAPES.get(char, (0, 0, 0))
        digits = self.text[at + first : at + first + count]
        try:
            if len(digits) < count or count == 0 or not digits.isalnum():
                raise ValueError(digits)
            number = int(digits, base)
            out += bytes((number,)) if count < 4 else _encode(number)
        except (ValueError, OverflowError):
            raise self.error(at, f"illegal escape sequence \\{char}{digits[2 - first :]}") from None
        return at + first + count


_SIMPLE_ESCAPES = {
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
    "\\": b"\\",
}
# Letter: (offset of the first digit from the backslash, number of digits, base).
_NUMERIC_ESCAPES = {"x": (2, 2, 16), "u": (2, 4, 16), "U": (2, 8, 16)} | dict.fromkeys("01234567", (1, 3, 8))


def _encode(number: int) -> bytes:
    """UTF-8 of a code point; a surrogate half becomes U+FFFD, as Go encodes it."""
    return (b"\xef\xbf\xbd") if 0xD800 <= number <= 0xDFFF else chr(number).encode()


def _in_value(char: str) -> bool:
    return char != "," and not char.isspace() and char.isprintable()


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self._scanner = _Scanner(text)

    def selectors(self) -> tuple[_Selector, ...]:
        found = [self._selector()]
        while (char := self._scanner.peek()) != "":
            if char != ",":
                raise self._scanner.error(self._scanner.position, f"unexpected {char!r}, expected ',' or the end")
            self._scanner.scan()
            found.append(self._selector())
        return tuple(found)

    def _selector(self) -> _Selector:
        path = self._fieldpath()
        if self._scanner.peek() in ("", ","):
            return _Selector(path, _Operator.PRESENT)
        operator = self._operator()
        position, value = self._value(operator)
        if operator is not _Operator.MATCHES:
            return _Selector(path, operator, value)
        try:
            return _Selector(path, operator, value, re.compile(value, re.ASCII))
        except (re.error, RecursionError, OverflowError) as error:
            raise self._scanner.error(position, f"invalid regular expression {value!r}: {error}") from None

    def _fieldpath(self) -> tuple[str, ...]:
        fields = [self._field()]
        while self._scanner.peek() == ".":
            self._scanner.scan()
            fields.append(self._field())
        return tuple(fields)

    def _field(self) -> str:
        token = self._scanner.scan()
        if token.kind is _Kind.FIELD or (token.kind is _Kind.QUOTED and token.quote == '"'):
            return token.text
        raise self._expected(token, 'a field name or a "quoted" one')

    def _operator(self) -> _Operator:
        token = self._scanner.scan()
        if token.kind is _Kind.OPERATOR:
            try:
                return _Operator(token.text)
            except ValueError:
                raise self._scanner.error(token.position, f"unsupported operator {token.text!r}") from None
        raise self._expected(token, "an operator (==, != or ~=)")

    def _value(self, operator: _Operator) -> tuple[int, str]:
        token = self._scanner.scan()
        if token.kind is _Kind.VALUE:
            return token.position, token.text
        if token.kind is _Kind.QUOTED:
            if token.quote != '"' and operator is not _Operator.MATCHES:
                raise self._scanner.error(
                    token.position, f"only ~= takes a value in {token.quote}…{token.quote}; use double quotes"
                )
            return token.position, token.text
        raise self._expected(token, "a value")

    def _expected(self, token: _Token, what: str) -> InvalidArgument:
        found = "the end" if token.kind is _Kind.END else repr(token.text[:40])
        return self._scanner.error(token.position, f"expected {what}, found {found}")
