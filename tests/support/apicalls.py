"""Which test called which method of the native API, as the daemons' own logs tell.

`docs/native-api.md` names a test and a client for every method. A run in which such a test passes without its method being
called fails: the page can't say more than what was seen.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from moorage_api.errors import Code
from mooraged.logs import TRACE

# When it is set, the run writes the table anew from what it has seen; `./dev docs` makes the page of it.
VARIABLE = "MOORAGE_RECORD_API"
TABLE = Path(__file__).parents[1] / "native_api.json"
_WIRE = Path(__file__).parents[1] / "api" / "wire"
# Services of the tables that shims offer and the daemon calls.
_OF_SHIMS = ("containerd.task.", "containerd.runtime.sandbox.")
# The clients by the modules in which they are used and the user agents that they send; who comes first is named first.
_CLIENTS = (
    ("tests/daemon/test_ctr", "grpc-go", "`ctr` 1.6"),
    ("tests/daemon/test_dockerd", "grpc-go", "dockerd 20.10"),
    ("tests/daemon/test_ctr", "grpc-python", "`containerd` for Python"),
    ("tests/daemon/test_shims", "", "containerd-shim-runc-v2"),
    ("tests/client/", "grpc-python-asyncio", "`moorage`"),
    ("tests/", "grpc-python", "stubs made from the tables"),
    ("tests/", "", "our own shim"),
)
_LOGGER = "mooraged.calls"
_ENDED = Code.CANCELLED.name
_LINE = re.compile(r" level=trace msg=call (.*)")
_FIELD = re.compile(r'(method|client|code)=(?:"((?:[^"\\]|\\.)*)"|(\S+))')


class Row(msgspec.Struct, frozen=True):
    """What shows a method: a test's node id, the client in it, and the code of the error with which all its calls of the
    method ended there (empty where one succeeded)."""

    method: str
    test: str
    client: str
    code: str = ""


class Call(NamedTuple):
    """One kind of calls in a test: whether by the same client, and with the same end."""

    method: str
    client: str
    code: str


def rows() -> list[Row]:
    """The table, by method."""
    return msgspec.json.decode(TABLE.read_bytes(), type=list[Row])


def methods() -> list[str]:
    """Every method of the tables that the daemon serves on its native API, as `package.Service/Method`, in order."""
    packages = [
        package for name in ("containerd", "ttrpc") for package in json.loads((_WIRE / f"{name}.json").read_text())
    ]
    return sorted(
        f"{package['package']}.{service}/{method}"
        for package in packages
        if not package["package"].startswith(_OF_SHIMS)
        for service, offered in package["services"].items()
        for method in offered
    )


def choose(calls: Mapping[str, set[Call]], passed: set[str]) -> list[Row]:
    """A row for each method: of the tests that passed and called it, one in which it succeeded, with the client that
    comes first."""
    found: defaultdict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for test in passed:
        for call in calls.get(test, ()):
            found[call.method].append((call.code, _rank(test, call.client), test))
    best = {method: min(found[method]) for method in methods() if method in found}
    return [Row(method, test, _CLIENTS[rank][2], code) for method, (code, rank, test) in best.items()]


def _rank(test: str, agent: str) -> int:
    return next(
        n for n, (module, prefix, _) in enumerate(_CLIENTS) if test.startswith(module) and agent.startswith(prefix)
    )


def _call(fields: Mapping[str, str]) -> Call:
    """Of what was logged. Who has heard enough of a stream cancels it: that is no error."""
    code = fields.get("code", "")
    return Call(fields["method"].lstrip("/"), fields.get("client", ""), "" if code == _ENDED else code)


class Recorder(logging.Handler):
    """Collects the calls of the test that runs: from the logs of daemons, and from servers in this process."""

    def __init__(self) -> None:
        super().__init__(TRACE)
        self.calls: dict[str, set[Call]] = {}
        self._seen: set[Call] = set()
        self._read: dict[Path, int] = {}

    def begin(self) -> None:
        """Hear of calls to servers in this process."""
        logger = logging.getLogger(_LOGGER)
        logger.setLevel(TRACE)
        logger.addHandler(self)

    def watch(self, log: Path) -> None:
        """A daemon logs to this file from now on."""
        self._read.setdefault(log, 0)

    def forget(self, log: Path) -> None:
        """The file is about to be removed."""
        self._seen.update(self._take(log))
        self._read.pop(log, None)

    def emit(self, record: logging.LogRecord) -> None:
        fields = vars(record)
        if "method" in fields:
            self._seen.add(_call(fields))

    def end_test(self, test: str) -> None:
        """Put what was called since the last test down to this one."""
        for log in list(self._read):
            self._seen.update(self._take(log))
        self.calls[test], self._seen = self._seen, set()

    def _take(self, log: Path) -> Iterator[Call]:
        try:
            with log.open("rb") as file:
                file.seek(self._read[log])
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._read[log] += whole
        for line in data[:whole].decode(errors="replace").splitlines():
            if match := _LINE.search(line):
                fields = {name: quoted or plain for name, quoted, plain in _FIELD.findall(match[1])}
                yield _call(fields)

    def end(self, passed: set[str]) -> list[str]:
        """Stop, and write the table if that is asked for; returns what `disproved` does."""
        logging.getLogger(_LOGGER).removeHandler(self)
        if os.environ.get(VARIABLE):
            TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(choose(self.calls, passed)), indent=1) + b"\n")
        return self.disproved(passed)

    def disproved(self, passed: set[str]) -> list[str]:
        """A line for each row of the table whose test passed without its method having been called in its module (or with
        nothing but errors where the row tells of none): the end of a call may be logged when the next test has begun."""
        called: defaultdict[str, set[Call]] = defaultdict(set)
        for test, calls in self.calls.items():
            called[test.partition("::")[0]] |= calls
        return [
            f"{row.test} passed and did not call {row.method}, as docs/native-api.md says it does"
            for row in rows()
            if row.test in passed
            and not any(
                call.method == row.method and (row.code or not call.code)
                for call in called[row.test.partition("::")[0]]
            )
        ]


RECORDER = Recorder()
