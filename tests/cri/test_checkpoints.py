"""Checkpoints of pods, and pods from checkpoints.

Where there is no criu that works, what would call it is played: a runtime that is runc but for `checkpoint`, which notes down
which containers stand still, and for `restore`, which starts the container anew from the same bundle.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moorage_api.errors import Code, FailedPrecondition, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until, with_image
from support.daemon import Daemon

_RUNTIMES = 'plugins."io.containerd.grpc.v1.cri".runtimes'
_CONFIG = f"""
[{_RUNTIMES}.default]
[{_RUNTIMES}.played]
[{_RUNTIMES}.played.options]
BinaryName = "FOLDER/played"
"""
_PLAYED = """#!/bin/sh
last= images= root= verb=
for word in "$@"; do
    shift
    case "$last" in --image-path) images=$word ;; --root) root=$word ;; esac
    case "$last:$word" in
    *:checkpoint) verb=checkpoint ;;
    --image-path:* | --work-path:* | *:--image-path | *:--work-path) ;;
    *:restore) verb=restore; set -- "$@" run ;;
    *) set -- "$@" "$word" ;;
    esac
    last=$word
done
case "$verb" in
checkpoint)
    runc --root "$root" list > "$images/states"
    [ -e FOLDER/fail ] && exit 1
    while [ -e FOLDER/hang ]; do touch FOLDER/hanging; sleep 0.1; done
    exit 0 ;;
restore) cat "$images/states" >> FOLDER/restored || exit 1 ;;
esac
exec runc "$@"
"""


class _Playing(Daemon):
    """A daemon that finds a criu, which is never called."""

    @property
    def environment(self) -> dict[str, str]:
        usual = super().environment
        return {**usual, "PATH": f"{self.folder}/bin:{usual['PATH']}"}


@pytest.fixture(scope="module")
def playing() -> Iterator[_Playing]:
    daemon = _Playing()
    (daemon.folder / "bin").mkdir()
    for path, text in ((daemon.folder / "bin/criu", "#!/bin/false\n"), (daemon.folder / "played", _PLAYED)):
        path.write_text(text.replace("FOLDER", str(daemon.folder)))
        path.chmod(0o755)
    with daemon.config_file.open("a") as file:
        file.write(_CONFIG.replace("FOLDER", str(daemon.folder)))
    with daemon:
        yield daemon


@pytest.fixture
def cri(playing: Daemon, busybox: str) -> Iterator[CriClient]:
    with with_image(playing, busybox) as client:
        yield client


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


class _Counters:
    """A pod with two containers that have written a file."""

    def __init__(self, cri: CriClient, image: str) -> None:
        self.cri = cri
        script = "[ -e /file ] || echo first > /file; echo up >> /ready; exec sleep 1000"
        self.configs = [container_config(image, "sh", "-c", script, name=name) for name in ("one", "two")]
        config = pod_config(network=cri_pb2.NODE)
        self.pod = cri.run_pod(config, "played")
        self.ids = [cri.start(self.pod, config, each) for each in self.configs]
        for id in self.ids:
            until(lambda id=id: cri.execute(id, "cat", "/ready").exit_code == 0)  # type: ignore[misc]

    def answers(self, id: str) -> bool:
        try:
            return self.cri.execute(id, "echo", "on").stdout == b"on\n"
        except FailedPrecondition:
            return False  # It stands still.

    def checkpoint(self, folder: Path) -> None:
        self.cri.CheckpointPod(pod_sandbox_id=self.pod, output_path=str(folder), container_ids=self.ids)

    def restore(self, folder: Path) -> cri_pb2.RestorePodResponse:
        config = pod_config(network=cri_pb2.NODE)
        configs = [self.configs[1], self.configs[0]]
        return self.cri.RestorePod(
            checkpoint_path=str(folder), config=config, runtime_handler="played", container_configs=configs
        )


def test_a_pod_goes_on_from_a_checkpoint(cri: CriClient, playing: Daemon, busybox: str, tmp_path: Path) -> None:
    pod = _Counters(cri, busybox)
    pod.checkpoint(tmp_path)
    for number in (0, 1):
        lines = (tmp_path / str(number) / "checkpoint/states").read_text().splitlines()
        # Both stood still while either was captured.
        assert sorted(line.split()[2] for line in lines if line.split()[0] in pod.ids) == ["paused", "paused"]
    assert [cri.execute(id, "echo", "on").stdout for id in pod.ids] == [b"on\n", b"on\n"]
    cri.stop_pod(pod.pod)
    cri.remove_pod(pod.pod)
    answer = pod.restore(tmp_path)
    made = {each.name: each.container_id for each in answer.restored_containers}
    assert [each.name for each in answer.restored_containers] == ["two", "one"]
    assert {cri.status(id).state for id in made.values()} == {cri_pb2.CONTAINER_CREATED}
    assert not (playing.folder / "restored").exists()
    playing.restart()
    for name, id in made.items():
        cri.StartContainer(container_id=id)
        assert cri.status(id).metadata.name == name
        # The file was there before the process began.
        until(lambda id=id: cri.execute(id, "cat", "/ready").stdout == b"up\nup\n")  # type: ignore[misc]
        assert cri.execute(id, "cat", "/file").stdout == b"first\n"
    assert (playing.folder / "restored").read_text().count("paused") == 4


def test_what_is_no_checkpoint(cri: CriClient, playing: Daemon, busybox: str, tmp_path: Path) -> None:
    pod = _Counters(cri, busybox)
    before = {each.id for each in cri.ListPodSandbox().items}

    def take(**fields: object) -> Code:
        usual = {"pod_sandbox_id": pod.pod, "output_path": str(tmp_path), "container_ids": pod.ids}
        return _code(lambda: cri.CheckpointPod(**(usual | fields)))

    def restore(**fields: object) -> Code:
        usual = {"checkpoint_path": str(tmp_path), "config": pod_config(network=cri_pb2.NODE)}
        return _code(lambda: cri.RestorePod(**(usual | {"container_configs": pod.configs} | fields)))

    assert take(container_ids=[]) is Code.INVALID_ARGUMENT
    assert take(container_ids=[pod.ids[0]] * 2) is Code.INVALID_ARGUMENT
    assert take(options={"a": "b"}) is Code.INVALID_ARGUMENT
    assert take(output_path="here") is Code.INVALID_ARGUMENT
    assert take(output_path=str(tmp_path / "none")) is Code.FAILED_PRECONDITION
    assert restore() is Code.NOT_FOUND
    (playing.folder / "fail").touch()
    with pytest.raises(MoorageError, match="checkpoint failed"):
        pod.checkpoint(tmp_path)
    (playing.folder / "fail").unlink()
    assert list(tmp_path.iterdir()) == []
    assert [cri.execute(id, "echo", "on").stdout for id in pod.ids] == [b"on\n", b"on\n"]
    pod.checkpoint(tmp_path)
    assert take() is Code.FAILED_PRECONDITION
    assert restore(container_configs=pod.configs[:1]) is Code.INVALID_ARGUMENT
    other = container_config(busybox, "true", name="two")
    assert restore(container_configs=[pod.configs[0], other]) is Code.INVALID_ARGUMENT
    assert restore(runtime_handler="none") is Code.NOT_FOUND
    manifest = json.loads((tmp_path / "pod.json").read_text())
    manifest["containers"][0]["digest"] = "sha256:" + "0" * 64
    (tmp_path / "pod.json").write_text(json.dumps(manifest))
    with pytest.raises(MoorageError):
        pod.restore(tmp_path)
    assert {each.id for each in cri.ListPodSandbox().items} == before
    assert len(cri.ListContainers().containers) == 2


def test_a_daemon_that_dies_leaves_nothing_frozen(
    cri: CriClient, playing: Daemon, busybox: str, tmp_path: Path
) -> None:
    pod = _Counters(cri, busybox)
    (playing.folder / "hang").touch()
    taking = threading.Thread(target=lambda: _code(lambda: pod.checkpoint(tmp_path)))
    taking.start()
    until((playing.folder / "hanging").exists)
    playing.kill()
    taking.join()
    playing.start()
    with pytest.raises(MoorageError, match="paused"):
        cri.execute(min(pod.ids), "true")  # The first that was to be captured.
    (playing.folder / "hang").unlink()
    until(lambda: all(pod.answers(id) for id in pod.ids))


@pytest.mark.skipif(shutil.which("criu") is not None, reason="criu is here")
def test_without_criu_checkpoints_say_so(shared_daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    config = pod_config()
    with CriClient(shared_daemon.address) as cri:
        cri.pull(busybox)
        pod = cri.run_pod(config)
        container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
        calls: list[Callable[[], object]] = [
            lambda: cri.CheckpointContainer(container_id=container, location=str(tmp_path / "checkpoint.tar")),
            lambda: cri.CheckpointPod(pod_sandbox_id=pod, output_path=str(tmp_path), container_ids=[container]),
            lambda: cri.RestorePod(checkpoint_path=str(tmp_path), config=config),
        ]
        for call in calls:
            with pytest.raises(MoorageError, match="need criu") as failure:
                call()
            assert failure.value.code is Code.FAILED_PRECONDITION
        assert list(tmp_path.iterdir()) == []
        assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING
        cri.remove_all()
