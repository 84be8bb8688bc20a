"""`moorage_cri.config`, and credentials that come with a pull."""

from __future__ import annotations

import base64

import msgspec
import pytest

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.transfer import Credentials
from moorage_api.wire import cri_pb2
from moorage_api.wire.runc_options_pb2 import Options
from moorage_cri.config import Config
from moorage_cri.image.auth import source


def test_handlers_become_runtimes() -> None:
    config = Config()
    config.check()
    assert config.handler("").runtime().options is None
    crun = config.handler("crun").runtime()
    assert crun.name == "io.containerd.runc.v2"
    assert crun.options is not None
    assert crun.options.type_url == "containerd.runc.v1.Options"
    assert Options.FromString(crun.options.value).binary_name == "crun"
    with pytest.raises(NotFound, match=r"'kata' is configured \(there are: crun, default, runc\)"):
        config.handler("kata")


def test_containerd_s_keys_are_read() -> None:
    text = b"""
    default_runtime_name = "kata"
    [runtimes.kata]
    runtime_type = "io.containerd.kata.v2"
    pod_annotations = ["io.katacontainers.*"]
    [runtimes.kata.options]
    BinaryName = "x"
    SystemdCgroup = true
    [cni]
    bin_dirs = ["/a", "/b"]
    """
    config = msgspec.toml.decode(text, type=Config)
    config.check()
    options = config.handler("").runtime().options
    assert options is not None
    assert Options.FromString(options.value) == Options(binary_name="x", systemd_cgroup=True)
    assert config.cni.bin_dirs == ("/a", "/b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_runtime_name": "x"},
        {"unset_seccomp_profile": "some"},
        {"runtime_endpoint": "tcp://0.0.0.0:1"},
        {"image_endpoint": f"/{'x' * 107}"},
    ],
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        msgspec.convert(wrong, Config).check()


@pytest.mark.parametrize("wrong", [{"cni": {"timeout": 0}}, {"cni": {"ip_pref": "ipx"}}, {"unknown": 1}])
def test_a_wrong_value_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Config)


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (cri_pb2.AuthConfig(username="u", password="p"), Credentials("u", "p")),
        (cri_pb2.AuthConfig(auth=base64.b64encode(b"u:p:q").decode()), Credentials("u", "p:q")),
        (cri_pb2.AuthConfig(identity_token="t"), Credentials(secret="t")),
        (cri_pb2.AuthConfig(registry_token="t"), Credentials(header="Bearer t")),
        (cri_pb2.AuthConfig(), None),
    ],
)
async def test_credentials(auth: cri_pb2.AuthConfig, expected: Credentials | None) -> None:
    assert await source(auth)("r.example:5000") == expected


@pytest.mark.parametrize("address", ["https://r.example:5000/v2", "r.example:5000"])
async def test_credentials_are_for_their_registry_alone(address: str) -> None:
    ask = source(cri_pb2.AuthConfig(username="u", password="p", server_address=address))
    assert await ask("r.example:5000") == Credentials("u", "p")
    assert await ask("other.example") is None


@pytest.mark.parametrize("text", ["%%%", base64.b64encode(b"nocolon").decode(), base64.b64encode(b"\xff:").decode()])
def test_malformed_credentials_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        source(cri_pb2.AuthConfig(auth=text))
