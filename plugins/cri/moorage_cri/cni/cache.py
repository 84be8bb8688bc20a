"""What CNI has made, on disk, so that it can be taken down after a restart and whatever becomes of the configuration.

An entry is written before the first ADD and removed after the last DEL: what has an entry may hold addresses or rules
on the host. Entries are not synced: a power cut takes the network namespaces and rules with it.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moorage_api.cni import config
from moorage_api.cni.call import Attachment, Result
from moorage_api.errors import InvalidArgument

logger = logging.getLogger(__name__)

_VERSION = 1
_ENDING = ".json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One pod's network: the configuration and arguments of its ADD, and the result when there is one."""

    attachment: Attachment
    network: config.NetworkConfig
    result: Result | None = None

    def with_result(self, result: Result) -> Entry:
        return replace(self, result=result)


class Cache:
    """The entries in a folder, a file each. Saving, loading and removing do I/O; which there are is known from memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ids = {path.stem for path in folder.glob(f"*{_ENDING}")}

    def save(self, entry: Entry) -> None:
        """Write an entry, in place of an earlier one."""
        path = self._path(entry.attachment.id)
        self._ids.add(entry.attachment.id)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(_document(entry)))
        os.replace(scratch, path)

    def load(self, id: str) -> Entry | None:
        """The entry of a pod, if it has one. One that cannot be read is logged, removed and counts as none."""
        path = self._path(id)
        try:
            return _entry(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, InvalidArgument) as error:
            logger.error("the network record of pod %s cannot be read, its network is not taken down: %s", id, error)
            self.remove(id)
            return None

    def remove(self, id: str) -> None:
        """Forget an entry; one that is not there does not matter."""
        with suppress(FileNotFoundError):
            self._path(id).unlink()
        self._ids.discard(id)

    def ids(self) -> list[str]:
        """The pods that have entries."""
        return sorted(self._ids)

    def has(self, id: str) -> bool:
        """Whether a pod has an entry."""
        return id in self._ids

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}{_ENDING}"


def _document(entry: Entry) -> dict[str, Any]:
    attachment = entry.attachment
    return {
        "version": _VERSION,
        "id": attachment.id,
        "netns": attachment.netns,
        "interface": attachment.interface,
        "args": dict(attachment.args),
        "capabilities": dict(attachment.capabilities),
        "network": entry.network.document(),
        "result": entry.result,
    }


def _entry(document: dict[str, Any]) -> Entry:
    if document["version"] != _VERSION:
        raise InvalidArgument(f"it is of version {document['version']}, not {_VERSION}")
    attachment = Attachment(
        document["id"], document["netns"], document["interface"], document["args"], document["capabilities"]
    )
    return Entry(attachment, config.of_document(document["network"], "in the record"), document["result"])
