"""The rules of snapshotters about crashes: killed at every system call that changes something, and started again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from moorage_api.linux.mount import temporary_mount
from moorage_api.snapshots import Info, Kind, Snapshotter
from moorage_api.testing.killing import CannotTrace, End, run_killed
from moorage_api.testing.snapshot_files import change, contents, layer, seen, write

T = TypeVar("T")

State = dict[str, tuple[Kind, str, dict[str, str], dict[str, str]]]
"""Kind, parent, labels and files of each snapshot."""


def _committed(snapshotter: Snapshotter) -> None:
    layer(snapshotter, "base", "", lambda root: write(root, "folder/file", "text"))


def _active(snapshotter: Snapshotter) -> None:
    _committed(snapshotter)
    snapshotter.prepare("key", "base")
    change(snapshotter, "key", lambda root: write(root, "more", "text"))


def _viewed(snapshotter: Snapshotter) -> None:
    _active(snapshotter)
    snapshotter.view("view", "base")


def _relabel(snapshotter: Snapshotter) -> None:
    snapshotter.update(Info("key", Kind.ACTIVE, labels={"a": "1"}), ["labels"])


Step = Callable[[Snapshotter], object]

SCENARIOS: dict[str, tuple[Step, Step]] = {
    "open": (lambda s: None, lambda s: None),
    "prepare": (lambda s: None, lambda s: s.prepare("new", "", {"containerd.io/snapshot.ref": "x"})),
    "prepare-on-a-parent": (_committed, lambda s: s.prepare("new", "base")),
    "view": (_committed, lambda s: s.view("new", "base")),
    "commit": (_active, lambda s: s.commit("name", "key", {"containerd.io/snapshot/a": "b"})),
    "update": (_active, _relabel),
    "remove-active": (_active, lambda s: s.remove("key")),
    "remove-view": (_viewed, lambda s: s.remove("view")),
    "remove-committed": (_committed, lambda s: s.remove("base")),
    "cleanup": (_active, lambda s: s.cleanup()),
}
"""What is there before, and the call that is killed."""


class CrashRules:
    """A part of `moorage_api.testing.snapshots.SnapshotterSuite`."""

    survives_kills: ClassVar[bool] = True
    """False where killing the caller proves nothing: the snapshotter is in another process."""
    kill_stride: ClassVar[int] = 1
    """More than 1 to try only one change in so many: where opening is slow."""
    frees_at_once: ClassVar[bool] = True
    """False where what was removed is freed later than by `cleanup` at a start: by a garbage collector."""

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        raise NotImplementedError

    def close_snapshotter(self, snapshotter: Snapshotter) -> None:
        """Release all that `open_snapshotter` took, so that the same folder can be opened again."""
        snapshotter.close()

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_killed_at_every_change(self, tmp_path: Path, scenario: str) -> None:
        if not self.survives_kills:
            pytest.skip("killing this process proves nothing")
        set_up, call = SCENARIOS[scenario]
        before, without = self._try(tmp_path / "before", set_up)
        after, with_it = self._try(tmp_path / "after", lambda s: (set_up(s), call(s)))
        for number in itertools.count(1, self.kill_stride):
            folder = tmp_path / f"killed-{number}"
            self._prepare(folder, None if scenario == "open" else set_up)
            if self._kill(folder, call, number, while_opening=scenario == "open") is not End.KILLED:
                assert number > 1 or scenario in ("open", "cleanup"), "the call changes nothing"
                # The child ended without closing; what it held that outlives a process (mounts) ends with this.
                self._try_closing(folder, lambda s: None)
                return
            found, left = self._try(folder, lambda s: None)
            at = f"killed at change {number} of {scenario}"
            assert found in (before, after), f"{at}: neither as before nor as after the call"
            if self.frees_at_once:
                expected = [files for state, files in ((before, without), (after, with_it)) if state == found]
                assert left <= max(expected), f"{at}: {left} files are left, more than {max(expected)}"
            if found == before and before != after:
                assert self._try(folder, call)[0] == after, f"{at}: the call cannot be made again"

    def _prepare(self, folder: Path, set_up: Step | None) -> None:
        folder.mkdir()
        if set_up is not None:
            self._try_closing(folder, set_up)

    def _kill(self, folder: Path, call: Step, number: int, *, while_opening: bool) -> End:
        def work() -> Callable[[], object]:
            if while_opening:
                return lambda: self.open_snapshotter(folder)
            snapshotter = self.open_snapshotter(folder)
            return lambda: call(snapshotter)

        try:
            end = run_killed(work, number)
        except CannotTrace as error:
            pytest.skip(str(error))
        assert end is not End.FAILED, "the call fails by itself: its traceback is on standard error"
        return end

    def _try(self, folder: Path, step: Step) -> tuple[State, int]:
        """Open, take the step, clean up; count the files after closing; then look at the snapshots."""
        folder.mkdir(exist_ok=True)

        def tidy(snapshotter: Snapshotter) -> None:
            step(snapshotter)
            snapshotter.cleanup()

        self._try_closing(folder, tidy)
        # Before looking: a view may get the id, and the place, of what a crash left behind.
        left = sum(len(names) + len(files) for _, names, files in os.walk(folder))
        return self._try_closing(folder, picture), left

    def _try_closing(self, folder: Path, step: Callable[[Snapshotter], T]) -> T:
        snapshotter = self.open_snapshotter(folder)
        try:
            return step(snapshotter)
        finally:
            self.close_snapshotter(snapshotter)


def picture(snapshotter: Snapshotter) -> State:
    """All that can be seen of the snapshots; times apart."""
    found: State = {}
    for info in list(snapshotter.walk()):
        if info.kind is Kind.COMMITTED:
            files = seen(snapshotter, info.name)
        else:
            with temporary_mount(snapshotter.mounts(info.name)) as root:
                files = contents(Path(root))
        found[info.name] = (info.kind, info.parent, dict(info.labels), files)
    return found
