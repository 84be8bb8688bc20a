"""The plugin graph: order, failures that stay where they are, and the way down."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from moorage_api.core import Daemon
from moorage_api.discovery import ENTRY_POINT_TYPE, Discovery, discover
from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_api.plugin import ENTRY_POINTS, PluginType, Registration, SkipPlugin
from mooraged.graph import Graph, Plugin, State, order

CONTENT, METADATA, SNAPSHOTTER, GRPC = (
    PluginType.CONTENT,
    PluginType.METADATA,
    PluginType.SNAPSHOTTER,
    PluginType.GRPC,
)
Init = Callable[[Any], object]


def registration(type: PluginType, id: str, init: Init | None = None, **more: Any) -> Registration:
    return Registration(type, id, init or (lambda _: f"{type.value}.{id}"), **more)


def graph(tmp_path: Path, *registrations: Registration, **more: Any) -> Graph:
    daemon = Daemon("0", tmp_path / "root", tmp_path / "state", "/sock", "/sock.ttrpc")
    configs = {r.uri: r.config() for r in registrations if r.config is not None}
    return Graph(registrations, daemon, configs, **more)


def find(graph: Graph, type: str, id: str) -> Plugin:
    plugin = graph.find(type, id)
    assert plugin is not None
    return plugin


def uris(registrations: Sequence[Registration]) -> list[str]:
    return [r.uri.split(".")[2] + "." + r.id for r in registrations]


def test_the_order_follows_requires_and_wants() -> None:
    grpc = registration(GRPC, "images", requires=[METADATA], wants=[f"{CONTENT.value}.second"])
    metadata = registration(METADATA, "sqlite", requires=[CONTENT, SNAPSHOTTER])
    snapshotter = registration(SNAPSHOTTER, "native")
    first, second = registration(CONTENT, "first", requires=[CONTENT]), registration(CONTENT, "second")
    found = uris(order([grpc, metadata, snapshotter, first, second]))
    assert found.index("content.second") < found.index("content.first") < found.index("metadata.sqlite")
    assert found.index("snapshotter.native") < found.index("metadata.sqlite") < found.index("grpc.images")


def test_a_cycle_is_an_error_that_prints_it() -> None:
    a = registration(CONTENT, "a", requires=[METADATA])
    b = registration(METADATA, "b", requires=["io.containerd.grpc.v1.c"])
    c = registration(GRPC, "c", requires=[CONTENT])
    with pytest.raises(InvalidArgument) as caught:
        order([registration(SNAPSHOTTER, "x"), a, b, c])
    chain = str(caught.value).removeprefix("plugins require one another in a cycle: ").split(" requires ")
    assert len(chain) == 4
    assert chain[0] == chain[-1]
    follows = {a.uri: b.uri, b.uri: c.uri, c.uri: a.uri}
    assert all(follows[one] == other for one, other in pairwise(chain))


async def test_instances_reach_those_who_require_them(tmp_path: Path) -> None:
    async def slow(context: Any) -> object:
        await asyncio.sleep(0)
        return ["slow", context.get(CONTENT)]

    def awaitable(context: Any) -> object:
        return slow(context)

    plugins = graph(
        tmp_path,
        registration(CONTENT, "local"),
        registration(METADATA, "a", slow, requires=[CONTENT]),
        registration(GRPC, "b", awaitable, requires=[CONTENT]),
    )
    await plugins.start()
    expected = ["slow", "io.containerd.content.v1.local"]
    assert plugins.require(METADATA) == plugins.require(GRPC, "b") == expected
    assert [p.state for p in plugins.plugins] == [State.STARTED] * 3


async def test_a_failure_takes_down_only_its_dependents(tmp_path: Path) -> None:
    def fail(_: Any) -> object:
        raise OSError("no space")

    plugins = graph(
        tmp_path,
        registration(CONTENT, "local", fail),
        registration(METADATA, "sqlite", requires=[CONTENT]),
        registration(GRPC, "images", requires=[METADATA]),
        registration(GRPC, "version", wants=[CONTENT]),
    )
    await plugins.start()
    assert find(plugins, CONTENT, "local").state is State.FAILED
    assert str(find(plugins, CONTENT, "local").error) == "OSError: no space"
    images = find(plugins, GRPC, "images")
    assert images.state is State.FAILED
    assert "io.containerd.metadata.v1.sqlite failed" in str(images.error)
    assert "OSError: no space" in str(images.error)
    assert find(plugins, GRPC, "version").state is State.STARTED


async def test_one_of_a_required_type_is_enough(tmp_path: Path) -> None:
    def skip(_: Any) -> object:
        raise SkipPlugin("no overlay here")

    plugins = graph(
        tmp_path,
        registration(SNAPSHOTTER, "overlayfs", skip),
        registration(SNAPSHOTTER, "native"),
        registration(METADATA, "sqlite", lambda c: c.get_all(SNAPSHOTTER), requires=[SNAPSHOTTER]),
        registration(GRPC, "x", requires=[f"{SNAPSHOTTER.value}.overlayfs"]),
    )
    await plugins.start()
    assert plugins.require(METADATA) == {"native": "io.containerd.snapshotter.v1.native"}
    assert str(find(plugins, SNAPSHOTTER, "overlayfs").error) == "no overlay here: skip plugin"
    assert "no overlay here" in str(find(plugins, GRPC, "x").error)


async def test_disabled_and_missing_plugins_are_named_as_the_reason(tmp_path: Path) -> None:
    ran: list[str] = []
    plugins = graph(
        tmp_path,
        registration(CONTENT, "local", lambda _: ran.append("local")),
        registration(METADATA, "sqlite", requires=[CONTENT]),
        registration(GRPC, "x", requires=[SNAPSHOTTER]),
        disabled=["io.containerd.content.v1.local"],
    )
    await plugins.start()
    assert ran == []
    assert "io.containerd.content.v1.local disabled" in str(find(plugins, METADATA, "sqlite").error)
    assert str(find(plugins, GRPC, "x").error) == "no plugin io.containerd.snapshotter.v1 is installed"


async def test_a_hanging_plugin_fails_at_its_deadline(tmp_path: Path) -> None:
    release = threading.Event()

    async def hang(_: Any) -> object:
        await asyncio.sleep(60)
        return None

    plugins = graph(
        tmp_path,
        registration(CONTENT, "thread", lambda _: release.wait(60)),
        registration(CONTENT, "loop", hang),
        registration(CONTENT, "fine"),
        init_deadline=0.2,
    )
    before = time.monotonic()
    await plugins.start()
    release.set()
    assert time.monotonic() - before < 5
    assert str(find(plugins, CONTENT, "thread").error) == "init took longer than 0.2 s"
    assert str(find(plugins, CONTENT, "loop").error) == "init took longer than 0.2 s"
    assert find(plugins, CONTENT, "fine").state is State.STARTED


async def test_ready_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    told: list[str] = []

    def init(context: Any) -> str:
        name = context.config.name

        async def ready() -> None:
            if name == "c":
                raise RuntimeError("not today")
            told.append(f"ready {name}")

        async def stop() -> None:
            told.append(f"stop {name}")

        def close() -> None:
            told.append(f"close {name}")
            if name == "b":
                raise RuntimeError("cannot close")

        context.on_ready(ready)
        context.on_stop(stop)
        context.on_stop(close)
        return str(name)

    def config(name: str) -> Any:
        return msgspec.defstruct("Config", [("name", str, name)], frozen=True)

    plugins = graph(
        tmp_path,
        registration(GRPC, "c", init, requires=[METADATA], config=config("c")),
        registration(METADATA, "b", init, requires=[CONTENT], config=config("b")),
        registration(CONTENT, "a", init, config=config("a")),
    )
    await plugins.start()
    await plugins.ready()
    await plugins.stop(5)
    assert told == ["ready a", "ready b", "close c", "stop c", "close b", "stop b", "close a", "stop a"]
    assert str(find(plugins, GRPC, "c").error) == "RuntimeError: not today"


async def test_one_that_does_not_stop_leaves_the_others_their_turn(tmp_path: Path) -> None:
    told: list[str] = []

    def init(context: Any) -> None:
        async def stop() -> None:
            await asyncio.sleep(60 if context.config.slow else 0)
            told.append("stopped")

        context.on_stop(stop)

    def config(slow: bool) -> Any:
        return msgspec.defstruct("Config", [("slow", bool, slow)], frozen=True)

    plugins = graph(
        tmp_path,
        registration(CONTENT, "a", init, config=config(False)),
        registration(METADATA, "b", init, requires=[CONTENT], config=config(True)),
    )
    await plugins.start()
    before = time.monotonic()
    await plugins.stop(0.3)
    assert time.monotonic() - before < 5
    assert told == ["stopped"]


async def test_a_plugin_gets_what_it_named_and_nothing_else(tmp_path: Path) -> None:
    caught: dict[str, str] = {}

    def init(context: Any) -> None:
        for type, id in ((CONTENT, ""), (CONTENT, "absent"), (METADATA, ""), (SNAPSHOTTER, "native")):
            try:
                caught[f"{type.name} {id}".strip()] = context.get(type, id)
            except (NotFound, FailedPrecondition) as error:
                caught[f"{type.name} {id}".strip()] = error.code.name
        with pytest.raises(FailedPrecondition, match="does not require"):
            context.get_all(METADATA)

    plugins = graph(
        tmp_path,
        registration(CONTENT, "local"),
        registration(SNAPSHOTTER, "native"),
        registration(SNAPSHOTTER, "overlayfs"),
        registration(METADATA, "sqlite"),
        registration(GRPC, "x", init, requires=[CONTENT, f"{SNAPSHOTTER.value}.native"]),
    )
    await plugins.start()
    assert find(plugins, GRPC, "x").error is None
    assert caught == {
        "CONTENT": "io.containerd.content.v1.local",
        "CONTENT absent": "NOT_FOUND",
        "METADATA": "FAILED_PRECONDITION",
        "SNAPSHOTTER native": "io.containerd.snapshotter.v1.native",
    }
    assert plugins.require(SNAPSHOTTER) == "io.containerd.snapshotter.v1.overlayfs"


async def test_folders_are_private_and_made_when_used(tmp_path: Path) -> None:
    def init(context: Any) -> Path:
        folder: Path = context.state
        return folder

    plugins = graph(tmp_path, registration(CONTENT, "local", init))
    await plugins.start()
    folder = tmp_path / "state" / "io.containerd.content.v1.local"
    assert plugins.require(CONTENT) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "root").exists()


# Discovery


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], EntryPoint]]:
    """Makes a module from source text, and an entry point that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def make(name: str, text: str) -> EntryPoint:
        full = f"frame_test_{name}"
        (tmp_path / f"{full}.py").write_text(text)
        names.append(full)
        return EntryPoint(name, full, ENTRY_POINTS)

    yield make
    for name in names:
        sys.modules.pop(name, None)


GOOD = """
from moorage_api.plugin import PluginType, Registration, hookimpl
@hookimpl
def moorage_register():
    return [Registration(PluginType.CONTENT, "{id}", lambda context: None)]
"""


def reasons(found: Discovery) -> dict[str, str]:
    return {failure.id: str(failure.error) for failure in found.failures}


def test_every_module_is_loaded_by_itself(module: Callable[[str, str], EntryPoint]) -> None:
    found = discover(
        [
            module("good", GOOD.format(id="mine")),
            module("broken", "raise RuntimeError('at import')"),
            module("leaves", "import sys; sys.exit(3)"),
            EntryPoint("absent", "frame_test_absent", ENTRY_POINTS),
            module("hookless", ""),
        ]
    )
    assert [r.uri for r in found.registrations] == ["io.containerd.content.v1.mine"]
    assert {failure.type for failure in found.failures} == {ENTRY_POINT_TYPE}
    why = reasons(found)
    assert why["broken"] == "frame_test_broken: RuntimeError: at import"
    assert why["leaves"] == "frame_test_leaves: SystemExit: 3"
    assert "ModuleNotFoundError" in why["absent"]
    assert "implements no hook" in why["hookless"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (GOOD.format(id="x").replace("register()", "register(nonsense)"), "nonsense"),
        (GOOD.format(id="x").replace("moorage_register", "moorage_regster"), "moorage_regster"),
        (GOOD.format(id="a..b"), "invalid plugin id 'a..b'"),
        (GOOD.format(id="x").replace("PluginType.CONTENT", "'io.containerd.content.v1'"), "expected a PluginType"),
        (GOOD.format(id="x").replace("return [", "return [3, "), "expected Registration objects"),
        (GOOD.format(id="x").replace("None)]", "None, config=dict)]"), "msgspec.Struct"),
        (GOOD.format(id="x").replace("return [", "raise KeyError(1)\n    return ["), "KeyError: 1"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(
    module: Callable[[str, str], EntryPoint], text: str, part: str
) -> None:
    found = discover([module("bad", text), module("good", GOOD.format(id="mine"))])
    assert [r.id for r in found.registrations] == ["mine"]
    assert part in reasons(found)["bad"]


def test_a_plugin_registered_twice_is_refused_and_both_are_named(module: Callable[[str, str], EntryPoint]) -> None:
    found = discover([module("one", GOOD.format(id="same")), module("two", GOOD.format(id="same"))])
    assert found.registrations == []
    [failure] = found.failures
    assert (failure.type, failure.id) == ("io.containerd.content.v1", "same")
    assert "by frame_test_one and frame_test_two" in str(failure.error)


def test_what_is_installed_here_can_be_sorted() -> None:
    found = discover()
    assert len(order(found.registrations)) == len(found.registrations)
