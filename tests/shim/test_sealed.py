"""The copies of OCI runtimes that nobody can write to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_shim import sealed


@pytest.fixture
def workshop() -> Iterator[None]:
    """A workshop in this process; what workers ask for is made when `made` is called."""
    requests = sealed.open_workshop()
    yield
    for fd in sealed.descriptors():
        os.close(fd)
    sealed.forget()
    requests.close()


def made(program: Path) -> int:
    """Ask for a copy, as a worker does, and be the workshop that makes it."""
    requests = sealed.open_workshop()
    sealed._asking.reverse()
    assert sealed.find(str(program)) == -1
    sealed.serve(requests)
    requests.close()
    return sealed.find(str(program))


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_a_copy_runs_and_stays_as_it_is(workshop: None, name: str) -> None:
    program = Path(shutil.which(name) or name)
    fd = made(program)
    assert os.pread(fd, 1 << 26, 0) == program.read_bytes()
    run = subprocess.run(
        [f"/proc/self/fd/{fd}", "--version"], pass_fds=[fd], capture_output=True, check=True, text=True
    )
    assert name in run.stdout
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.write(again, b"x")
    os.close(again)


def test_a_program_that_was_replaced_is_copied_anew(workshop: None, tmp_path: Path) -> None:
    program = tmp_path / "crun"
    program.write_bytes(b"\x7fELF, old")
    assert made(program) >= 0
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(program)
    assert sealed.find(str(program)) == -1


def test_a_script_is_not_copied(workshop: None, tmp_path: Path) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\nexec /usr/bin/crun")
    assert made(program) == -1


def test_others_are_not_copied(workshop: None, tmp_path: Path) -> None:
    program = tmp_path / "kata"
    program.write_text("x")
    assert sealed.find(str(program)) == -1
    assert len(sealed.descriptors()) == 1
