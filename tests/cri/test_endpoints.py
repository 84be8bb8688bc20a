"""Sockets for the runtime and the image service alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import pytest

from moorage_api.errors import Code, MoorageError
from support.cri import CriClient, configured
from support.daemon import Daemon


def endpoints(runtime: str, image: str) -> Daemon:
    return configured(f'runtime_endpoint = "{runtime}"\nimage_endpoint = "{image}"')


@pytest.fixture(scope="module")
def apart() -> Iterator[Daemon]:
    with endpoints("unix://HERE/runtime.sock", "HERE/image.sock") as daemon:
        yield daemon


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_each_has_its_own_service_and_the_daemon_s_has_both(apart: Daemon, version: str) -> None:
    with (
        CriClient(f"{apart.folder}/runtime.sock", version) as runtime,
        CriClient(f"unix://{apart.folder}/image.sock", version) as image,
        CriClient(apart.address, version) as both,
    ):
        assert runtime.Version().runtime_name == both.Version().runtime_name == "moorage"
        assert list(image.ListImages().images) == list(both.ListImages().images) == []
        assert _code(runtime.ListImages) is Code.UNIMPLEMENTED
        assert _code(image.Version) is Code.UNIMPLEMENTED
    for name in ("runtime.sock", "image.sock"):
        assert stat.S_IMODE(os.stat(apart.folder / name).st_mode) == 0o600


def test_a_killed_daemon_leaves_nothing_in_the_way(apart: Daemon) -> None:
    apart.kill()
    apart.start()
    with CriClient(f"{apart.folder}/runtime.sock") as runtime:
        runtime.wait_ready()


def test_both_on_one_socket_or_on_the_daemon_s_own(busybox: str) -> None:
    with endpoints("HERE/cri.sock", "HERE/cri.sock") as daemon, CriClient(f"{daemon.folder}/cri.sock") as cri:
        cri.PullImage(image={"image": busybox})
        assert len(cri.ListImages().images) == 1
        assert cri.Version().runtime_name == "moorage"
        daemon.config_file.write_text(daemon.config_file.read_text().replace("cri.sock", "moorage.sock"))
        daemon.restart()
        with CriClient(daemon.address) as again:
            assert len(again.ListImages().images) == 1


def test_another_daemon_s_socket_is_left_alone(apart: Daemon) -> None:
    other = endpoints(f"{apart.folder}/runtime.sock", "")
    try:
        with pytest.raises(RuntimeError, match="in use by another daemon"):
            other.start()
    finally:
        other.close()
    with CriClient(f"{apart.folder}/runtime.sock") as runtime:
        assert runtime.Version().runtime_name == "moorage"
