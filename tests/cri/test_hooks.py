"""OCI hooks of the host's operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import Code, FailedPrecondition, MoorageError
from moorage_api.oci import spec as oci
from moorage_api.wire import cri_pb2
from moorage_cri.container import hooks
from support.cri import CriClient, configured, container_config, pod_config
from support.daemon import Daemon
from support.terminal import wait_until


def write(folder: Path, name: str, when: dict[str, Any], *stages: str, **fields: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    hook = {"path": "/bin/true"} | fields
    document = {"version": "1.0.0", "hook": hook, "when": when, "stages": stages or ["poststop"]}
    (folder / name).write_text(json.dumps(document))


def added(
    *folders: Path, args: str = "/bin/sleep", annotations: dict[str, str] | None = None, bind_mounts: bool = False
) -> dict[str, Any]:
    spec = oci.default_spec(args=[args])
    hooks.add(spec, [str(folder) for folder in folders], annotations or {}, bind_mounts=bind_mounts)
    found: dict[str, Any] = spec.get("hooks", {})
    return found


def test_a_hook_goes_into_its_stages(tmp_path: Path) -> None:
    write(tmp_path, "a.json", {"always": True}, "prestart", "poststop", args=["true", "x"], env=["A=b"], timeout=5)
    (tmp_path / "README").write_text("no hook")
    made = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 5}
    assert added(tmp_path, tmp_path / "absent") == {"prestart": [made], "poststop": [made]}


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({"always": True}, True),
        ({"always": False}, False),
        ({}, False),
        ({"commands": ["sleep$"]}, True),
        ({"commands": ["^sleep", "cat"]}, False),
        ({"hasBindMounts": True}, True),
        ({"hasBindMounts": False}, False),
        ({"annotations": {"^gpu$": "true|yes"}}, True),
        ({"annotations": {"^gpu$": "no"}}, False),
        ({"always": True, "commands": ["cat"]}, False),
        ({"commands": ["sleep"], "annotations": {"gpu": "."}, "hasBindMounts": True}, True),
    ],
)
def test_conditions(tmp_path: Path, when: dict[str, Any], matches: bool) -> None:
    write(tmp_path, "a.json", when)
    assert bool(added(tmp_path, annotations={"gpu": "yes"}, bind_mounts=True)) is matches


def test_order_and_precedence(tmp_path: Path) -> None:
    for folder, name in (("one", "b.json"), ("one", "C.json"), ("two", "b.json"), ("two", "a.json")):
        write(tmp_path / folder, name, {"always": True}, args=[f"{folder}/{name}"])
    found = [hook["args"][0] for hook in added(tmp_path / "one", tmp_path / "two")["poststop"]]
    assert found == ["two/a.json", "two/b.json", "one/C.json"]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"version": "1.0.0"}',
        '{"version": "9", "hook": {"path": "/bin/true"}, "when": {"always": true}, "stages": ["poststop"]}',
        '{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"always": true}, "stages": ["never"]}',
        '{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"always": true}, "stages": []}',
        '{"version": "1.0.0", "hook": {"path": "/absent"}, "when": {"always": true}, "stages": ["poststop"]}',
        '{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"commands": ["("]}, "stages": ["poststop"]}',
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(FailedPrecondition, match=r"wrong\.json"):
        added(tmp_path)


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    with configured('hooks_dirs = ["HERE/hooks"]') as running:
        yield running


def test_a_container_with_hooks(cri: CriClient, shared_daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    """They are run, with the state of the container on their standard input; a failure refuses the container."""
    folder = shared_daemon.folder / "hooks"
    script = ["sh", "-c", f"cat > {tmp_path}/$STAGE"]
    for stage in ("createRuntime", "poststop"):
        write(
            folder, f"{stage}.json", {"commands": ["sleep"]}, stage, path="/bin/sh", args=script, env=[f"STAGE={stage}"]
        )
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    state = json.loads((tmp_path / "createRuntime").read_text())
    assert (state["id"], state["annotations"]["io.kubernetes.cri.container-name"]) == (container, "main")
    assert not (tmp_path / "poststop").exists()
    cri.remove(container)
    wait_until((tmp_path / "poststop").exists, "the last hook has run")
    write(folder, "refuse.json", {"annotations": {"refuse": "."}}, "createRuntime", path="/bin/false")
    refused = container_config(busybox, "sleep", "1000", name="refused", annotations={"refuse": "me"})
    with pytest.raises(MoorageError, match="hook"):
        cri.start(pod, config, refused)
    (folder / "broken.json").write_text("{")
    with pytest.raises(MoorageError, match=r"broken\.json") as caught:
        cri.create(pod, config, container_config(busybox, "true", name="other"))
    assert caught.value.code is Code.FAILED_PRECONDITION
