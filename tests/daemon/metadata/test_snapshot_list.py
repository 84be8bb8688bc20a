"""A list of snapshots says on the wire what each of them says by itself."""

from __future__ import annotations

import time

import pytest

from moorage_api.convert import snapshot_to_wire
from moorage_api.snapshots import Info, Kind
from moorage_api.wire import snapshots_pb2 as pb
from mooraged.metadata import View, snapshot_list


def items(messages: list[bytes]) -> list[pb.Info]:
    return [info for message in messages for info in pb.ListSnapshotsResponse.FromString(message).info]


def test_the_list_says_what_the_snapshots_say(view: View) -> None:
    snapshotter = view.snapshotter()
    snapshotter.prepare("active", labels={"ä": "ö", "empty/not": "x" * 300})
    snapshotter.prepare("base-active")
    snapshotter.commit("b" * 1000, "base-active", {"a": "1"})
    snapshotter.view("view", "b" * 1000)
    snapshotter.update(Info("view", Kind.VIEW, labels={"a": "1"}))
    found = items([message.data for message in snapshotter.listed()])
    assert found == [snapshot_to_wire(snapshotter.stat(name)) for name in ("active", "b" * 1000, "view")]
    assert found == [snapshot_to_wire(info) for info in snapshotter.walk()]


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
def test_in_messages_of_a_hundred(count: int) -> None:
    now = time.time_ns()
    rows = [(f"{number:03}" * number, "Active", "base", '{"a": "1"}', now, now + number) for number in range(count)]
    messages = [message.data for message in snapshot_list.encoded(rows)]
    assert len(messages) == (count + 99) // 100
    assert items(messages) == [
        snapshot_to_wire(Info(name, Kind.ACTIVE, "base", {"a": "1"}, created, updated))
        for name, _, _, _, created, updated in rows
    ]
