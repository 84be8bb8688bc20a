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
from pathlib import Path

import msgspec

from mooraged.logs import TRACE

# Where to write what was recorded, for the page to be made anew from.
VARIABLE = "MOORAGE_RECORD_API"
TABLE = Path(__file__).parents[1] / "native_api.json"
_LOGGER = "mooraged.calls"
_LINE = re.compile(r" level=trace msg=call .*?method=/(\S+)(?:.*? client=(\"[^\"]*\"|\S+))?(.*)")


class Row(msgspec.Struct, frozen=True):
    """What shows a method: a test's node id, and the client in it."""

    method: str
    test: str
    client: str


def rows() -> list[Row]:
    """The table, by method."""
    return msgspec.json.decode(TABLE.read_bytes(), type=list[Row])


class Recorder(logging.Handler):
    """Collects the calls of the test that runs: from the logs of daemons, and from servers in this process."""

    def __init__(self) -> None:
        super().__init__(TRACE)
        self.calls: defaultdict[str, set[str]] = defaultdict(set)
        self._seen: set[str] = set()
        self._read: dict[Path, int] = {}
        logger = logging.getLogger(_LOGGER)
        logger.setLevel(TRACE)
        logger.addHandler(self)

    def watch(self, log: Path) -> None:
        """A daemon logs to this file from now on."""
        self._read.setdefault(log, 0)

    def forget(self, log: Path) -> None:
        """The file is about to be removed."""
        self._take(log)
        self._read.pop(log, None)

    def emit(self, record: logging.LogRecord) -> None:
        fields = vars(record)
        if "method" in fields and "code" not in fields:
            self._seen.add(f"{fields['method'].lstrip('/')} {fields.get('client', '')}")

    def end_test(self, test: str) -> None:
        """Put what was called since the last test down to this one."""
        for log in list(self._read):
            self._take(log)
        for call in self._seen:
            self.calls[call.partition(" ")[0]].add(f"{test} {call.partition(' ')[2]}")
        self._seen.clear()

    def _take(self, log: Path) -> None:
        try:
            with log.open("rb") as file:
                file.seek(self._read[log])
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._read[log] += whole
        for line in data[:whole].decode(errors="replace").splitlines():
            if (match := _LINE.search(line)) and " code=" not in match[3]:
                self._seen.add(f"{match[1]} {(match[2] or '').strip(chr(34))}")

    def end(self, passed: set[str]) -> list[str]:
        """A line for each row of the table whose test passed and did not call the method."""
        logging.getLogger(_LOGGER).removeHandler(self)
        if target := os.environ.get(VARIABLE):
            found = {method: sorted(tests) for method, tests in sorted(self.calls.items())}
            Path(target).write_text(json.dumps(found, indent=1))
        return [
            f"{row.test} passed and did not call {row.method}, as docs/native-api.md says it does"
            for row in (rows() if TABLE.exists() else [])
            if row.test in passed and not any(call.split(" ")[0] == row.test for call in self.calls[row.method])
        ]


RECORDER = Recorder()
