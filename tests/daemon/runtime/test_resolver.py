"""From names of runtimes to launchers and options, and the default OCI runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unimplemented
from moorage_api.shim import Bootstrap
from moorage_api.types import TypedValue
from moorage_api.wire.bootstrap_pb2 import BootstrapResult
from moorage_api.wire.runc_options_pb2 import Options
from moorage_shim.launcher import ZygoteLauncher
from mooraged.runtime.config import RuntimeConfig, RuntimeEntry
from mooraged.runtime.foreign import ForeignLauncher, parse_start
from mooraged.runtime.jobs import Jobs
from mooraged.runtime.oci_runtime import DefaultRuntime
from mooraged.runtime.resolver import Resolver

DEBIANS = "/usr/bin/containerd-shim-runc-v2"


def resolver(*, oci: tuple[str, ...] = ("runc",), **runtimes: RuntimeEntry) -> Resolver:
    entries = {f"io.containerd.{name}.v2": entry for name, entry in runtimes.items()}
    default = DefaultRuntime(oci, Jobs())
    return Resolver(RuntimeConfig(runtimes=entries), {"moorage": ZygoteLauncher()}, default, Path("/state/oci"))


def options(value: TypedValue | None) -> Options:
    assert value is not None
    assert value.type_url == "containerd.runc.v1.Options"
    return Options.FromString(value.value)


@pytest.mark.parametrize("name", ["", "io.containerd.runc.v2", "io.moorage.v2", "io.containerd.moorage.v2"])
async def test_our_own_names(name: str) -> None:
    handler = await resolver().resolve(name, None)
    assert handler.launcher_id == "moorage"
    assert options(handler.options) == Options(binary_name="/usr/sbin/runc", root="/state/oci")


async def test_a_name_may_be_given_to_another_shim() -> None:
    handler = await resolver(runc=RuntimeEntry(shim="containerd-shim-runc-v2")).resolve("io.containerd.runc.v2", None)
    assert handler.launcher_id == DEBIANS
    assert isinstance(handler.launcher, ForeignLauncher)
    assert options(handler.options) == Options(root="/state/oci")


@pytest.mark.parametrize("name", [DEBIANS, "io.debian.runc.v2"])
async def test_binaries_by_path_and_by_name(name: str) -> None:
    assert (await resolver().resolve(name, None)).launcher_id == DEBIANS


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("io.containerd.gone.v1", NotFound),
        ("runc", InvalidArgument),
        ("/etc", InvalidArgument),
        ("bin/sh", InvalidArgument),
        ("../containerd-shim-runc-v2", InvalidArgument),
        ("io.containerd.runc v2", InvalidArgument),
    ],
)
async def test_names_that_lead_nowhere(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await resolver().resolve(name, None)


async def test_what_the_client_says_wins() -> None:
    given = TypedValue(
        "types.containerd.io/containerd.runc.v1.Options",
        Options(binary_name="/bin/mine", no_pivot_root=True).SerializeToString(),
    )
    entry = RuntimeEntry(binary="crun", root="/elsewhere", systemd_cgroup=True, options={"no_new_keyring": True})
    handler = await resolver(special=RuntimeEntry(), runc=entry).resolve("io.containerd.runc.v2", given)
    assert options(handler.options) == Options(
        binary_name="/bin/mine", root="/elsewhere", systemd_cgroup=True, no_new_keyring=True, no_pivot_root=True
    )


async def test_options_of_other_types_are_passed_as_they_are(tmp_path: Path) -> None:
    binary = tmp_path / "containerd-shim-runsc-v1"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    given = TypedValue("runtimeoptions.v1.Options", b"\x12\x01x")
    assert (await resolver().resolve(str(binary), given)).options == given
    assert (await resolver().resolve(str(binary), None)).options is None


async def test_options_that_cannot_be_read() -> None:
    with pytest.raises(InvalidArgument):
        await resolver().resolve("", TypedValue("containerd.runc.v1.Options", b"\xff"))


def test_an_unknown_option_in_the_configuration() -> None:
    with pytest.raises(InvalidArgument, match=r"io\.containerd\.odd.v2.*colour"):
        resolver(odd=RuntimeEntry(options={"colour": "blue"}))


async def test_the_first_oci_runtime_that_works_is_the_default(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    jobs = Jobs()
    assert await DefaultRuntime(("no-such-runtime", str(broken), "runc"), jobs).path() == "/usr/sbin/runc"
    with pytest.raises(FailedPrecondition, match=r"no-such-runtime: not installed; .*exits with 3"):
        await DefaultRuntime(("no-such-runtime", str(broken)), jobs).path()


@pytest.mark.parametrize(
    ("output", "bootstrap"),
    [
        (b"unix:///run/s/1\n", Bootstrap("unix:///run/s/1", 2)),
        (b'{"version":3,"address":"unix:///a","protocol":"ttrpc"}', Bootstrap("unix:///a", 3)),
        (b'{"version":2,"address":"unix:///a","protocol":"grpc"}', Bootstrap("unix:///a", 2, "grpc")),
        (
            BootstrapResult(version=3, address="unix:///a", protocol="ttrpc").SerializeToString(),
            Bootstrap("unix:///a", 3),
        ),
    ],
)
def test_what_a_shim_prints(output: bytes, bootstrap: Bootstrap) -> None:
    assert parse_start(output) == bootstrap


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (b"  \n", Unavailable),
        (b'{"version":3}', Unavailable),
        (b"{nonsense", Unavailable),
        (b'{"version":4,"address":"unix:///a"}', Unimplemented),
    ],
)
def test_what_a_shim_should_not_print(output: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_start(output)
