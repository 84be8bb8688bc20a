"""Adjust an OCI configuration to what this machine allows, just before the OCI runtime reads it.

Without CAP_SYS_RESOURCE the kernel refuses a lower oom_score_adj and higher hard limits than one has. A container that
asks for them would not start at all; it starts with the nearest value instead, and the shim's log says so.
"""

from __future__ import annotations

import functools
import json
import os
import re
import resource
from typing import Any

from moorage_shim import log
from moorage_shim.spawning import get_oom_score, set_oom_score

_CAP_SYS_RESOURCE = 24
_VERSION = "1.0.2"
# Versions that `lower_version` may lower: in a configuration, and in its text, so that nearly none has to be parsed for it.
_NEW_VERSION = re.compile(r"1\.[1-9]")
_NEW_VERSION_IN_TEXT = re.compile(rb'"ociVersion"\s*:\s*"1\.[1-9]')


def adjust_bundle(bundle: str) -> int | None:
    """Adjust `config.json` of a bundle in place, if something in it would fail; returns the OOM score that the runtime
    needs to begin with, None for the shim's."""
    path = os.path.join(bundle, "config.json")
    clamp = not _may_raise_limits()
    score = None if clamp else _neutral_oom_score()
    with open(path, "rb") as file:
        data = file.read()
    if not clamp and _NEW_VERSION_IN_TEXT.search(data) is None:
        return score
    config = json.loads(data)
    lowered = lower_version(config)
    changes: list[str] = []
    if clamp:
        score, changes = adjust_process(config.get("process") or {})
        if changes:
            log.warning(f"without CAP_SYS_RESOURCE: {'; '.join(changes)}")
    if changes or lowered:
        replace_file(path, json.dumps(config).encode())
    return score


def lower_version(config: dict[str, Any]) -> bool:
    """Let a configuration name the version of the specification that it needs, not the one that its author knows: an older
    runtime refuses a version that is newer than itself, whatever is in the configuration. Whether it was changed.

    One that uses something newer than 1.0.2 is left as it is: a runtime that does not know it must refuse it.
    """
    if _NEW_VERSION.match(str(config.get("ociVersion"))) is None or _uses_news(config):
        return False
    config["ociVersion"] = _VERSION
    return True


def _uses_news(config: dict[str, Any]) -> bool:
    """Whether something is set that came with 1.1 or later (OCI runtime specification, ChangeLog)."""
    linux = config.get("linux") or {}
    resources = linux.get("resources") or {}
    parts = [
        (config, ("domainname",)),
        (config.get("process") or {}, ("scheduler", "ioPriority", "execCPUAffinity")),
        (linux, ("timeOffsets", "netDevices", "memoryPolicy")),
        (linux.get("seccomp") or {}, ("listenerPath",)),
        (resources.get("cpu") or {}, ("idle", "burst")),
        (resources.get("memory") or {}, ("checkBeforeUpdate",)),
        *((mount, ("uidMappings", "gidMappings")) for mount in config.get("mounts") or ()),
    ]
    return any(part.get(name) for part, names in parts for name in names)


def exec_process(process_spec: bytes, *, terminal: bool) -> tuple[bytes, int | None]:
    """An exec's `process` for the runtime to read, adjusted alike, and the OOM score as `adjust_bundle` has it; its
    `terminal` is what the request says."""
    process = json.loads(process_spec)
    process["terminal"] = terminal
    score = _neutral_oom_score() if _may_raise_limits() else adjust_process(process)[0]
    return json.dumps(process).encode(), score


def write_exec(path: str, process_spec: bytes, *, terminal: bool) -> int | None:
    """Write the `exec_process`; returns the OOM score."""
    process, score = exec_process(process_spec, terminal=terminal)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(process)
    return score


def adjust_process(process: dict[str, Any]) -> tuple[int | None, list[str]]:
    """Clamp an OCI `process`; returns the OOM score that the runtime needs, and what was changed, in words.

    The runtime inherits the score, and gives its child the same.
    """
    changes = []
    wanted = process.get("oomScoreAdj")
    score = _neutral_oom_score() if wanted is None else wanted
    if wanted is not None and not _may_have_oom_score(wanted):
        score = process["oomScoreAdj"] = get_oom_score()
        changes.append(f"oomScoreAdj {wanted} became {score}")
    for limit in process.get("rlimits") or ():
        change = _clamp(limit)
        if change:
            changes.append(change)
    return score, changes


def _clamp(limit: dict[str, Any]) -> str:
    number = getattr(resource, str(limit.get("type")), None)
    if number is None:
        return ""
    _, allowed = resource.getrlimit(number)
    hard = limit.get("hard", 0)
    if allowed == resource.RLIM_INFINITY or hard <= allowed:
        return ""
    limit["hard"] = allowed
    limit["soft"] = min(limit.get("soft", 0), allowed)
    return f"{limit['type']} {hard} became {allowed}"


@functools.cache
def _may_raise_limits() -> bool:
    """A process's capabilities do not come back."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def _may_have_oom_score(score: int) -> bool:
    """Tried out on this process, since nothing tells how low the kernel lets it go; back is always allowed."""
    own = get_oom_score()
    try:
        set_oom_score(score)
        set_oom_score(own)
    except PermissionError:
        return False
    return True


def _neutral_oom_score() -> int | None:
    """A container without a wish must not inherit the shim's protection."""
    return 0 if get_oom_score() < 0 else None


def replace_file(path: str, data: bytes) -> None:
    """Write a file anew under its name, with the old file's mode and owner."""
    before = os.stat(path)
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        os.fchmod(fd, before.st_mode & 0o7777)
        os.fchown(fd, before.st_uid, before.st_gid)
        file.write(data)
    os.rename(temporary, path)
