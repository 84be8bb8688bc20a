"""Container logs: rotated while they are written, with lines that are too long, late, or never ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until

MAX_LINE = 16 << 10
Pod = tuple[str, cri_pb2.PodSandboxConfig]


@pytest.fixture
def pod(cri: CriClient, logs: Path) -> Pod:
    config = pod_config(network=cri_pb2.NODE, log_directory=logs)
    return cri.run_pod(config), config


def _entries(*paths: Path) -> list[tuple[str, str, str]]:
    """Stream, mark and text of each entry. Each file holds whole entries."""
    found = []
    for path in paths:
        text = path.read_text()
        assert text.endswith("\n") or not text
        for line in text.splitlines():
            _, stream, mark, content = line.split(" ", 3)
            found.append((stream, mark, content))
    return found


def _rotate(cri: CriClient, container: str, log: Path, number: int) -> Path:
    """As a kubelet does it."""
    old = log.with_suffix(f".{number}")
    os.rename(log, old)
    cri.ReopenContainerLog(container_id=container)
    return old


def _ended(cri: CriClient, container: str) -> None:
    until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED, 60)


def test_rotation_loses_and_doubles_no_line(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    """Of two streams that are written as fast as they are taken."""
    script = "(seq 1 200000 >&2) & seq 1 200000; wait; sleep 1000"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, log_path="0.log"))
    log = logs / "0.log"
    files: list[Path] = []

    def complete() -> bool:
        return sum(file.read_bytes().count(b"\n") for file in (*files, log) if file.exists()) >= 400_000

    for number in range(12):
        until(lambda: (log.exists() and log.stat().st_size > 0) or complete(), 60)
        if complete():
            break
        files.append(_rotate(cri, container, log, number))
    assert files
    until(complete, 60)
    cri.stop(container)
    entries = _entries(*files, log)
    for stream in ("stdout", "stderr"):
        assert [int(text) for name, _, text in entries if name == stream] == list(range(1, 200_001))
    with pytest.raises(FailedPrecondition):
        cri.ReopenContainerLog(container_id=container)


def test_a_line_that_is_under_way_goes_into_the_new_file(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    script = "echo first; printf begun; until [ -e /go ]; do sleep 0.05; done; echo ended; printf never"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, log_path="0.log"))
    log = logs / "0.log"
    until(lambda: log.exists() and log.stat().st_size > 0)
    old = _rotate(cri, container, log, 1)
    cri.execute(container, "touch", "/go")
    _ended(cri, container)
    assert _entries(old) == [("stdout", "F", "first")]
    assert _entries(log) == [("stdout", "F", "begunended"), ("stdout", "P", "never")]


def test_a_line_that_is_too_long_comes_in_pieces(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, log_path="0.log"))
    _ended(cri, container)
    entries = _entries(logs / "0.log")
    assert [mark for _, mark, _ in entries] == ["P", "P", "F", "F"]
    assert [len(text) for _, _, text in entries] == [MAX_LINE, MAX_LINE, 40000 - 2 * MAX_LINE, 5]
