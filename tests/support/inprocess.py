"""A command line run inside the test's own process: as a subprocess would run it, without the cost of its imports.

Its streams are the descriptors 0, 1 and 2 themselves, because what runs attached reads and writes those. Signals,
terminals and broken pipes need a process of their own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

Done = subprocess.CompletedProcess[str]


def call(
    execute: Callable[[list[str]], int], words: Sequence[str], environment: Mapping[str, str], input: str = ""
) -> Done:
    """Call `execute` with `words` in `environment` and with `input` on its standard input; returns what a finished
    process would have given."""
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        _environment(environment),
    ):
        stdin.write(input.encode())
        stdin.seek(0)
        with _descriptors(stdin, stdout, stderr):
            status = execute(list(words))
        return Done(["moorage", *words], status, _contents(stdout), _contents(stderr))


@contextlib.contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _descriptors(*files: BinaryIO) -> Iterator[None]:
    """Make the files the process's own streams, under Python's objects as well."""
    saved = [os.dup(number) for number in range(3)]
    before = sys.stdin, sys.stdout, sys.stderr
    before[1].flush()
    before[2].flush()
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - closed below, by the name that everyone uses
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            yield
        finally:
            for stream in (sys.stdin, sys.stdout, sys.stderr):
                stream.close()
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for number, fd in enumerate(saved):
            os.dup2(fd, number)
            os.close(fd)


def _contents(file: BinaryIO) -> str:
    file.seek(0)
    # A terminal's line ends become line feeds, as `subprocess` has them in text.
    return file.read().decode().replace("\r\n", "\n")
