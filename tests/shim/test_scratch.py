"""The files between a shim and an OCI runtime, in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux.mount import mountinfo
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim import scratch
from support.shim import Node, workers


@pytest.fixture
def workshop() -> Iterator[None]:
    """A workshop in this process."""
    scratch.open_workshop()
    yield
    for fd in scratch.descriptors():
        os.close(fd)
    scratch.forget()


def test_a_file_in_memory_has_a_name_of_its_own_and_is_mounted_nowhere(workshop: None, tmp_path: Path) -> None:
    first, second = (Path(scratch.path(str(tmp_path), "pid")) for _ in range(2))
    assert first != second
    first.write_text("1")
    assert first.read_text() == "1"
    assert os.stat(first).st_dev != os.stat(tmp_path).st_dev
    assert os.stat(first.parent).st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
    device = os.stat(first).st_dev
    assert f"{os.major(device)}:{os.minor(device)}" not in {entry.device for entry in mountinfo()}


def test_without_memory_the_files_lie_in_the_bundle(tmp_path: Path) -> None:
    assert scratch.path(str(tmp_path), "pid") == str(tmp_path / "pid")


async def test_nothing_of_it_is_in_a_container_nor_stays_after_a_call(node: Node, tmp_path: Path) -> None:
    client = await node.task("box", "sleep", "1000")
    out = tmp_path / "out"
    await node.exec(client, "box", "look", "ls", "/proc/self/fd", stdout=f"file://{out}")
    await client.call("Wait", pb.WaitRequest(id="box", exec_id="look"))
    assert out.read_text().split() == ["0", "1", "2", "3"]
    shim = node.shims[0].pid
    await client.call("Connect", pb.ConnectRequest(id="box"))
    (worker,) = workers(shim)
    folders = [Path(f"/proc/{worker}/fd/{fd}") for fd in range(740, 750) if os.path.isdir(f"/proc/{worker}/fd/{fd}")]
    assert [list(folder.iterdir()) for folder in folders] == [[]]
    assert not [path for path in node.bundles["box"].iterdir() if path.suffix == ".pid" or path.name.startswith(".")]
