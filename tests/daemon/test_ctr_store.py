"""`ctr images`, `content`, `snapshots` and `leases` of Debian's `ctr` (1.6)."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux import mount
from support.ctr import Ctr, lines
from support.images import ImageSpec, digest_of
from support.registry import Registry
from support.terminal import wait_until


def raw(ctr: Ctr, *words: str) -> bytes:
    """The output of a command that prints no text."""
    command = ["ctr", "-n", ctr.namespace, *words]
    return subprocess.run(
        command, env=ctr.daemon.environment, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60
    ).stdout


def chain(ctr: Ctr) -> str:
    """The snapshot of the image."""
    return digest_of(ImageSpec().layers[0])


class TestImages:
    """Images in and out, and other forms of them."""

    def test_export_and_import(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        archive = tmp_path / "image.tar"
        ctr("images", "export", str(archive), pulled)
        with tarfile.open(archive) as tar:
            assert {"index.json", "manifest.json", "oci-layout"} <= set(tar.getnames())
        other = Ctr(ctr.daemon, "imported")
        other("images", "import", str(archive))
        assert other("images", "ls", "-q").split() == [pulled]
        assert other.once("--rm", pulled, "from-archive", "echo", "imported").stdout == "imported\n"

    def test_tag_label_push(self, ctr: Ctr, pulled: str, registry: Registry) -> None:
        copy = f"{registry.address}/pushed:1"
        ctr("images", "tag", pulled, copy)
        assert "already exists" in ctr.fails("images", "tag", pulled, copy)
        ctr("images", "label", copy, "purpose=test")
        assert "purpose=test" in ctr("images", "ls", f"name=={copy}")
        ctr("images", "push", "--plain-http", copy)
        other = Ctr(ctr.daemon, "fetched")
        other("images", "pull", "--plain-http", copy)
        rows = {row[0]: row[2] for row in lines(ctr("images", "ls"))}
        assert [row[2] for row in lines(other("images", "ls"))] == [rows[pulled]]
        ctr("images", "rm", "--sync", copy)

    def test_mount(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        folder = tmp_path / "image"
        folder.mkdir()
        ctr("images", "mount", pulled, str(folder))
        assert (folder / "etc" / "passwd").is_file()
        ctr("images", "unmount", "--rm", str(folder))
        assert not mount.is_mountpoint(str(folder))
        folder.rmdir()

    def test_convert(self, ctr: Ctr, pulled: str) -> None:
        ctr("images", "convert", "--uncompress", "--platform", "linux/amd64", pulled, "localhost/plain:1")
        [row] = lines(ctr("images", "ls", "name==localhost/plain:1"))
        [layer] = json.loads(ctr("content", "get", row[2]))["layers"]
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
        assert layer["digest"] == digest_of(ImageSpec().layers[0])
        assert ctr.once("localhost/plain:1", "converted", "echo", "plain").stdout == "plain\n"
        ctr("images", "rm", "--sync", "localhost/plain:1")
        assert layer["digest"] not in ctr("content", "ls", "-q")


class TestContent:
    """Blobs, and ingests on their way."""

    def test_fetch_into_another_namespace(self, ctr: Ctr, pulled: str) -> None:
        """What comes with `fetch` is not unpacked."""
        other = Ctr(ctr.daemon, "content-only")
        other("content", "fetch", "--plain-http", pulled)
        assert len(lines(other("content", "ls"))) == 3
        assert lines(other("snapshots", "ls")) == []
        digest = digest_of(ImageSpec().manifest())
        assert raw(other, "content", "fetch-object", "--plain-http", pulled, digest) == ImageSpec().manifest()
        assert "Pushed" in other("content", "push-object", "--plain-http", pulled, digest)
        other("content", "prune", "references")
        layer = digest_of(ImageSpec().blobs()[1][0])
        wait_until(lambda: layer not in other("content", "ls", "-q"), "the layer is collected")
        assert digest in other("content", "ls", "-q")

    def test_ingest(self, ctr: Ctr) -> None:
        data = b"some bytes\n"
        ctr("content", "ingest", "--expected-size", str(len(data)), "whole", input=data.decode())
        short = ctr.call("content", "ingest", "--expected-size", str(len(data) + 1), "short", input=data.decode())
        assert "unexpected EOF" in short.stderr
        wrong = ctr.call("content", "ingest", "--expected-digest", digest_of(b""), "wrong", input="other\n")
        assert wrong.returncode == 1
        assert "unexpected commit digest" in wrong.stderr or "failed precondition" in wrong.stderr, wrong.stderr
        assert "short" in [row[0] for row in lines(ctr("content", "active"))]

    def test_an_ingest_is_seen_while_it_grows(self, ctr: Ctr) -> None:
        command = ["ctr", "content", "ingest", "growing"]
        writer = subprocess.Popen(
            command, env=ctr.daemon.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=False
        )
        assert writer.stdin is not None
        data = bytes(2 << 20)
        writer.stdin.write(data)
        writer.stdin.flush()

        def seen() -> bool:
            return any(row[0] == "growing" and row[1].endswith("MB") for row in lines(ctr("content", "active")))

        wait_until(seen, "it is listed with its size")
        writer.stdin.close()
        assert writer.wait(timeout=30) == 0
        assert "growing" not in ctr("content", "active")

    def test_label_edit_and_remove(self, ctr: Ctr, pulled: str) -> None:
        digest = digest_of(ImageSpec().manifest())
        assert "note=x" in ctr("content", "label", digest, "note=x")
        assert "note=x" in next(row for row in ctr("content", "ls").splitlines() if digest in row)
        edited = ctr("content", "edit", "--editor", "truncate -s 10", digest).strip()
        assert edited == digest_of(ImageSpec().manifest()[:10])


class TestSnapshots:
    """The snapshotter by hand."""

    @pytest.fixture
    def work(self, ctr: Ctr, pulled: str, tmp_path: Path) -> Iterator[str]:
        """An active snapshot on the image, with one file more and one less."""
        name = f"work-{tmp_path.name}"
        ctr("snapshots", "prepare", name, chain(ctr))
        folder = tmp_path / "mounted"
        folder.mkdir()
        command = shlex.split(ctr("snapshots", "mounts", str(folder), name))
        assert command[0] == "mount"
        subprocess.run(command, check=True)
        try:
            (folder / "made").write_text("new")
            (folder / "etc" / "group").unlink()
        finally:
            mount.unmount(str(folder))
        yield name
        ctr.call("snapshots", "rm", name)

    def test_diff(self, ctr: Ctr, work: str) -> None:
        raw(ctr, "snapshots", "diff", "--keep", "--ref", "kept-diff", "--label", "purpose=diff", work)
        assert "purpose=diff" in ctr("content", "ls")
        with tarfile.open(fileobj=io.BytesIO(raw(ctr, "snapshots", "diff", work))) as changes:
            assert {"made", "etc/.wh.group"} <= set(changes.getnames())
        plain = raw(ctr, "snapshots", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", work)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as changes:
            assert "made" in changes.getnames()

    def test_commit_and_tree(self, ctr: Ctr, work: str) -> None:
        committed = f"committed-{work}"
        ctr("snapshots", "commit", committed, work)
        info = json.loads(ctr("snapshots", "info", committed))
        assert (info["Kind"], info["Parent"]) == ("Committed", chain(ctr))
        tree = ctr("snapshots", "tree").splitlines()
        assert tree[tree.index(f" {chain(ctr)}") + 1].strip() == rf"\_ {committed}"
        ctr("snapshots", "label", committed, "note=x")
        assert json.loads(ctr("snapshots", "info", committed))["Labels"]["note"] == "x"
        sizes = {row[0]: int(row[1]) for row in lines(ctr("snapshots", "usage", "-b"))}
        assert 0 < sizes[committed] < sizes[chain(ctr)]
        assert "cannot remove" in ctr.fails("snapshots", "rm", chain(ctr))
        ctr("snapshots", "rm", committed)

    def test_view(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        command = shlex.split(ctr("snapshots", "view", "--target", str(tmp_path), "look", chain(ctr)))
        assert "ro" in command[-1].split(",")
        ctr.call("snapshots", "rm", "look")

    def test_unpack(self, ctr: Ctr, pulled: str) -> None:
        digest = digest_of(ImageSpec().manifest())
        ctr("snapshots", "unpack", "--snapshotter", "native", digest)
        assert [row[0] for row in lines(ctr("snapshots", "--snapshotter", "native", "ls"))] == [chain(ctr)]


def test_a_lease_that_expires(ctr: Ctr) -> None:
    ctr("leases", "create", "--id", "short", "--expires", "1s", "purpose=test")
    [row] = [row for row in lines(ctr("leases", "ls")) if row[0] == "short"]
    assert "containerd.io/gc.expire=" in row[-1]

    def gone() -> bool:
        ctr("leases", "create", "--id", "other")
        ctr("leases", "rm", "--sync", "other")
        return "short" not in ctr("leases", "ls")

    wait_until(gone, "a collection has removed it")
