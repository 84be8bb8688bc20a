"""The kernel's lock on control groups, taken ahead of OCI runtimes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.cgroups.location import below, hierarchies, memberships
from mooraged.runtime import cgroup_lock
from mooraged.runtime.cgroup_lock import CgroupLock
from support.session import new_id

# Takes the lock, is moved, takes it again; prints where it is each time.
_MOVED = """
import os, sys
from mooraged.runtime.cgroup_lock import CgroupLock
lock = CgroupLock()
for procs in (None, sys.argv[1]):
    if procs:
        open(procs, "w").write(str(os.getpid()))
    lock.prepare()
    lock._keeping.result(20)
    print(open("/proc/self/cgroup").read().encode())
lock.close()
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of its own in one hierarchy, below that of the tests."""
    mounts = hierarchies()
    name = "" if "" in mounts else min(mounts)
    folder = Path(below(*mounts[name], memberships("self")[name])) / f"moorage-{new_id()}"
    folder.mkdir()
    yield folder
    folder.rmdir()


def test_it_stays_where_it_is_and_where_it_has_been_moved_to(group: Path) -> None:
    run = [sys.executable, "-c", _MOVED, str(group / "cgroup.procs")]
    before, after = subprocess.run(run, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert before == repr(Path("/proc/self/cgroup").read_bytes())
    assert f"/{group.name}" in after


def test_without_control_groups_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_lock, "hierarchies", dict)
    lock = CgroupLock()
    try:
        lock.prepare()
        assert lock._keeping is not None
        lock._keeping.result(20)
        taken = lock._keeping
        lock.prepare()
        assert lock._keeping is taken
    finally:
        lock.close()


def test_a_control_group_that_can_not_be_joined_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.procs").symlink_to("/dev/full")
    monkeypatch.setattr(cgroup_lock, "hierarchies", lambda: {"": (str(tmp_path), "/")})
    monkeypatch.setattr(cgroup_lock, "memberships", lambda _: {"": "/"})
    lock = CgroupLock()
    try:
        for _ in range(2):
            lock.prepare()
            assert lock._keeping is not None
            lock._keeping.result(20)
    finally:
        lock.close()
    assert os.listdir(tmp_path) == ["cgroup.procs"]
