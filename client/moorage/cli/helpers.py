"""Credential helpers: programs of others that keep passwords, called as docker calls them.

Source of the protocol: https://github.com/docker/docker-credential-helpers: `docker-credential-NAME get|store|erase`, the
question on standard input, the answer as JSON on standard output.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from moorage_api.errors import FailedPrecondition
from moorage_api.transfer import Credentials

PATIENCE = 120.0
"""Seconds that a helper may take: it may ask its user to unlock something."""
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found in native keychain"


def helper_for(config: Mapping[str, Any], key: str) -> str:
    """The program that keeps the credentials of the registry `key`; empty where docker's file keeps them."""
    by_registry = config.get("credHelpers")
    name = by_registry.get(key, "") if isinstance(by_registry, dict) else ""
    name = name or config.get("credsStore", "")
    if not name:
        return ""
    if not isinstance(name, str) or "/" in name:
        raise FailedPrecondition(f"the credential helper {name!r} of docker's configuration is not the name of one")
    return f"docker-credential-{name}"


def get(program: str, key: str) -> Credentials | None:
    """What the helper has for a registry; None for nothing. `FailedPrecondition` where it cannot say."""
    done = _call(program, "get", key)
    text = done.stdout.strip()
    if done.returncode != 0 and text == _NOT_FOUND:
        return None
    _check(program, done)
    try:
        answer = json.loads(text)
        user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    except (ValueError, AttributeError):
        raise FailedPrecondition(f"{program} gave an answer that is none") from None
    if not secret:
        return None
    return Credentials(secret=secret) if user == _TOKEN_USER else Credentials(user, secret)


def store(program: str, key: str, username: str, password: str) -> None:
    """Have the helper keep a password. `FailedPrecondition`."""
    question = json.dumps({"ServerURL": key, "Username": username, "Secret": password})
    _check(program, _call(program, "store", question))


def erase(program: str, key: str) -> None:
    """Have the helper forget a registry. `FailedPrecondition`."""
    done = _call(program, "erase", key)
    if done.stdout.strip() != _NOT_FOUND:
        _check(program, done)


def _call(program: str, verb: str, question: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, verb], input=question, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        raise FailedPrecondition(
            f"docker's configuration names the credential helper {program}: no such program"
        ) from None
    except subprocess.TimeoutExpired:
        raise FailedPrecondition(f"{program} took more than {PATIENCE:.0f} seconds") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"{program} cannot be used: {error}") from None


def _check(program: str, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        said = " ".join(done.stdout.split())[:200]
        raise FailedPrecondition(f"{program} failed{f': {said}' if said else ''}")
