"""Stock clients, unchanged: a session of Debian's `ctr` (1.6), and the client for Python from PyPI beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.ctr import Ctr, lines, watched
from support.images import ImageSpec, digest_of
from support.terminal import wait_until

RUNTIME = "io.containerd.runc.v2"


def test_version(ctr: Ctr) -> None:
    text = ctr("version")
    client, server = text.split("Server:")
    assert "1.6" in client
    assert "Version:  0." in server
    assert len(server.split("UUID:")[1].strip()) == 36


def test_namespaces(ctr: Ctr) -> None:
    ctr("namespaces", "create", "made-here", "team=blue")
    assert ["made-here", "team=blue"] in lines(ctr("namespaces", "ls"))
    assert "already exists" in ctr.fails("namespaces", "create", "made-here")
    ctr("namespaces", "label", "made-here", "team=red")
    assert ["made-here", "team=red"] in lines(ctr("namespaces", "ls"))
    assert ctr("namespaces", "rm", "made-here").strip() == "made-here"
    assert "made-here" not in [words[0] for words in lines(ctr("namespaces", "ls"))]


def test_a_namespace_with_something_in_it_stays(ctr: Ctr) -> None:
    Ctr(ctr.daemon, "in-use")("leases", "create", "--id", "l")
    assert "must be empty" in ctr.fails("namespaces", "rm", "in-use")
    Ctr(ctr.daemon, "in-use")("leases", "rm", "l")
    ctr("namespaces", "rm", "in-use")


def test_an_image_is_listed_with_all_its_parts(ctr: Ctr, pulled: str) -> None:
    spec = ImageSpec()
    config, layers = spec.blobs()
    digests = [digest_of(spec.manifest()), digest_of(config), *map(digest_of, layers)]
    [row] = lines(ctr("images", "ls"))
    assert row[0] == pulled
    assert row[2] == digests[0]
    assert "linux/amd64" in row
    listed = {row[0] for row in lines(ctr("content", "ls"))}
    assert listed >= set(digests)
    assert json.loads(ctr("content", "get", digests[1])) == json.loads(config)
    assert "complete (2/2)" in ctr("images", "check")
    diff_id = digest_of(spec.layers[0])
    assert [diff_id, "Committed"] in lines(ctr("snapshots", "ls"))
    assert digest_of(spec.layers[0]) in ctr("snapshots", "tree")


def test_pulling_again_is_quick_and_harmless(ctr: Ctr, pulled: str) -> None:
    assert "done: " in ctr("images", "pull", "--plain-http", pulled)
    assert len(lines(ctr("images", "ls"))) == 1


def test_what_does_not_exist(ctr: Ctr, busybox: str) -> None:
    assert "not found" in ctr.fails("images", "pull", "--plain-http", busybox.replace("latest", "absent"))
    assert "not found" in ctr.fails("run", "-d", "localhost/absent:1", "x")
    assert "not found" in ctr.fails("containers", "info", "absent")
    assert "not found" in ctr.fails("tasks", "kill", "absent")
    assert "not found" in ctr.fails("snapshots", "info", "absent")


def test_a_container_from_run_to_rm(ctr: Ctr, pulled: str) -> None:
    ctr.run(pulled, "life", "sleep", "1000")
    assert ctr.tasks()["life"] == "RUNNING"
    assert ["life", pulled, RUNTIME] in lines(ctr("containers", "ls"))
    info = json.loads(ctr("containers", "info", "life"))
    assert (info["ID"], info["Image"], info["Runtime"]["Name"]) == ("life", pulled, RUNTIME)
    assert info["Spec"]["process"]["args"] == ["sleep", "1000"]
    assert "already exists" in ctr.fails("run", "-d", pulled, "life", "true")
    assert ctr.tasks()["life"] == "RUNNING"
    ctr("tasks", "kill", "-s", "SIGKILL", "life")
    wait_until(lambda: ctr.tasks()["life"] == "STOPPED", "the task stops")
    ctr.daemon.call("ctr", "tasks", "rm", "life")
    assert "life" not in ctr.tasks()
    ctr("containers", "rm", "life")
    assert "life" not in ctr("containers", "ls")
    wait_until(lambda: "life" not in ctr("snapshots", "ls"), "the snapshot is removed")


def test_exec(ctr: Ctr, web: str) -> None:
    assert ctr.execute(web, "echo", "hello") == "hello\n"
    assert ctr.execute(web, "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 1000 "
    done = ctr.daemon.call(
        "ctr",
        "tasks",
        "exec",
        "--fifo-dir",
        str(ctr.daemon.folder / "fifos"),
        "--exec-id",
        "seven",
        web,
        "sh",
        "-c",
        "exit 7",
    )
    assert done.returncode == 7
    pids = [row[0] for row in lines(ctr("tasks", "ps", web))]
    assert len(pids) == 1
    assert b"sleep" in Path(f"/proc/{pids[0]}/cmdline").read_bytes()


def test_pause_and_resume(ctr: Ctr, web: str) -> None:
    ctr("tasks", "pause", web)
    assert ctr.tasks()[web] == "PAUSED"
    ctr("tasks", "resume", web)
    assert ctr.tasks()[web] == "RUNNING"


def test_a_container_in_the_foreground(ctr: Ctr, pulled: str) -> None:
    command = ["ctr", "run", "--rm", "--fifo-dir", str(ctr.daemon.folder / "fifos"), pulled, "short"]
    done = ctr.daemon.call(*command, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert "short" not in ctr("containers", "ls")


def test_events(ctr: Ctr, pulled: str, tmp_path: Path) -> None:
    log = tmp_path / "events"
    before = ctr.daemon.log().count("Events/Subscribe")
    with watched(ctr, log):
        ctr.run(pulled, "told", "sleep", "1000")
        ctr("tasks", "kill", "-s", "SIGKILL", "told")
        wait_until(lambda: ctr.tasks()["told"] == "STOPPED", "the task stops")
        ctr.daemon.call("ctr", "tasks", "rm", "told")
        ctr("containers", "rm", "told")
        wait_until(lambda: "/containers/delete" in log.read_text(), "the last event is heard")
    wait_until(lambda: ctr.daemon.log().count("Events/Subscribe") > before, "the daemon notes that the reader has gone")
    told = [line.split(maxsplit=6) for line in log.read_text().splitlines()]
    mine = [(words[4], words[5], json.loads(words[6])) for words in told if '"told"' in words[6]]
    topics = [topic for _, topic, _ in mine if topic != "/snapshot/remove"]
    assert topics == [
        "/snapshot/prepare", "/containers/create", "/tasks/create", "/tasks/start",
        "/tasks/exit", "/tasks/delete", "/containers/delete",
    ]  # fmt: skip
    assert {namespace for namespace, _, _ in mine} == {"default"}
    by_topic = {topic: event for _, topic, event in mine}
    assert by_topic["/tasks/exit"]["exit_status"] == 128 + signal.SIGKILL
    assert by_topic["/tasks/create"]["pid"] == by_topic["/tasks/start"]["pid"] == by_topic["/tasks/exit"]["pid"]


def test_leases(ctr: Ctr) -> None:
    ctr("leases", "create", "--id", "mine", "purpose=test")
    [row] = [row for row in lines(ctr("leases", "ls")) if row[0] == "mine"]
    assert "purpose=test" in row[-1]
    ctr("leases", "rm", "mine")
    assert "mine" not in ctr("leases", "ls")


def test_plugins(ctr: Ctr) -> None:
    rows = lines(ctr("plugins", "ls"))
    states = {(row[0], row[1]): row[-1] for row in rows}
    assert states["io.containerd.snapshotter.v1", "overlayfs"] == "ok"
    assert states["io.containerd.runtime.v2", "task"] == "ok"
    assert [row for row in rows if row[-1] not in ("ok", "skip")] == []
    assert "Exports:" in ctr("plugins", "ls", "-d", "id==overlayfs")


def test_another_namespace_sees_nothing_of_it(ctr: Ctr, web: str) -> None:
    other = Ctr(ctr.daemon, "elsewhere")
    assert web in ctr("containers", "ls")
    for noun in ("images", "content", "containers", "tasks", "snapshots", "leases"):
        assert lines(other(noun, "ls")) == []
    assert "not found" in other.fails("containers", "info", web)
    assert "not found" in other.fails("tasks", "kill", web)


def test_an_image_is_removed_with_all_its_parts(ctr: Ctr, busybox: str) -> None:
    other = Ctr(ctr.daemon, "removal")
    other("images", "pull", "--plain-http", busybox)
    assert lines(other("content", "ls"))
    other("images", "rm", "--sync", busybox)
    for noun in ("images", "content", "snapshots"):
        assert lines(other(noun, "ls")) == []
    other("namespaces", "rm", "removal")


CLIENT = """
import json, sys
import grpc
from containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from containerd.services.content.v1 import content_pb2, content_pb2_grpc
from containerd.services.images.v1 import images_pb2, images_pb2_grpc
from containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc

with grpc.insecure_channel("unix://" + sys.argv[1]) as channel:
    how = {"metadata": (("containerd-namespace", "default"),), "timeout": 20}
    containers = containers_pb2_grpc.ContainersStub(channel).List(containers_pb2.ListContainersRequest(), **how)
    contents = content_pb2_grpc.ContentStub(channel).List(content_pb2.ListContentRequest(), **how)
    images = images_pb2_grpc.ImagesStub(channel).List(images_pb2.ListImagesRequest(), **how)
    namespaces = namespace_pb2_grpc.NamespacesStub(channel).List(namespace_pb2.ListNamespacesRequest(), **how)
    snapshots = snapshots_pb2_grpc.SnapshotsStub(channel).List(
        snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs"), **how
    )
    tasks = tasks_pb2_grpc.TasksStub(channel).List(tasks_pb2.ListTasksRequest(), **how)
    print(json.dumps({
        "containers": sorted([c.id, c.image, c.runtime.name] for c in containers.containers),
        "content": sorted(info.digest for page in contents for info in page.info),
        "images": sorted([i.name, i.target.digest] for i in images.images),
        "namespaces": sorted(n.name for n in namespaces.namespaces),
        "snapshots": sorted(info.name for page in snapshots for info in page.info),
        "tasks": sorted([t.id, t.pid] for t in tasks.tasks),
    }))
"""


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with `containerd` from PyPI. Its generated code needs a protobuf before 3.21, so that it
    cannot share ours."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    done = subprocess.run(
        [*pip, "containerd==1.5.3", "protobuf<3.21", "grpcio"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"PyPI cannot be reached: {done.stderr[-300:]}")
    return python


def test_the_client_for_python_lists_what_ctr_lists(ctr: Ctr, web: str, python_client: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    listed = json.loads(
        subprocess.run(
            [python_client, "-c", CLIENT, ctr.daemon.address],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    )
    assert listed == {
        "containers": sorted(lines(ctr("containers", "ls"))),
        "content": sorted(row[0] for row in lines(ctr("content", "ls"))),
        "images": sorted([row[0], row[2]] for row in lines(ctr("images", "ls"))),
        "namespaces": sorted(row[0] for row in lines(ctr("namespaces", "ls"))),
        "snapshots": sorted(row[0] for row in lines(ctr("snapshots", "ls"))),
        "tasks": sorted([row[0], int(row[1])] for row in lines(ctr("tasks", "ls"))),
    }
    assert web in [id for id, _ in listed["tasks"]]
