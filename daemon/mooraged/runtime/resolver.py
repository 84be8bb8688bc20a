"""From a runtime's name to the launcher of its shim and the options that it is given."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.shim import Bootstrap, ShimLauncher, ShimRequest
from moorage_api.types import TypedValue
from moorage_api.wire.runc_options_pb2 import Options
from moorage_api.wire.types_pb2 import RuntimeInfo
from mooraged.runtime import foreign
from mooraged.runtime.config import DEFAULT_RUNTIME, RuntimeConfig, RuntimeEntry
from mooraged.runtime.foreign import ForeignLauncher
from mooraged.runtime.oci_runtime import DefaultRuntime

OURS = "moorage"
_OUR_BINARY = "containerd-shim-moorage-v2"
_OUR_NAMES = frozenset({DEFAULT_RUNTIME, "io.moorage.v2", "io.containerd.moorage.v2"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9][A-Za-z0-9_-]*)*\.(?P<name>[^./]+)\.(?P<version>v[0-9]+)")
_OPTIONS_TYPE = Options.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class Handler:
    """Who serves a runtime: the launcher, what finds it again (`Launch.launcher`), and the options for the shim."""

    runtime: str
    launcher_id: str
    launcher: ShimLauncher
    options: TypedValue | None

    async def start(self, request: ShimRequest) -> Bootstrap:
        """Start a shim. Shims of others are given the options already now."""
        if isinstance(self.launcher, ForeignLauncher):
            return await self.launcher.start(request, self.options)
        return await self.launcher.start(request)


class Resolver:
    """Names of runtimes, as containerd resolves them, with the configured ones before all."""

    def __init__(
        self, config: RuntimeConfig, plugins: Mapping[str, ShimLauncher], default: DefaultRuntime, oci_root: Path
    ) -> None:
        self._config = config
        self._plugins = plugins
        self._default = default
        self._oci_root = oci_root
        self._foreign: dict[str, ForeignLauncher] = {}
        for name, entry in config.runtimes.items():
            _configured_options(name, entry)

    async def resolve(self, name: str, options: TypedValue | None) -> Handler:
        """`InvalidArgument` for a malformed name or options that can't be read, `NotFound` for a shim that is not
        installed."""
        name = name or DEFAULT_RUNTIME
        entry = self._config.runtimes.get(name, RuntimeEntry())
        launcher_id = self._launcher_id(name, entry.shim)
        return Handler(
            name, launcher_id, self.launcher(launcher_id), await self._options(name, launcher_id, entry, options)
        )

    def launcher(self, launcher_id: str) -> ShimLauncher:
        """The launcher that `Launch.launcher` names. `NotFound`."""
        if launcher_id.startswith("/"):
            found = self._foreign.get(launcher_id)
            if found is None:
                found = self._foreign[launcher_id] = ForeignLauncher(launcher_id, self._config.create_timeout)
            return found
        if launcher_id not in self._plugins:
            raise NotFound(f"shim plugin {launcher_id} is not there; there are: {', '.join(sorted(self._plugins))}")
        return self._plugins[launcher_id]

    async def info(self, name: str, options: TypedValue | None) -> RuntimeInfo:
        """What the shim of a runtime says of itself. `InvalidArgument`, `NotFound`, `Unavailable`."""
        handler = await self.resolve(name, options)
        binary = handler.launcher_id if handler.launcher_id.startswith("/") else find_binary(_OUR_BINARY)
        return await foreign.info(binary, handler.options, self._config.create_timeout)

    def close(self) -> None:
        for launcher in self._foreign.values():
            launcher.close()

    def _launcher_id(self, name: str, shim: str) -> str:
        if not shim and name in _OUR_NAMES:
            shim = OURS
        if shim in self._plugins or shim == OURS:
            return shim
        return find_binary(shim or name)

    async def _options(
        self, name: str, launcher_id: str, entry: RuntimeEntry, given: TypedValue | None
    ) -> TypedValue | None:
        """The client's options; what they leave empty comes from the configuration, then from the defaults.

        Options of a shim that is not runc-like are its own business and passed as they are.
        """
        runc_like = not launcher_id.startswith("/") or Path(launcher_id).name.startswith("containerd-shim-runc-")
        if given is not None and given.value and not is_options(given):
            return given
        if not runc_like and entry == RuntimeEntry(shim=entry.shim):
            return given
        options = parse_options(given)
        merged = _configured_options(name, entry)
        if not merged.root:
            merged.root = str(self._oci_root)
        if not merged.binary_name and not options.binary_name and launcher_id == OURS:
            merged.binary_name = await self._default.path()
        merged.MergeFrom(options)
        return TypedValue(_OPTIONS_TYPE, merged.SerializeToString())


def is_options(value: TypedValue) -> bool:
    return value.type_url.rpartition("/")[2] == _OPTIONS_TYPE


def parse_options(value: TypedValue | None) -> Options:
    """`containerd.runc.v1.Options` from an Any; empty for none. `InvalidArgument`."""
    try:
        return Options.FromString(value.value) if value is not None else Options()
    except DecodeError as error:
        raise InvalidArgument(f"runtime options are no {_OPTIONS_TYPE}") from error


def find_binary(name: str) -> str:
    """The absolute path of a shim's binary: of a path, of a binary's name, or of `io.containerd.X.vN`, which is
    `containerd-shim-X-vN`. `InvalidArgument`, `NotFound`."""
    if name.startswith("/"):
        if not os.access(name, os.X_OK) or os.path.isdir(name):
            raise InvalidArgument(f"runtime {name!r} is no executable file")
        return name
    match = _NAME.fullmatch(name)
    binary = f"containerd-shim-{match['name']}-{match['version']}" if match else name
    if "/" in name or (match is None and not name.startswith("containerd-shim-")):
        raise InvalidArgument(
            f"invalid runtime name {name[:120]!r}: expected a name like {DEFAULT_RUNTIME}, or the absolute path of a shim"
        )
    path = shutil.which(binary) or shutil.which(binary, path=os.path.dirname(sys.executable))
    if path is None:
        raise NotFound(f"runtime {name!r}: {binary} is not installed")
    return os.path.abspath(path)


def _configured_options(name: str, entry: RuntimeEntry) -> Options:
    options = Options(binary_name=entry.binary, root=entry.root, systemd_cgroup=entry.systemd_cgroup)
    try:
        return ParseDict(dict(entry.options), options)
    except ParseError as error:
        raise InvalidArgument(f"options of runtime {name!r}: {error}") from error
