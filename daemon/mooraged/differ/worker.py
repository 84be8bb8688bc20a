"""A worker process: `python -m mooraged.differ.worker`. Does one request at a time, read from standard input.

It ends when its standard input does, in the middle of its work too: the daemon is gone then, and nobody waits for it.
"""

from __future__ import annotations

import errno
import os
import queue
import sys
import threading
import traceback
from typing import BinaryIO

from moorage_api.errors import Code
from moorage_api.linux import syscalls
from mooraged.differ.apply import apply
from mooraged.differ.compare import compare
from mooraged.differ.messages import Apply, Done, Failed, Output, Reply, Request, receive_request, send
from mooraged.differ.tar.events import LimitError, TarError

# Threads take turns this often (in seconds) when both want the interpreter: the one that inflates wants it for moments.
_SWITCH_INTERVAL = 0.0005
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def main() -> None:
    """Serve requests until the daemon closes the pipe."""
    # What a library might print must not get between the messages.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.umask(0)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    syscalls.set_process_name("mooraged-differ")
    pending: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(pending, replies), name="serve", daemon=True).start()
    while (request := receive_request(requests)) is not None:
        pending.put(request)
    # At once, whatever other threads are at: their work has no owner any more.
    os._exit(0)


def _serve(pending: queue.SimpleQueue[Request], replies: BinaryIO) -> None:
    while True:
        request = pending.get()
        try:
            send(replies, _answer(request, replies))
        except OSError:
            os._exit(1)


def _answer(request: Request, replies: BinaryIO) -> Reply:
    """Do what is asked; every failure becomes a reply."""
    try:
        if isinstance(request, Apply):
            applied = apply(request.path, request.mounts, request.limits, sync=request.sync, scratch=request.scratch)
            return Done(applied.digest, applied.size)
        made = compare(
            request.lower,
            request.upper,
            request.compression,
            scratch=request.scratch,
            output=lambda data: send(replies, Output(data)),
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


if __name__ == "__main__":
    main()
