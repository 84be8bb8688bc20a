"""The table behind docs/native-api.md: a row for every method of the wire, each with a test that there is.

That the tests call what they are said to call is checked at the end of every run (`support.apicalls`).
"""

from __future__ import annotations

import re
from pathlib import Path

from support.apicalls import Call, Recorder, Row, choose, methods, rows

ROOT = Path(__file__).resolve().parents[1]


def test_every_method_has_its_row() -> None:
    assert [row.method for row in rows()] == methods()


def test_every_test_that_is_named_is_there() -> None:
    for row in rows():
        path, _, name = row.test.partition("::")
        function = re.escape(name.rpartition("::")[2].partition("[")[0])
        assert re.search(rf"^ *(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), row


def test_calls_are_put_down_to_the_tests_that_made_them(tmp_path: Path) -> None:
    one, two = "tests/daemon/test_ctr.py::test_one", "tests/daemon/test_ctr.py::test_two"
    recorder = Recorder()
    log = tmp_path / "daemon.log"
    log.write_text("")
    recorder.watch(log)
    version = "containerd.services.version.v1.Version/Version"
    line = "time=2026-01-01T00:00:00Z level=trace msg=call method=/{} took=1.00ms client={}\n"
    log.write_text(
        line.format(version, "grpc-go/1.33.3") + line.format("a.B/C", '"grpc python" code=NOT_FOUND error=no')
    )
    recorder.end_test(one)
    with log.open("a") as file:
        file.write(line.format(version, "grpc-python/1 code=UNAVAILABLE"))
    recorder.forget(log)
    recorder.end_test(two)
    assert recorder.calls == {
        one: {Call(version, "grpc-go/1.33.3", ""), Call("a.B/C", "grpc python", "NOT_FOUND")},
        two: {Call(version, "grpc-python/1", "UNAVAILABLE")},
    }
    assert choose(recorder.calls, {one, two}) == [Row(version, one, "`ctr` 1.6")]
    assert choose(recorder.calls, {two}) == [Row(version, two, "`containerd` for Python", "UNAVAILABLE")]


def test_a_row_whose_test_did_not_call_its_method_is_told() -> None:
    recorder = Recorder()
    first, *others = rows()
    recorder.calls[first.test] = {Call(first.method, "", first.code)}
    told = recorder.disproved({row.test for row in rows()})
    assert [line.split(" did not call ")[1].split(",")[0] for line in told] == [row.method for row in others]
