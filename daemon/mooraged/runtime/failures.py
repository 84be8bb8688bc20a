"""Failures that name the step at which they happened."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from moorage_api.errors import DeadlineExceeded, Internal, MoorageError, ResourceExhausted

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Put `name` before the message of whatever fails in the block; the class of a `MoorageError` stays."""
    try:
        yield
    except MoorageError as error:
        raise type(error)(f"{name}: {error.message}") from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"{name}: took too long") from error
    except OSError as error:
        kind = ResourceExhausted if error.errno in _FULL else Internal
        raise kind(f"{name}: {error}") from error
