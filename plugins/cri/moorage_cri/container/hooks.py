"""OCI hooks that the host's operator puts into containers: files of oci-hooks(5), version 1.0.0, in some folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from moorage_api.errors import FailedPrecondition
from moorage_api.oci.spec import Spec

_ENDING = ".json"
_VERSION = "1.0.0"
_FILE_MAX = 1 << 20
_STAGES = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})


class Command(msgspec.Struct, frozen=True):
    """What is run."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class When(msgspec.Struct, frozen=True, rename="camel"):
    """For which containers: all that is given has to hold. Patterns are regular expressions, found anywhere."""

    always: bool | None = None
    annotations: dict[str, str] = {}
    commands: tuple[str, ...] = ()
    has_bind_mounts: bool | None = None

    def matches(self, spec: Spec, annotations: dict[str, str], *, bind_mounts: bool) -> bool:
        """Whether it holds for a container; `bind_mounts` says whether its caller mounts something into it."""
        answers = []
        if self.always is not None:
            answers.append(self.always)
        if self.has_bind_mounts is not None:
            answers.append(self.has_bind_mounts == bind_mounts)
        if self.commands:
            program = spec["process"]["args"][0]
            answers.append(any(re.search(pattern, program) for pattern in self.commands))
        for key, value in self.annotations.items():
            pairs = annotations.items()
            answers.append(any(re.search(key, name) and re.search(value, text) for name, text in pairs))
        return bool(answers) and all(answers)


class Hook(msgspec.Struct, frozen=True):
    """One file."""

    version: str
    hook: Command
    when: When
    stages: tuple[str, ...]


def add(spec: Spec, folders: Sequence[str], annotations: dict[str, str], *, bind_mounts: bool) -> None:
    """Add those hooks that match the container, in the order of their files' names.

    `FailedPrecondition`, naming the file, where one cannot be used: a container must not run without what its host
    demands. This does I/O.
    """
    for path in _files(folders):
        hook = _read(path)
        if hook.when.matches(spec, annotations, bind_mounts=bind_mounts):
            made = _oci(hook.hook)
            for stage in hook.stages:
                spec.setdefault("hooks", {}).setdefault(stage, []).append(made)


def _files(folders: Sequence[str]) -> Iterable[str]:
    """A file of a later folder takes the place of one of the same name in an earlier one."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        found |= {name: os.path.join(folder, name) for name in names if name.endswith(_ENDING)}
    return [found[name] for name in sorted(found, key=lambda name: (name.lower(), name))]


def _read(path: str) -> Hook:
    try:
        with open(path, "rb") as file:
            hook = msgspec.json.decode(file.read(_FILE_MAX), type=Hook)
        for pattern in (*hook.when.commands, *hook.when.annotations, *hook.when.annotations.values()):
            re.compile(pattern)
    except (OSError, msgspec.DecodeError, re.error) as error:
        raise FailedPrecondition(f"OCI hook {path}: {error}") from error
    wrong = set(hook.stages) - _STAGES
    if hook.version != _VERSION or wrong or not hook.stages:
        raise FailedPrecondition(
            f"OCI hook {path}: version {hook.version!r}, stages {', '.join(hook.stages) or 'none'}"
        )
    if not os.access(hook.hook.path, os.X_OK):
        raise FailedPrecondition(f"OCI hook {path}: {hook.hook.path!r} cannot be run")
    return hook


def _oci(command: Command) -> dict[str, Any]:
    made: dict[str, Any] = {"path": command.path, "args": [*command.args] or [command.path]}
    if command.env:
        made["env"] = [*command.env]
    if command.timeout is not None:
        made["timeout"] = command.timeout
    return made
