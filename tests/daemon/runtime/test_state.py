"""What is known in memory and on disk: processes, exits told once, bundles, cgroups."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, InvalidArgument
from moorage_api.events import Envelope
from moorage_api.runtime import Exit, Status, Stdio
from moorage_api.types import TypedValue
from moorage_api.wire.events_types_pb2 import TaskExecStarted, TaskExit, TaskStart
from mooraged.events.exchange import Exchange
from mooraged.runtime import cgroups
from mooraged.runtime.announcer import Announcer
from mooraged.runtime.bundle import Bundle, Launch, Record, root_owner, scan
from mooraged.runtime.ledger import Ledger
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.watcher import Watcher

LAUNCH = Launch("moorage", "io.containerd.runc.v2")


class Observed:
    """A watcher over one running task, and what the bus was told."""

    def __init__(self, folder: Path, grace: float) -> None:
        bundle = Bundle(folder, "blue", "web")
        bundle.create(b"{}", LAUNCH)
        self.bus = Exchange(64)
        self.subscription = self.bus.subscribe()
        self.ledger = Ledger()
        self.announcer = Announcer(self.bus, grace)
        self.watcher = Watcher(self.ledger, self.announcer, self.bus)
        self.task = Task("blue", "web", bundle, LAUNCH, ProcessState("web", "", Stdio(), 7), ready=True)
        self.ledger.reserve(self.task)

    def forward_exit(self, exec_id: str = "", pid: int = 7) -> None:
        event = TaskExit(container_id="web", id=exec_id or "web", pid=pid, exit_status=4)
        event.exited_at.FromNanoseconds(99)
        payload = TypedValue("containerd.events.TaskExit", event.SerializeToString())
        self.watcher.forwarded(Envelope(1, "blue", "/tasks/exit", payload))

    async def told(self) -> list[str]:
        topics = []
        while True:
            try:
                topics.append((await asyncio.wait_for(anext(self.subscription), 0.1)).topic)
            except TimeoutError:
                return topics


async def test_an_event_is_known_before_it_is_told(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 60)
    seen.forward_exit()
    assert seen.task.init.view().status is Status.STOPPED
    assert seen.task.init.exit == Exit(4, 99, 7)
    assert await seen.told() == ["/tasks/exit"]
    record = seen.task.bundle.record()
    assert record is not None
    assert (record.exited, record.exit_status, record.exited_at) == (True, 4, 99)


async def test_an_exit_that_the_shim_does_not_tell_is_told_for_it(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 0.05)
    seen.watcher.exited(seen.task, seen.task.init, Exit(4, 99))
    seen.watcher.exited(seen.task, seen.task.init, Exit(5, 100))
    await asyncio.sleep(0.15)
    assert await seen.told() == ["/tasks/exit"]
    seen.forward_exit()
    seen.ledger.drop(seen.task)
    seen.forward_exit()
    assert await seen.told() == []


async def test_the_shims_own_event_comes_first_and_alone(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 0.1)
    seen.watcher.exited(seen.task, seen.task.init, Exit(4, 99))
    seen.ledger.drop(seen.task)
    seen.forward_exit()
    await asyncio.sleep(0.2)
    assert await seen.told() == ["/tasks/exit"]


async def test_a_late_exit_is_not_that_of_a_new_process_of_the_name(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 60)
    first = ProcessState("web", "probe", Stdio(), 8, Status.RUNNING)
    seen.watcher.exited(seen.task, first, Exit(0, 50, 8))
    second = seen.task.execs["probe"] = ProcessState("web", "probe", Stdio())
    started = TaskExecStarted(container_id="web", exec_id="probe", pid=8).SerializeToString()
    payload = TypedValue("containerd.events.TaskExecStarted", started)
    seen.watcher.forwarded(Envelope(1, "blue", "/tasks/exec-started", payload))
    seen.forward_exit("probe", pid=8)
    assert (second.status, second.pid) == (Status.CREATED, 0)
    assert await seen.told() == ["/tasks/exec-started", "/tasks/exit"]
    seen.announcer.close()


async def test_a_start_that_comes_late_wakes_nobody(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 60)
    seen.forward_exit()
    payload = TypedValue("containerd.events.TaskStart", TaskStart(container_id="web", pid=7).SerializeToString())
    seen.watcher.forwarded(Envelope(2, "blue", "/tasks/start", payload))
    assert seen.task.init.status is Status.STOPPED
    assert await seen.told() == ["/tasks/exit", "/tasks/start"]


async def test_an_event_that_cannot_be_read(tmp_path: Path) -> None:
    seen = Observed(tmp_path, 60)
    with pytest.raises(InvalidArgument, match="TaskExit"):
        seen.watcher.forwarded(Envelope(1, "blue", "/tasks/exit", TypedValue("containerd.events.TaskExit", b"\xff")))
    assert await seen.told() == []


@pytest.mark.parametrize(
    ("now", "wanted", "then"),
    [
        (Status.CREATED, Status.RUNNING, Status.RUNNING),
        (Status.CREATED, Status.PAUSED, Status.CREATED),
        (Status.RUNNING, Status.PAUSED, Status.PAUSED),
        (Status.PAUSED, Status.RUNNING, Status.RUNNING),
        (Status.RUNNING, Status.CREATED, Status.RUNNING),
        (Status.RUNNING, Status.STOPPED, Status.RUNNING),
        (Status.STOPPED, Status.RUNNING, Status.STOPPED),
        (Status.UNKNOWN, Status.PAUSED, Status.PAUSED),
    ],
)
async def test_how_a_process_may_change(now: Status, wanted: Status, then: Status) -> None:
    process = ProcessState("web", "", Stdio(), status=now)
    process.advance(wanted)
    assert process.status is then


def test_a_bundle_is_whole_or_not_there(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, "blue", "web")
    bundle.create(b'{"linux": {}}', LAUNCH)
    assert bundle.path.stat().st_mode & 0o777 == 0o700
    assert bundle.launch() == LAUNCH
    assert bundle.record() is None
    with pytest.raises(AlreadyExists):
        bundle.create(b"{}", LAUNCH)
    record = Record(7, 1, Stdio(stdout="file:///x", terminal=True))
    bundle.write_record(record)
    assert bundle.record() == record
    (tmp_path / "blue" / ".web.1234").mkdir()
    assert [found.id for found in scan(tmp_path)] == ["web"]
    bundle.remove()
    bundle.remove()
    assert list((tmp_path / "blue").iterdir()) == []


def test_a_bundle_of_a_user_namespace_lets_its_group_in(tmp_path: Path) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config = json.dumps({"linux": {"uidMappings": mapping, "gidMappings": mapping}}).encode()
    bundle = Bundle(tmp_path, "blue", "web")
    bundle.create(config, LAUNCH)
    found = bundle.path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 100000, 0o710)


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b'{"linux": {"uidMappings": 3}}', b'{"linux": null}'])
def test_a_configuration_of_another_shape_maps_nobody(config: bytes) -> None:
    assert root_owner(config) == (0, 0)


@pytest.mark.parametrize("path", ["", "/", "/..", "/../..", "system.slice:moorage:web", "relative"])
def test_no_cgroup_but_the_containers_own_is_removed(tmp_path: Path, path: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": path}}))
    assert cgroups.remove_empty(tmp_path) == []
