"""Plugins in every kind of trouble: the daemon starts, says what is wrong with which, and serves everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.fulfilment import contract_problem
from moorage_api.linux.mount import mountinfo, unmount_recursive
from moorage_api.plugin import PluginType
from moorage_snapshotter.native import NativeSnapshotter
from support.ctr import Ctr
from support.daemon import Daemon

_HEAD = """
import os, time
from moorage_api.folder_snapshotter import FolderSnapshotter
from moorage_api.linux import syscalls
from moorage_api.mounts import Mount
from moorage_api.plugin import PluginType, Registration, hookimpl

class Plain(FolderSnapshotter):
    def make(self, snapshot, folder):
        return
    def describe(self, snapshot):
        return [Mount("bind", self.folder(snapshot.id), options=("rbind", "rw"))]

def fail(context):
    raise RuntimeError("no reason")

class Narrow(Plain):
    def prepare(self, key):
        return []

class Absurd(Plain):
    def prepare(self, key, parent="", labels=None):
        return 7
    def stat(self, key):
        raise ZeroDivisionError("of all things")

class Leaking(Plain):
    def prepare(self, key, parent="", labels=None):
        syscalls.mount("leak", str(self.folders), "tmpfs")
        raise OSError("and forgot it")

class Hanging(Plain):
    def prepare(self, key, parent="", labels=None):
        time.sleep(3600)

@hookimpl
def moorage_register():
    return [Registration(PluginType.SNAPSHOTTER, "{id}", {init}, requires={requires})]
"""
# Name: what makes its instance, what it requires, and what `moorage plugin ls` says of it.
PLUGINS = {
    "raises": ("fail", "[]", "RuntimeError: no reason"),
    "needs": ("lambda context: Plain(context.root)", "['io.containerd.content.v1.nobody']", "nobody"),
    "hangs": ("lambda context: time.sleep(3600)", "[]", "init took longer than"),
    "nonsense": ("lambda context: 7", "[]", "init returned a int, which has no method"),
    "narrow": (
        "lambda context: Narrow(context.root)",
        "[]",
        "Narrow.prepare cannot be called as Snapshotter.prepare is",
    ),
    "absurd": ("lambda context: Absurd(context.root)", "[]", ""),
    "leaking": ("lambda context: Leaking(context.root)", "[]", ""),
    "hanging": ("lambda context: Hanging(context.root)", "[]", ""),
}
# Modules that never get as far, and what is said of them.
MODULES = {
    "unimportable": ("import nothing_of_this_name", "No module named"),
    "wordless": ("", "implements no hook"),
    "misheard": (_HEAD.replace("moorage_register()", "moorage_register(what)"), "what"),
    "twice_one": (_HEAD.format(id="twice", init="fail", requires="[]"), ""),
    "twice_two": (_HEAD.format(id="twice", init="fail", requires="[]"), ""),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution with all of them, as pip would have installed it."""
    folder = tmp_path_factory.mktemp("site")
    texts = {name: text for name, (text, _) in MODULES.items()}
    texts |= {name: _HEAD.format(id=name, init=init, requires=needs) for name, (init, needs, _) in PLUGINS.items()}
    for name, text in texts.items():
        (folder / f"bad_{name}.py").write_text(text)
    about = folder / "bad-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    points = "".join(f"{name} = bad_{name}\n" for name in texts)
    (about / "entry_points.txt").write_text(f"[moorage.plugins]\n{points}")
    return folder


class DaemonWith(Daemon):
    """A daemon that has the distributions in `site`."""

    site: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(self.site)}


@pytest.fixture(scope="module")
def daemon(site: Path) -> Iterator[Daemon]:
    daemon = DaemonWith("[timeouts]\nplugin_init = 8.0\n")
    daemon.site = site
    with daemon:
        yield daemon
        unmount_recursive(str(daemon.root))


def listed(daemon: Daemon) -> dict[str, dict[str, str]]:
    lines = daemon.run("moorage", "plugin", "ls", "--format", "json").splitlines()
    return {plugin["ID"]: plugin for plugin in map(json.loads, lines)}


def test_each_is_shown_with_its_reason(daemon: Daemon) -> None:
    errors = {name: plugin["Error"] for name, plugin in listed(daemon).items()}
    for name, (_, _, reason) in PLUGINS.items():
        assert reason in errors[name]
        assert bool(errors[name]) == bool(reason)
    for name, (_, reason) in MODULES.items():
        if reason:
            assert reason in errors[name]
    assert "by bad_twice_one and bad_twice_two" in errors["twice"]


def test_everything_else_works(daemon: Daemon, busybox: str) -> None:
    assert daemon.run("moorage", "run", "--rm", busybox, "echo", "fine") == "fine\n"
    assert daemon.run("moorage", "run", "--rm", "--snapshotter", "native", busybox, "echo", "fine") == "fine\n"


def test_calls_that_fail_are_those_of_the_plugin_alone(daemon: Daemon, busybox: str) -> None:
    ctr = Ctr(daemon, "one")
    assert "TypeError" in ctr.fails("snapshots", "--snapshotter", "absurd", "prepare", "key")
    assert "forgot it" in ctr.fails("snapshots", "--snapshotter", "leaking", "prepare", "key")
    assert "deadline" in ctr.call("--timeout", "1s", "snapshots", "--snapshotter", "hanging", "prepare", "key").stderr
    leaks = [entry.target for entry in mountinfo() if entry.source == "leak" and str(daemon.root) in entry.target]
    assert len(leaks) == 1
    assert daemon.run("moorage", "run", "--rm", busybox, "echo", "fine") == "fine\n"
    ctr("snapshots", "prepare", "key")
    ctr("snapshots", "rm", "key")
    assert daemon.process is not None
    assert daemon.process.poll() is None


def test_what_an_instance_must_be(tmp_path: Path) -> None:
    snapshotter = NativeSnapshotter(tmp_path)
    assert contract_problem(PluginType.SNAPSHOTTER, snapshotter) == ""
    assert "no method" in contract_problem(PluginType.CONTENT, snapshotter)
    assert contract_problem(PluginType.GRPC, 7) == ""
    snapshotter.close()

    class Old(NativeSnapshotter):
        """Written before a commit could have a parent."""

        def commit(self, name: str, key: str, labels: object = None) -> None:  # type: ignore[override]
            return

    old = Old(tmp_path)
    assert contract_problem(PluginType.SNAPSHOTTER, old) == ""
    old.close()
