"""What an operator of a node decides: the socket, installed plugins, the built-in validator."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import MoorageError
from moorage_api.wire import nri_pb2 as pb
from support.cri import CriClient, pod_config
from support.daemon import Daemon
from support.nri import NriPlugin, Pod

TESTS = Path(__file__).parents[2]
CRI, NRI = '[plugins."io.containerd.grpc.v1.cri"]\n', '[plugins."io.containerd.nri.v1.nri"]\n'
VALIDATOR = """
[plugins."io.containerd.nri.v1.nri".default_validator]
enable = true
reject_oci_hook_adjustment = true
reject_namespace_adjustment = true
reject_sysctl_adjustment = true
reject_unconfined_seccomp_adjustment = true
required_plugins = ["10-needed"]
tolerate_missing_plugins_annotation = "test.example/without"
"""
# A plugin as a program: it writes down what it is told, and has every container know that it was there.
PROGRAM = """#!{python}
import os, socket, sys
sys.path.insert(0, {tests!r})
from moorage_api.wire import nri_pb2 as pb
from support.nri import NriPlugin

def create(request):
    entry = pb.KeyValue(key="PLUGIN", value=os.environ["NRI_PLUGIN_NAME"] + ":" + plugin.configuration.config)
    return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(env=[entry]))

with open(sys.argv[0] + ".pid", "w") as file:
    file.write(str(os.getpid()))
trunk = socket.socket(fileno=int(os.environ["NRI_PLUGIN_SOCKET"]))
plugin = NriPlugin(trunk, "x", "99", CreateContainer=create)
plugin.register()
plugin.closed.wait()
"""


def configure(daemon: Daemon, line: str, table: str = NRI) -> None:
    """Add a line to a table of the daemon's configuration."""
    daemon.config_file.write_text(daemon.config_file.read_text().replace(table, f"{table}{line}\n"))


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """One with installed plugins, of which some cannot start, and with the validator."""
    daemon = Daemon(VALIDATOR)
    folder = daemon.folder / "nri-plugins"
    folder.mkdir()
    for name, text in (
        ("05-launched", PROGRAM.format(python=sys.executable, tests=str(TESTS))),
        ("06-broken", "no program at all"),
        ("07-silent", "#!/bin/sh\nexec sleep 1000\n"),
        ("08-short", "#!/bin/sh\nexit 1\n"),
        ("09-stubborn", "#!/bin/sh\ntrap '' TERM\necho $$ > $0.pid\nwhile :; do sleep 1; done\n"),
        ("misnamed", "#!/bin/sh\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "README").write_text("not a plugin")
    (daemon.folder / "nri-conf").mkdir()
    (daemon.folder / "nri-conf" / "launched.conf").write_text("by its name")
    (daemon.folder / "nri-conf" / "05-launched.conf").write_text("its own")
    configure(daemon, "plugin_registration_timeout = 6.0")
    configure(daemon, f'cdi_spec_dirs = ["{daemon.folder}/cdi"]', CRI)
    with daemon:
        yield daemon


@pytest.fixture
def needed(shared_daemon: Daemon) -> Iterator[NriPlugin]:
    """The plugin without which no container is made. It adjusts as the pod's annotation says."""

    def create(request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        wanted = request.pod.annotations.get("test.example/wanted", "")
        adjustment = pb.ContainerAdjustment()
        if wanted == "hook":
            adjustment.hooks.poststop.add(path="/bin/true")
        elif wanted == "namespace":
            adjustment.linux.namespaces.add(type="-ipc")
        elif wanted == "sysctl":
            adjustment.linux.sysctl["net.ipv4.ip_forward"] = "1"
        elif wanted == "seccomp":
            adjustment.linux.seccomp_policy.default_action = "SCMP_ACT_ALLOW"
        elif wanted == "card":
            adjustment.CDI_devices.add(name="vendor.example/card=one")
        return pb.CreateContainerResponse(adjust=adjustment)

    with NriPlugin(shared_daemon.nri_socket, "needed", "10", CreateContainer=create) as plugin:
        yield plugin.join()


def test_only_root_may_connect(shared_daemon: Daemon) -> None:
    found = os.stat(shared_daemon.nri_socket)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_installed_plugins_take_part(needed: NriPlugin, pod: Pod, shared_daemon: Daemon) -> None:
    assert "PLUGIN=launched:its own" in pod.output(pod.start(), "env").splitlines()
    log = shared_daemon.log()
    assert "06-broken cannot be started" in log
    assert "misnamed is not named after an index" in log
    assert "NRI plugin 07-silent cannot join: it did not register within 6 s" in log
    assert "NRI plugin 08-short cannot join: it left before it had registered" in log


def test_devices_of_a_vendor(needed: NriPlugin, pod: Pod, cri: CriClient, shared_daemon: Daemon) -> None:
    config = pod_config(annotations={"test.example/wanted": "card"})
    owner = cri.run_pod(config)
    with pytest.raises(MoorageError, match=r"CDI devices vendor.example/card=one are not in"):
        cri.create(owner, config, pod.container())
    edits = {"env": ["CARD=one"], "deviceNodes": [{"path": "/dev/card", "hostPath": "/dev/null"}]}
    devices = [{"name": "one", "containerEdits": edits}]
    (shared_daemon.folder / "cdi").mkdir()
    (shared_daemon.folder / "cdi" / "vendor.json").write_text(
        json.dumps({"cdiVersion": "0.6.0", "kind": "vendor.example/card", "devices": devices})
    )
    container = cri.start(owner, config, pod.container())
    assert "CARD=one" in pod.output(container, "env").splitlines()
    pod.output(container, "test", "-c", "/dev/card")


class TestTheValidator:
    """Rules that no plugin may break."""

    @pytest.mark.parametrize(
        ("wanted", "what"),
        [("hook", "OCI hooks"), ("namespace", "namespaces"), ("sysctl", "sysctls"), ("seccomp", "the seccomp policy")],
    )
    def test_an_adjustment_is_rejected(
        self, needed: NriPlugin, cri: CriClient, pod: Pod, wanted: str, what: str
    ) -> None:
        config = pod_config(annotations={"test.example/wanted": wanted})
        with pytest.raises(MoorageError, match=f"rejected: {what} may not be adjusted, as NRI plugins 10-needed did"):
            cri.create(cri.run_pod(config), config, pod.container())
        assert needed.story(needed.wait_for("CreateContainer").container.id)[-1] == "RemoveContainer"

    def test_a_required_plugin_is_missing(self, pod: Pod) -> None:
        with pytest.raises(MoorageError, match="required NRI plugins are not there: 10-needed"):
            pod.create()

    def test_a_pod_does_without(self, cri: CriClient, pod: Pod) -> None:
        config = pod_config(annotations={"test.example/without": "true"})
        assert cri.create(cri.run_pod(config), config, pod.container())

    def test_a_pod_requires_more(self, needed: NriPlugin, cri: CriClient, pod: Pod) -> None:
        key = "required-plugins.noderesource.dev"
        config = pod_config(annotations={f"{key}/container.c1": '["launched", "topology"]'})
        with pytest.raises(MoorageError, match="required NRI plugins are not there: topology"):
            cri.create(cri.run_pod(config), config, pod.container())


class TestAValidatorOfOthers:
    """A plugin that validates sees the whole, and its word counts."""

    def test_it_sees_who_did_what(self, needed: NriPlugin, shared_daemon: Daemon, pod: Pod) -> None:
        validator = NriPlugin(shared_daemon.nri_socket, "strict", "50", ValidateContainerAdjustment=lambda _: None)
        with validator.join():
            container = pod.create()
        request = validator.wait_for("ValidateContainerAdjustment")
        assert [(each.index, each.name) for each in request.plugins] == [
            ("05", "launched"), ("10", "needed"), ("50", "strict"), ("00", "default-validator"),
        ]  # fmt: skip
        assert [each.key for each in request.adjust.env] == ["PLUGIN"]
        assert request.owners.owners[container].compound[pb.Env].owners["PLUGIN"] == "05-launched"
        assert not [text for text in request.container.env if text.startswith("PLUGIN=")]

    def test_it_rejects(self, needed: NriPlugin, shared_daemon: Daemon, pod: Pod) -> None:
        answer = pb.ValidateContainerAdjustmentResponse(reject=True, reason="ugly")
        with NriPlugin(
            shared_daemon.nri_socket, "strict", "50", ValidateContainerAdjustment=lambda _: answer
        ).join(), pytest.raises(MoorageError, match=r"validator 50-strict rejected .*: ugly"):  # fmt: skip
            pod.create()


def test_one_that_does_not_end_is_killed(shared_daemon: Daemon) -> None:
    """It has never registered, and does not heed the signal that asks it to end."""
    pid = int((shared_daemon.folder / "nri-plugins" / "09-stubborn.pid").read_text())
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_socket_in_use_is_left_to_its_owner(shared_daemon: Daemon) -> None:
    """The daemon goes on without NRI, and says why."""
    other = Daemon()
    own = f'socket_path = "{other.nri_socket}"'
    other.config_file.write_text(
        other.config_file.read_text().replace(own, f'socket_path = "{shared_daemon.nri_socket}"')
    )
    with other:
        assert "another process listens on the NRI socket" in other.log()
        with CriClient(other.address) as cri:
            cri.wait_ready()
        assert other.stop() == 0
    assert os.path.exists(shared_daemon.nri_socket)


def test_installed_plugins_end_with_the_daemon(shared_daemon: Daemon) -> None:
    """The last of this module: its daemon is not started again."""
    pid = int((shared_daemon.folder / "nri-plugins" / "05-launched.pid").read_text())
    assert os.path.exists(f"/proc/{pid}")
    assert shared_daemon.stop() == 0
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(shared_daemon.nri_socket)
