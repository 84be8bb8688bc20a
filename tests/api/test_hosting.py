"""Finding and starting one plugin alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api import hosting
from moorage_api.discovery import Discovery, Failure
from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_api.plugin import PluginType, Registration, SkipPlugin
from moorage_api.snapshots import Snapshotter


def registration(init: object, id: str = "mine", type: PluginType = PluginType.SNAPSHOTTER) -> Registration:
    return Registration(type, id, init)  # type: ignore[arg-type]


def test_by_id_and_by_whole_name() -> None:
    assert hosting.find("native") is not None
    assert hosting.find("io.containerd.snapshotter.v1.native").id == "native"


def test_what_cannot_be_served() -> None:
    with pytest.raises(NotFound, match=r"nobody is installed .*io\.containerd\.snapshotter\.v1\.native"):
        hosting.find("nobody")
    with pytest.raises(NotFound):
        hosting.find("cri")
    two = Discovery([registration(None), registration(None, type=PluginType.CONTENT)])
    with pytest.raises(InvalidArgument, match="several"):
        hosting.find("mine", two)
    broken = Discovery(failures=[Failure("io.moorage.entrypoint.v1", "mine", InvalidArgument("no module"))])
    with pytest.raises(FailedPrecondition, match="no module"):
        hosting.find("mine", broken)


def test_start_with_a_configuration(tmp_path: Path) -> None:
    snapshotter, context = hosting.start(
        hosting.find("native"), tmp_path / "root", tmp_path / "state", f'root_path = "{tmp_path}/other"'
    )
    assert isinstance(snapshotter, Snapshotter)
    assert context.exports == {"root": f"{tmp_path}/other"}
    context.stop()


@pytest.mark.parametrize("text", ["nonsense", "unknown = 1", 'durable = "yes"'])
def test_a_configuration_that_does_not_hold(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="native"):
        hosting.start(hosting.find("native"), tmp_path / "root", tmp_path / "state", text)
    with pytest.raises(InvalidArgument, match="content"):
        hosting.start(hosting.find("content"), tmp_path / "root", tmp_path / "state", text)


def test_plugins_that_do_not_start(tmp_path: Path) -> None:
    def skip(context: object) -> None:
        raise SkipPlugin("no such file system")

    def fail(context: object) -> None:
        raise ZeroDivisionError("by zero")

    def require(context: hosting.LoneContext) -> None:
        context.get(PluginType.CONTENT)

    for init, error, reason in (
        (skip, FailedPrecondition, "no such file system"),
        (fail, FailedPrecondition, "ZeroDivisionError: by zero"),
        (require, NotFound, "served alone"),
    ):
        with pytest.raises(error, match=reason):
            hosting.start(registration(init), tmp_path / "root", tmp_path / "state")
