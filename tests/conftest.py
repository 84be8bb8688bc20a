"""Fixtures that every part of the suite uses: a registry with an image in it, and running daemons."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.apicalls import RECORDER
from support.daemon import Daemon
from support.images import push
from support.registry import Registry
from support.session import begin as begin_session
from support.session import end as end_session

_PASSED: set[str] = set()
_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() != 0:
        raise pytest.UsageError("the tests make mounts, namespaces and cgroups: run them as root")
    config.stash[_FOLDER] = begin_session()
    RECORDER.begin()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _PASSED.add(report.nodeid)
    if report.when == "teardown":
        RECORDER.end_test(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that leaves anything on the host fails, whichever test it was that did; so does one that disproves a page."""
    wrong = [f"left behind: {line}" for line in end_session(session.config.stash[_FOLDER])]
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    wrong += RECORDER.end(_PASSED if whole else set())
    for line in wrong:
        print(f"\n{line}", file=sys.stderr)
    if wrong:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A plain-HTTP registry with `library/busybox:latest`."""
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        push(running.address, "library/busybox", "latest")
        yield running


@pytest.fixture(scope="session")
def busybox(registry: Registry) -> str:
    """The reference of the seeded image."""
    return f"{registry.address}/library/busybox:latest"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of the test's own, which it may kill and restart."""
    with Daemon() as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """A daemon that the tests of a module share; whatever they leave in it goes with it."""
    with Daemon() as running:
        yield running


@pytest.fixture
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder whose path is short enough for Unix sockets in it (at most 107 bytes)."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="mr-"))
    yield folder
    shutil.rmtree(folder)
