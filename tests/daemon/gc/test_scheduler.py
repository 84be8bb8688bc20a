"""When collections run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from moorage_api.errors import Internal
from mooraged.gc import Policy, Scheduler, Stats


class Counting:
    """Counts collections; the test may hold one up, or make it fail."""

    def __init__(self) -> None:
        self.count = 0
        self.ran = threading.Condition()
        self.may_run = threading.Event()
        self.may_run.set()
        self.started = threading.Event()
        self.error: Exception | None = None

    def collect(self) -> Stats:
        self.started.set()
        assert self.may_run.wait(20)
        with self.ran:
            self.count += 1
            self.ran.notify_all()
        if self.error is not None:
            raise self.error
        return Stats(pause=0.0, blobs=self.count)

    def wait_for(self, count: int, timeout: float = 10) -> None:
        with self.ran:
            assert self.ran.wait_for(lambda: self.count >= count, timeout), f"{self.count} of {count} collections"


class Running:
    """Schedulers under test, stopped at its end."""

    def __init__(self) -> None:
        self.collector = Counting()
        self.schedulers: list[Scheduler] = []

    def start(self, **policy: float) -> Scheduler:
        values = {"startup_delay": 0.0, "pause_threshold": 0.5, **policy}
        self.schedulers.append(Scheduler(self.collector, Policy(**values)))  # type: ignore[arg-type]
        self.schedulers[-1].start()
        return self.schedulers[-1]


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    for scheduler in made.schedulers:
        scheduler.stop()


def settled(collector: Counting, seconds: float = 0.15) -> int:
    time.sleep(seconds)
    return collector.count


def test_the_first_comes_after_the_startup_delay(running: Running) -> None:
    start = time.monotonic()
    running.start(startup_delay=0.1)
    running.collector.wait_for(1)
    assert time.monotonic() - start >= 0.1
    assert settled(running.collector) == 1, "an idle daemon does not collect"


def test_a_removal_is_followed_by_a_collection(running: Running) -> None:
    scheduler = running.start()
    running.collector.wait_for(1)
    scheduler.mutated(removed=True)
    running.collector.wait_for(2)


def test_changes_count_up_to_the_threshold(running: Running) -> None:
    scheduler = running.start(mutation_threshold=10)
    running.collector.wait_for(1)
    for _ in range(9):
        scheduler.mutated(removed=False)
    assert settled(running.collector) == 1
    scheduler.mutated(removed=False)
    running.collector.wait_for(2)
    for _ in range(9):
        scheduler.mutated(removed=False)
    assert settled(running.collector) == 2, "counted anew since the collection"


def test_no_threshold_no_collection(running: Running) -> None:
    scheduler = running.start(mutation_threshold=0)
    running.collector.wait_for(1)
    for _ in range(1000):
        scheduler.mutated(removed=False)
    assert settled(running.collector) == 1


def test_the_schedule_delay_gathers_removals(running: Running) -> None:
    scheduler = running.start(schedule_delay=0.2)
    running.collector.wait_for(1)
    start = time.monotonic()
    for _ in range(50):
        scheduler.mutated(removed=True)
    running.collector.wait_for(2)
    assert time.monotonic() - start >= 0.19
    assert settled(running.collector) == 2


def test_a_collection_waits_for_quiet_but_not_for_ever(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = running.start()
    running.collector.wait_for(1)
    monkeypatch.setattr("mooraged.gc.scheduler._QUIET_SECONDS", 1000.0)
    monkeypatch.setattr("mooraged.gc.scheduler._PATIENCE_SECONDS", 0.3)
    start = time.monotonic()
    scheduler.mutated(removed=True)
    running.collector.wait_for(2)
    assert time.monotonic() - start >= 0.29
    monkeypatch.setattr("mooraged.gc.scheduler._PATIENCE_SECONDS", 1000.0)
    scheduler.mutated(removed=True)
    assert settled(running.collector) == 2
    scheduler.request()
    running.collector.wait_for(3)


def test_pauses_keep_to_their_share(running: Running) -> None:
    """A pause counts 5 ms at least, so that a share of 0.02 means a collection in 245 ms; but who asks gets one."""
    scheduler = running.start(pause_threshold=0.02)
    running.collector.wait_for(1)
    start = time.monotonic()
    scheduler.mutated(removed=True)
    running.collector.wait_for(2)
    assert time.monotonic() - start > 0.15
    scheduler.request()
    running.collector.wait_for(3, timeout=0.15)


def test_many_deletions_do_not_wait(running: Running) -> None:
    scheduler = running.start(pause_threshold=0.001, deletion_threshold=3)
    running.collector.wait_for(1)
    scheduler.mutated(removed=True)
    scheduler.mutated(removed=True)
    assert settled(running.collector) == 1
    scheduler.mutated(removed=True)
    running.collector.wait_for(2, timeout=2)


def test_collect_returns_what_a_later_collection_did(running: Running) -> None:
    scheduler = running.start(startup_delay=1000)
    assert scheduler.collect().blobs == 1
    assert scheduler.collect().blobs == 2


def test_callers_at_one_time_share_a_collection_that_began_after_them(running: Running) -> None:
    scheduler = running.start(startup_delay=1000)
    running.collector.may_run.clear()
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(scheduler.collect().blobs)) for _ in range(8)]
    threads[0].start()
    assert running.collector.started.wait(10)
    for thread in threads[1:]:
        thread.start()
    while scheduler._asked < 8:
        time.sleep(0.001)
    running.collector.may_run.set()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == [1, 2, 2, 2, 2, 2, 2, 2]


def test_a_failed_collection_is_tried_again(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mooraged.gc.scheduler._RETRY_SECONDS", 0.02)
    running.collector.error = Internal("no")
    running.start()
    running.collector.wait_for(3)
    assert "garbage collection failed" in caplog.text
    running.collector.error = None


def test_stop_waits_for_the_collection(running: Running) -> None:
    running.collector.may_run.clear()
    scheduler = running.start()
    assert running.collector.started.wait(10)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    running.collector.may_run.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert running.collector.count == 1
