"""What the operating system says, in the words of the contract."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from moorage_api.errors import Internal, MoorageError, ResourceExhausted

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def translated(error: OSError, what: str) -> MoorageError:
    """The error of the contract for `error`, which happened while doing `what`."""
    kind = ResourceExhausted if error.errno in _FULL else Internal
    where = f" ({error.filename})" if error.filename else ""
    return kind(f"{what}: {error.strerror or error}{where}")


@contextmanager
def translating(what: str) -> Iterator[None]:
    """Turn every OSError inside into an error of the contract."""
    try:
        yield
    except OSError as error:
        raise translated(error, what) from error
