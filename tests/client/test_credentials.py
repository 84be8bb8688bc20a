"""What docker's own file says of a registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from moorage.cli.credentials import credentials_for, stored_credentials
from moorage_api.transfer import Credentials

AUTH = base64.b64encode(b"me:pass:word").decode()


@pytest.mark.parametrize("key", ["reg:5000", "https://reg:5000", "http://reg:5000", "https://reg:5000/v2/"])
def test_the_key_may_be_written_in_several_ways(key: str) -> None:
    assert credentials_for({"auths": {key: {"auth": AUTH}}}, "reg:5000") == Credentials("me", "pass:word")


def test_docker_hub_has_a_key_of_its_own() -> None:
    config = {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}
    assert credentials_for(config, "registry-1.docker.io") == Credentials("me", "pass:word")
    assert credentials_for(config, "reg:5000") is None


def test_tokens() -> None:
    config = {
        "auths": {"a": {"identitytoken": "t"}, "b": {"registrytoken": "r"}, "c": {"username": "u", "password": "p"}}
    }
    assert credentials_for(config, "a") == Credentials(secret="t")
    assert credentials_for(config, "b") == Credentials(header="Bearer r")
    assert credentials_for(config, "c") == Credentials("u", "p")


@pytest.mark.parametrize(
    "config", [{}, {"auths": []}, {"auths": {"a": 1}}, {"auths": {"a": {}}}, {"auths": {"a": {"auth": "%%"}}}]
)
def test_what_cannot_be_used_is_none(config: dict[str, object]) -> None:
    assert credentials_for(config, "a") is None


async def test_the_file_is_dockers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    source = stored_credentials()
    assert await source("a") is None
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a": {"auth": AUTH}}}))
    assert await source("a") == Credentials("me", "pass:word")
    (tmp_path / "config.json").write_text("not json")
    assert await source("a") is None
