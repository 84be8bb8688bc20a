"""`moorage plugin new`: the project passes its tests, and what it builds is found, configured and used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.templates import KINDS, write_project
from moorage_api.errors import AlreadyExists, InvalidArgument
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon

URI = "io.containerd.snapshotter.v1.copy-cat"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "copy-cat"
    write_project("snapshotter", "copy-cat", folder)
    return folder


@pytest.fixture(scope="module")
def installed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a distribution of its own, in a folder of its own, made by pip without a network."""
    folder = tmp_path_factory.mktemp("site")
    pip_install(project, folder)
    return folder


def pip_install(project: Path, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--no-deps", "--target", folder, project], check=True)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A content store and a differ, each a distribution of its own, installed in one folder."""
    folder = tmp_path_factory.mktemp("stores")
    for kind in ("content", "differ"):
        project = tmp_path_factory.mktemp("projects") / f"my-{kind}"
        write_project(kind, f"my-{kind}", project)
        pip_install(project, folder)
    return folder


class DaemonWith(Daemon):
    """A daemon in whose environment the distributions in `site` are installed."""

    def __init__(self, config: str, site: Path) -> None:
        self.site = site
        super().__init__(config)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(self.site)}


@pytest.fixture(scope="module")
def daemon(installed: Path) -> Iterator[Daemon]:
    daemon = DaemonWith(f'[plugins."{URI}"]\nreflink = "never"\n', installed)
    text = daemon.config_file.read_text()
    cri = '[plugins."io.containerd.grpc.v1.cri"]\n'
    daemon.config_file.write_text(text.replace(cri, f'{cri}snapshotter = "copy-cat"\n'))
    with daemon:
        yield daemon


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_project_passes_its_tests(kind: str, tmp_path: Path) -> None:
    files = write_project(kind, "brand-new", tmp_path / "project")
    source = next(path for path in files if path.name == "plugin.py")
    assert len(source.read_text().splitlines()) <= 100
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "project", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    lint = [sys.executable, "-m", "ruff", "check", "--select", "E,F,B,UP", "--line-length", "120", "src", "tests"]
    checked = subprocess.run(lint, cwd=tmp_path / "project", capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_it_is_found_and_configured(daemon: Daemon) -> None:
    shown = daemon.run("moorage", "plugin", "ls", "id==copy-cat")
    assert "ok" in shown, shown
    dumped = daemon.run("mooraged", "--config", daemon.config_file, "config", "dump")
    assert 'reflink = "never"' in dumped


def test_a_container_and_a_pod_in_two_namespaces(daemon: Daemon, busybox: str) -> None:
    run = ["moorage", "run", "--rm", "--snapshotter", "copy-cat", busybox, "sh", "-c", "echo hi > /new; cat /new"]
    assert daemon.run(*run) == "hi\n"
    with CriClient(daemon.address) as client:
        client.wait_ready()
        client.PullImage(image={"image": busybox})
        config = pod_config("copied")
        pod = client.run_pod(config)
        container = client.start(pod, config, container_config(busybox, "sleep", "1000"))
        assert client.execute(container, "sh", "-c", "echo pod > /new; cat /new").stdout == b"pod\n"
        listed = daemon.run("ctr", "-n", "k8s.io", "snapshots", "--snapshotter", "copy-cat", "ls")
        assert container in listed
        assert container not in daemon.run("ctr", "-n", "default", "snapshots", "--snapshotter", "copy-cat", "ls")
        client.remove_all()
    assert list((daemon.root / URI / "snapshots").iterdir()), "its folder below the daemon's root"


def test_a_content_store_and_a_differ(stores: Path, busybox: str) -> None:
    """The daemon keeps its blobs in the one, and unpacks with the other."""
    tables = '[plugins."io.containerd.service.v1.diff-service"]\ndefault = ["my-differ", "walking"]\n'
    tables += '[plugins."io.containerd.content.v1.my-content"]\ndigits = 3\n'
    daemon = DaemonWith(tables, stores)
    top = 'version = 3\ndisabled_plugins = ["io.containerd.content.v1.content"]\n'
    daemon.config_file.write_text(daemon.config_file.read_text().replace("version = 3\n", top))
    with daemon:
        assert daemon.run("moorage", "run", "--rm", busybox, "sh", "-c", "echo hi > /new; cat /new") == "hi\n"
        blobs = list((daemon.root / "io.containerd.content.v1.my-content/blobs/sha256").glob("*/*"))
        assert blobs
        assert all(blob.name.startswith(blob.parent.name) and len(blob.parent.name) == 3 for blob in blobs)
        # What the differ passes on: making a layer.
        assert daemon.run("moorage", "run", "--name", "box", busybox, "touch", "/made") == ""
        assert daemon.run("moorage", "commit", "box", "made:latest").strip()
        assert daemon.run("moorage", "run", "--rm", "made:latest", "ls", "/made") == "/made\n"
        daemon.run("moorage", "rm", "box")


def test_served_to_others(installed: Path, short_tmp: Path) -> None:
    from moorage_api.remote.channel import Channel
    from moorage_api.remote.snapshotter import RemoteSnapshotter

    address = short_tmp / "s.sock"
    command = [sys.executable, "-c", "from moorage.cli import main; main()", "plugin", "serve", "copy-cat"]
    process = subprocess.Popen(
        [*command, "--address", str(address), "--root", str(short_tmp / "root")],
        env={**os.environ, "PYTHONPATH": str(installed)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert f"serving {URI}" in process.stderr.readline()
        channel = Channel("copy-cat", str(address))
        assert RemoteSnapshotter(channel, "copy-cat").prepare("key")
        channel.close()
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("name", ["Upper", "1st", "a_b", "", "a/b", "dotted.name"])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        write_project("snapshotter", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(project: Path) -> None:
    with pytest.raises(AlreadyExists, match="not empty"):
        write_project("snapshotter", "copy-cat", project)
