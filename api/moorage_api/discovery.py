"""Find the plugins: every module that an installed distribution names in the entry-point group `moorage.plugins`.

Each module is imported by itself, so that one that cannot be imported is a failure with a reason and not the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec
import pluggy

from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError
from moorage_api.plugin import ENTRY_POINTS, PROJECT, HookSpecs, PluginType, Registration
from moorage_api.types import check_identifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry point that gave no plugins, or a plugin that was refused; `type` and `id` as clients are shown it."""

    type: str
    id: str
    error: MoorageError


@dataclass(slots=True)
class Discovery:
    """What was found. `sources` says for each plugin's URI which module registered it."""

    registrations: list[Registration] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)


ENTRY_POINT_TYPE = "io.moorage.entrypoint.v1"
"""The type under which an entry point is shown that could not be loaded."""


def discover(points: Iterable[EntryPoint] | None = None) -> Discovery:
    """Load the entry points (all of the group, unless given) and collect what they register."""
    found = Discovery()
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    candidates: dict[str, list[tuple[Registration, str]]] = {}
    for point in sorted(
        entry_points(group=ENTRY_POINTS) if points is None else points, key=lambda p: (p.name, p.value)
    ):
        try:
            registrations = _load(manager, point)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's module may raise anything when imported
            reason = FailedPrecondition(f"{point.value}: {type(error).__name__}: {error}")
            reason.__cause__ = error
            found.failures.append(Failure(ENTRY_POINT_TYPE, point.name, reason))
            continue
        for registration in registrations:
            candidates.setdefault(registration.uri, []).append((registration, point.value))
    for uri, offers in candidates.items():
        _accept(found, uri, offers)
    return found


def _accept(found: Discovery, uri: str, offers: Sequence[tuple[Registration, str]]) -> None:
    """Take a plugin that one module registered; refuse one that several did, since the order of modules is chance."""
    registration = offers[0][0]
    if len(offers) > 1:
        modules = " and ".join(sorted(module for _, module in offers))
        reason = InvalidArgument(f"plugin {uri} is registered more than once: by {modules}")
        found.failures.append(Failure(registration.type.value, registration.id, reason))
        return
    found.registrations.append(registration)
    found.sources[uri] = offers[0][1]


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> list[Registration]:
    module: Any = point.load()
    try:
        manager.register(module, name=f"{point.name}:{point.value}")
        manager.check_pending()
    except pluggy.PluginValidationError:
        if manager.is_registered(module):
            manager.unregister(module)
        raise
    implementations = [hook for hook in manager.hook.moorage_register.get_hookimpls() if hook.plugin is module]
    if not implementations:
        raise InvalidArgument("implements no hook: expected a function moorage_register() with @hookimpl")
    registrations: list[Registration] = []
    for implementation in implementations:
        returned: Any = implementation.function()
        for registration in returned:
            _check(registration)
            registrations.append(registration)
    return registrations


def _check(registration: object) -> None:
    """Raise `InvalidArgument` for a registration that cannot work, before anything is built on it."""
    if not isinstance(registration, Registration):
        raise InvalidArgument(f"moorage_register returned {registration!r}: expected Registration objects")
    if not isinstance(registration.type, PluginType):
        raise InvalidArgument(f"plugin {registration.id!r} has the type {registration.type!r}: expected a PluginType")
    check_identifier(registration.id, "plugin id")
    config = registration.config
    if config is None:
        return
    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        raise InvalidArgument(f"plugin {registration.uri}: config must be a msgspec.Struct class")
    required = [f.name for f in msgspec.structs.fields(config) if f.required]
    if required or not config.__struct_config__.frozen:
        raise InvalidArgument(
            f"plugin {registration.uri}: config must be frozen, with a default for every field (missing: {required})"
        )
