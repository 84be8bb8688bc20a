"""Docker's first image format: a chain of JSON documents, one a layer, that becomes the configuration of today.

It lives on in registries, as schema 1, and in archives that `docker save` wrote before 1.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_KEPT = ("architecture", "os", "variant", "os.version", "os.features", "created", "author", "config", "docker_version")


def is_empty(step: Mapping[str, Any]) -> bool:
    """Whether a step of the chain changed no files, so that its layer is left out."""
    return step.get("throwaway") is True


def config_of(chain: Sequence[Mapping[str, Any]], diff_ids: Sequence[str]) -> bytes:
    """The configuration of the image that a chain ends with; `diff_ids` are those of its steps that are not empty."""
    top = chain[-1]
    config = {key: top[key] for key in _KEPT if top.get(key) is not None}
    config.setdefault("architecture", "amd64")
    config.setdefault("os", "linux")
    config["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    config["history"] = [_history(step) for step in chain]
    return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()


def _history(step: Mapping[str, Any]) -> dict[str, Any]:
    made = step.get("container_config")
    command = made.get("Cmd") if isinstance(made, dict) else None
    known = {
        "created": step.get("created"),
        "author": step.get("author"),
        "comment": step.get("comment"),
        "created_by": " ".join(map(str, command)) if isinstance(command, list) else None,
        "empty_layer": is_empty(step) or None,
    }
    return {key: value for key, value in known.items() if value}
