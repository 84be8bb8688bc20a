"""Backend keys stay behind the metadata layer, also in what errors say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from moorage_api.errors import MoorageError


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Raise errors of the block with the client's names in place of the backend's (`names`: backend key to name)."""
    try:
        yield
    except MoorageError as error:
        message = error.message
        for backend, name in names.items():
            if backend:
                message = message.replace(repr(backend), repr(name)).replace(backend, name)
        if message == error.message:
            raise
        raise type(error)(message) from error
