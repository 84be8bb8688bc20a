"""A worker process: `python -m mooraged.differ.worker`. Does one request at a time, read from standard input.

It ends when its standard input does, in the middle of its work too: the daemon is gone then, and nobody waits for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import sys
import threading
import traceback
from contextlib import suppress
from typing import BinaryIO

from moorage_api.errors import Code
from moorage_api.linux import syscalls
from mooraged.differ.apply import Applying
from mooraged.differ.compare import compare
from mooraged.differ.growing import Growth
from mooraged.differ.messages import (
    Apply,
    Compare,
    Done,
    Extracting,
    Failed,
    Grown,
    Output,
    Reply,
    Request,
    receive_request,
    send,
)
from mooraged.differ.tar.events import LimitError, TarError
from mooraged.yielding import give_way

# Threads take turns this often (in seconds) when both want the interpreter: the one that inflates wants it for moments.
_SWITCH_INTERVAL = 0.0005
# Seconds; so long does a cancelled extraction go on at most, and its fetch with it.
_REPORT_INTERVAL = 0.05
_NICENESS = 10
_DESCRIPTORS = 400
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def main() -> None:
    """Serve requests until the daemon closes the pipe."""
    # What a library might print must not get between the messages.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.umask(0)
    # Who calls the daemon must not wait for a pull.
    give_way(_NICENESS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    syscalls.set_process_name("mooraged-differ")
    _make_room_for_descriptors()
    service = _Service(replies)
    threading.Thread(target=service.serve, name="serve", daemon=True).start()
    while (request := receive_request(requests)) is not None:
        service.receive(request)
    # At once, whatever other threads are at: their work has no owner any more.
    os._exit(0)


def _make_room_for_descriptors() -> None:
    """Have room for the folders that an extraction keeps open, while there is one thread only. The kernel enlarges the table
    of descriptors by and by, and with several threads it makes who opens a file wait for all processors, 5 to 20 ms each time.
    """
    with suppress(OSError):  # a limit that is lower: then the table never gets that large
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS))


class _Service:
    """Does the requests one after the other. Growth of a file is told to the one that waits for it."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._sending = threading.Lock()
        self._pending: queue.SimpleQueue[tuple[Apply | Compare, Growth]] = queue.SimpleQueue()
        self._growth = Growth()

    def receive(self, request: Request) -> None:
        """Take a message of the daemon; never waits."""
        if isinstance(request, Grown):
            self._growth.grow(request.size)
        else:
            self._growth = Growth()
            self._pending.put((request, self._growth))

    def serve(self) -> None:
        """Answer requests for ever."""
        while True:
            request, growth = self._pending.get()
            self._send(self._answer(request, growth))

    def _send(self, reply: Reply) -> None:
        try:
            with self._sending:
                send(self._replies, reply)
        except OSError:
            os._exit(1)

    def _answer(self, request: Apply | Compare, growth: Growth) -> Reply:
        """Do what is asked; every failure becomes a reply."""
        try:
            if isinstance(request, Apply):
                return self._apply(request, growth)
            made = compare(
                request.lower,
                request.upper,
                request.compression,
                scratch=request.scratch,
                output=lambda data: self._send(Output(data)),
            )
            return Done(made.digest, made.size)
        except LimitError as error:
            return Failed(Code.RESOURCE_EXHAUSTED, str(error))
        except TarError as error:
            return Failed(Code.INVALID_ARGUMENT, str(error))
        except OSError as error:
            code = Code.RESOURCE_EXHAUSTED if error.errno in _FULL else Code.UNKNOWN
            return Failed(code, str(error), traceback.format_exc())
        except Exception as error:  # noqa: BLE001 (the worker lives on; the daemon logs the trace)
            return Failed(Code.INTERNAL, f"{type(error).__name__}: {error}", traceback.format_exc())

    def _apply(self, request: Apply, growth: Growth) -> Done:
        applying = Applying(request, growth)
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(_REPORT_INTERVAL):
                self._send(Extracting(applying.size))

        reporter = threading.Thread(target=report, name="report")
        reporter.start()
        try:
            applied = applying.run()
        finally:
            ended.set()
            reporter.join()
        return Done(applied.digest, applied.size, applied.incomplete)


if __name__ == "__main__":
    main()
