"""What is below images and containers: `snapshot`, `content`, `lease`, `plugin`; and `import`."""

from __future__ import annotations

import bz2
import gzip
import http.server
import json
import lzma
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from support.images import busybox_layer

from .conftest import Cli


def test_snapshots(cli: Cli) -> None:
    id = cli("create", cli.image, "true").strip()
    keys = cli("snapshot", "ls", "-q").split()
    assert id in keys
    assert cli("snapshot", "ls", "-q", "--filter", "kind==active").split() == [id]
    assert cli("snapshot", "ls", "-s").splitlines()[0].split() == ["KEY", "PARENT", "KIND", "SIZE"]
    shown = json.loads(cli("snapshot", "inspect", id))[0]
    assert (shown["Kind"], shown["Parent"] in keys, shown["Inodes"] >= 1) == ("active", True, True)
    assert cli("snapshot", "mounts", id, "/mnt").startswith("mount -t overlay overlay /mnt -o ")
    assert cli.call("snapshot", "rm", shown["Parent"]).returncode == 1
    cli("rm", id)
    assert cli.call("snapshot", "inspect", id).returncode == 1
    assert cli("snapshot", "rm", "-f", id) == ""
    assert cli.call("snapshot", "ls", "--snapshotter", "none").returncode == 1


def test_content(cli: Cli) -> None:
    digests = cli("content", "ls", "-q").split()
    config = cli("images", "-q", "--no-trunc").strip()
    assert config in digests
    assert json.loads(cli("content", "cat", config))["config"]["Cmd"] == ["sh"]
    shown = json.loads(cli("content", "inspect", config))[0]
    assert (shown["Digest"], shown["Size"] > 0) == (config, True)
    assert cli("content", "active", "-q") == ""
    assert cli.call("content", "abort", "nothing").returncode == 1
    assert cli("content", "ls", "--filter", "labels.none==x").split() == ["DIGEST", "SIZE", "AGE"]
    assert cli("content", "rm", config) == f"{config}\n"
    assert cli.call("content", "cat", config).returncode == 1


def test_leases(cli: Cli) -> None:
    assert cli("lease", "create", "--expires", "1h", "--label", "a=b", "mine") == "mine\n"
    shown = json.loads(cli("lease", "inspect", "mine"))[0]
    assert (shown["Labels"]["a"], shown["Resources"], "containerd.io/gc.expire" in shown["Labels"]) == ("b", [], True)
    assert cli("lease", "ls", "-q") == "mine\n"
    assert cli.call("lease", "create", "mine").returncode == 1
    assert cli("lease", "rm", "--sync", "mine") == "mine\n"
    assert cli.call("lease", "inspect", "mine").returncode == 1
    assert cli("lease", "rm", "-f", "mine") == ""


def test_plugins_and_namespaces_are_described(cli: Cli) -> None:
    shown = json.loads(cli("plugin", "inspect", "io.containerd.snapshotter.v1.overlayfs"))[0]
    assert (shown["ID"], shown["Status"]) == ("overlayfs", "ok")
    assert cli.call("plugin", "inspect", "nothing").returncode == 1
    assert "io.containerd.grpc.v1.tasks" in cli("plugin", "ls", "-q").split()
    cli("namespace", "create", "seen", "a=b")
    assert json.loads(cli("namespace", "inspect", "seen")) == [{"Name": "seen", "Labels": {"a": "b"}}]
    assert cli.call("namespace", "inspect", "unseen").returncode == 1
    cli("namespace", "rm", "seen")


_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstandard.ZstdCompressor(1).compress(data),
}


@pytest.mark.parametrize("how", _COMPRESSIONS)
def test_a_root_file_system_becomes_an_image(cli: Cli, tmp_path: Path, how: str) -> None:
    path = tmp_path / "rootfs"
    path.write_bytes(_COMPRESSIONS[how](busybox_layer()))
    id = cli("import", "-c", 'CMD ["echo", "made"]', "-c", "ENV A=b", "-m", "a tar", str(path), f"{how}:1").strip()
    assert cli("images", "-q", "--no-trunc", f"{how}:1").strip() == id
    assert cli("run", "--rm", "--pull", "never", f"{how}:1") == "made\n"
    assert "a tar" in cli("history", f"{how}:1")


def test_what_is_no_root_file_system_is_refused(cli: Cli, tmp_path: Path) -> None:
    before = set(cli("content", "ls", "-q").split())
    broken = {
        "text": b"no tar at all" * 1000,
        "short": gzip.compress(busybox_layer())[:5000],
        "corrupt": b"BZh9" + bytes(1000),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        done = cli.call("import", str(tmp_path / name), f"{name}:1")
        assert (done.returncode, done.stderr.count("\n"), done.stderr[:9]) == (1, 1, "moorage: ")
    assert cli.call("import", str(tmp_path / "nothing"), "nothing:1").returncode == 1
    assert cli("images", "--format", "{{.Repository}}").split() == [cli.image.rpartition(":")[0]]
    assert set(cli("content", "ls", "-q").split()) == before


def test_a_root_file_system_comes_from_the_network(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(busybox_layer())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is told."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            cli("import", f"{url}/rootfs.tar", "remote:1")
            assert "cannot read" in cli.call("import", f"{url}/absent", "absent:1").stderr
        finally:
            server.shutdown()
            serving.join()
    assert cli("run", "--rm", "remote:1", "echo", "there") == "there\n"
