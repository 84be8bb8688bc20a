"""The folder in which network configurations lie (CNI specification, section 1)."""

from __future__ import annotations

import os

from moorage_api.cni.config import NetworkConfig, parse
from moorage_api.errors import InvalidArgument, Unavailable

_ENDINGS = (".conf", ".conflist", ".json")
_FILE_MAX = 1 << 20


class ConfigFolder:
    """The configuration in a folder, read anew when the folder or a file in it has changed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: tuple[object, ...] | None = None
        self._config: NetworkConfig | None = None
        self._problem = ""

    def current(self) -> NetworkConfig:
        """The first configuration by file name. `Unavailable` where there is none, or it is not valid."""
        seen = self._signature()
        if seen != self._seen:
            self._load([str(entry[0]) for entry in seen])
            self._seen = seen
        if self._config is None:
            raise Unavailable(self._problem)
        return self._config

    def _signature(self) -> tuple[tuple[str, int, int, int], ...]:
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    (entry.name, status.st_ino, status.st_size, status.st_mtime_ns)
                    for entry in entries
                    if entry.name.endswith(_ENDINGS) and (status := _status(entry.path)) is not None
                ]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(found))

    def _load(self, names: list[str]) -> None:
        self._config = None
        if not names:
            self._problem = f"cni plugin not initialized: no network configuration in {self._folder}"
            return
        path = os.path.join(self._folder, names[0])
        try:
            with open(path, "rb") as file:
                data = file.read(_FILE_MAX + 1)
            if len(data) > _FILE_MAX:
                raise InvalidArgument(f"CNI configuration {path} is larger than {_FILE_MAX} bytes")
            self._config = parse(data, path)
        except (OSError, InvalidArgument) as error:
            self._problem = f"cni plugin not initialized: {error}"


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
