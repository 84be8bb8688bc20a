"""Seccomp profiles as docker's users write them, as the OCI specification has them.

Source of the form: https://docs.docker.com/engine/security/seccomp/ (`archMap`, `includes`, `excludes`).
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from moorage_api.errors import InvalidArgument

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def translate(text: str, capabilities: Sequence[str]) -> dict[str, Any]:
    """The profile for this machine and a process with these capabilities. `InvalidArgument` for what is none."""
    try:
        document = json.loads(text)
        rules = [rule for rule in document.get("syscalls") or () if _applies(rule, set(capabilities))]
        profile = {"defaultAction": document["defaultAction"], "syscalls": [_rule(rule) for rule in rules]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"invalid seccomp profile: {type(error).__name__}: {error}") from None
    machine = platform.machine().upper()
    families = [
        entry for entry in document.get("archMap") or () if str(entry.get("architecture", "")).endswith(machine)
    ]
    chosen = [name for entry in families for name in (entry["architecture"], *(entry.get("subArchitectures") or ()))]
    chosen = chosen or list(document.get("architectures") or ())
    further = {"architectures": chosen, "defaultErrnoRet": document.get("defaultErrnoRet")}
    return profile | {key: value for key, value in further.items() if value}


def _applies(rule: Mapping[str, Any], capabilities: set[str]) -> bool:
    """Whether all that a rule includes is here, and nothing that it excludes."""
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    machine = _MACHINES.get(platform.machine(), platform.machine())
    return (
        set(wanted.get("caps") or ()) <= capabilities
        and machine in (wanted.get("arches") or (machine,))
        and _kernel() >= _numbers(wanted.get("minKernel") or "0.0")
        and not set(unwanted.get("caps") or ()) & capabilities
        and machine not in (unwanted.get("arches") or ())
    )


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    names = list(rule.get("names") or ([rule["name"]] if rule.get("name") else ()))
    made: dict[str, Any] = {"names": names, "action": rule["action"]}
    return made | {key: rule[key] for key in ("args", "errnoRet") if rule.get(key) is not None}


def _kernel() -> tuple[int, ...]:
    return _numbers(os.uname().release)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("-", maxsplit=1)[0].split(".")
    return tuple(int(part) for part in parts[:2] if part.isdecimal())
