"""Pods, on a running daemon with real CNI plugins."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until
from support.daemon import Daemon


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_a_pod_s_life(cri: CriClient, shared_daemon: Daemon, version: str) -> None:
    with CriClient(shared_daemon.address, version) as client:
        assert client.Version().runtime_api_version == version
        config = pod_config(labels={"app": "x"}, annotations={"note": "y"})
        pod = client.run_pod(config)
        status = client.PodSandboxStatus(pod_sandbox_id=pod).status
        assert status.metadata == config.metadata
        assert status.state == cri_pb2.SANDBOX_READY
        assert status.labels == {"app": "x"}
        assert status.annotations == {"note": "y"}
        assert status.network.ip.startswith(shared_daemon.network.subnet.rpartition(".")[0])
        client.StopPodSandbox(pod_sandbox_id=pod)
        client.StopPodSandbox(pod_sandbox_id=pod)
        status = client.PodSandboxStatus(pod_sandbox_id=pod).status
        assert status.state == cri_pb2.SANDBOX_NOTREADY
        assert status.network.ip == ""
        client.RemovePodSandbox(pod_sandbox_id=pod)
        client.RemovePodSandbox(pod_sandbox_id=pod)
        assert _code(lambda: client.PodSandboxStatus(pod_sandbox_id=pod)) is Code.NOT_FOUND


def test_the_network_is_there_and_goes_with_the_pod(cri: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    one, other = pod_config(), pod_config()
    first, second = cri.run_pod(one), cri.run_pod(other)
    address = cri.PodSandboxStatus(pod_sandbox_id=second).status.network.ip
    container = cri.start(first, one, container_config(busybox, "sleep", "1000"))
    assert b"inet 127.0.0.1" in cri.execute(container, "ip", "addr", "show", "lo").stdout
    assert cri.execute(container, "ping", "-c", "1", "-W", "2", address).exit_code == 0
    leases = shared_daemon.folder / "cni/ipam" / shared_daemon.network.bridge
    assert (leases / address).exists()
    cri.RemovePodSandbox(pod_sandbox_id=second)
    until(lambda: not (leases / address).exists())


def test_a_host_port_leads_to_the_pod(cri: CriClient, busybox: str) -> None:
    port = 20000 + os.getpid() % 10000
    config = pod_config(ports=[cri_pb2.PortMapping(container_port=8080, host_port=port)])
    pod = cri.run_pod(config)
    command = "mkdir /www; echo reached > /www/index.html; exec httpd -f -p 8080 -h /www"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", command))
    assert cri.execute(container, "sh", "-c", "until wget -qO- 127.0.0.1:8080; do sleep 0.05; done").exit_code == 0
    host = cri.execute(container, "sh", "-c", "ip route | awk '/^default/ {print $3}'").stdout.decode().strip()
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
        assert answer.read() == b"reached\n"
    cri.RemovePodSandbox(pod_sandbox_id=pod)
    # The network is taken down in the background.
    rules = ["iptables-save", "-t", "nat"]
    until(lambda: str(port) not in subprocess.run(rules, capture_output=True, text=True, check=True).stdout, 60)


def test_a_pod_in_the_host_s_network(cri: CriClient, busybox: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip == ""
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    for kind in ("net", "uts"):
        assert cri.execute(container, "readlink", f"/proc/self/ns/{kind}").stdout.decode().strip() == os.readlink(
            f"/proc/self/ns/{kind}"
        )


def test_the_files_of_a_pod(cri: CriClient, busybox: str) -> None:
    dns = cri_pb2.DNSConfig(servers=["10.0.0.10"], searches=["a.b", "c"], options=["ndots:5"])
    config = pod_config(hostname="box", dns_config=dns)
    pod = cri.run_pod(config)
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    script = "cat /etc/hostname /etc/resolv.conf; hostname; echo $HOSTNAME; grep -c localhost /etc/hosts"
    out = cri.execute(container, "sh", "-c", script).stdout.decode()
    assert out.startswith("box\nsearch a.b c\nnameserver 10.0.0.10\noptions ndots:5\nbox\nbox\n")


def test_containers_share_what_the_pod_shares(cri: CriClient, busybox: str) -> None:
    config = pod_config(pid=cri_pb2.POD)
    pod = cri.run_pod(config)
    one = cri.start(pod, config, container_config(busybox, "sleep", "1234", name="one", pid=cri_pb2.POD))
    two = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="two", pid=cri_pb2.POD))
    own = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="own"))
    assert b"sleep 1234" in cri.execute(two, "ps").stdout
    assert b"sleep 1234" not in cri.execute(own, "ps").stdout
    assert (
        cri.execute(own, "readlink", "/proc/self/ns/net").stdout
        == cri.execute(two, "readlink", "/proc/self/ns/net").stdout
    )
    assert cri.execute(one, "sh", "-c", "echo shared > /dev/shm/x").exit_code == 0
    assert cri.execute(own, "cat", "/dev/shm/x").stdout == b"shared\n"
    target = container_config(busybox, "sleep", "1000", name="debug")
    target.linux.security_context.namespace_options.pid = cri_pb2.TARGET
    target.linux.security_context.namespace_options.target_id = own
    debug = cri.start(pod, config, target)
    assert b"sleep 1000" in cri.execute(debug, "ps").stdout
    assert b"sleep 1234" not in cri.execute(debug, "ps").stdout


def test_sysctls_of_a_pod(cri: CriClient, busybox: str) -> None:
    config = pod_config()
    config.linux.sysctls["net.ipv4.ip_forward"] = "1"
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    pod = cri.run_pod(config)
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    files = ("net/ipv4/ip_forward", "kernel/shm_rmid_forced", "net/ipv4/ip_unprivileged_port_start")
    out = cri.execute(container, "cat", *(f"/proc/sys/{name}" for name in files)).stdout
    assert out.split() == [b"1", b"1", b"0"]


def test_lists_are_filtered(cri: CriClient) -> None:
    one, two = pod_config(labels={"app": "one", "tier": "t"}), pod_config(labels={"app": "two", "tier": "t"})
    first, second = cri.run_pod(one), cri.run_pod(two)
    cri.StopPodSandbox(pod_sandbox_id=second)

    def ids(**wanted: object) -> set[str]:
        return {item.id for item in cri.ListPodSandbox(filter=wanted).items}

    assert {first, second} <= ids()
    assert ids(id=first) == ids(id=first[:12]) == {first}
    assert ids(id="0123") == set()
    assert ids(label_selector={"tier": "t"}) == {first, second}
    assert ids(label_selector={"tier": "t", "app": "two"}) == {second}
    assert ids(state={"state": cri_pb2.SANDBOX_NOTREADY}, label_selector={"tier": "t"}) == {second}
    assert ids(id=first, state={"state": cri_pb2.SANDBOX_NOTREADY}) == set()


def test_a_name_is_held_until_the_pod_is_removed(cri: CriClient) -> None:
    config = pod_config()
    pod = cri.run_pod(config)
    with pytest.raises(MoorageError, match=f"is held by {pod}"):
        cri.run_pod(config)
    cri.StopPodSandbox(pod_sandbox_id=pod)
    assert _code(lambda: cri.run_pod(config)) is Code.ALREADY_EXISTS
    cri.RemovePodSandbox(pod_sandbox_id=pod)
    assert cri.run_pod(config) != pod


@pytest.mark.parametrize(
    "config",
    [
        cri_pb2.PodSandboxConfig(),
        cri_pb2.PodSandboxConfig(metadata=cri_pb2.PodSandboxMetadata(name="x", uid="u")),
        pod_config("a/b"),
        pod_config(hostname="two words"),
        pod_config(labels={"big": "x" * (1 << 20)}),
        pod_config(log_directory="relative"),
        pod_config(dns_config=cri_pb2.DNSConfig(servers=["1.1.1.1\nsearch evil"])),
        pod_config(network=cri_pb2.TARGET),
        pod_config(annotations={"kubernetes.io/ingress-bandwidth": "lots"}),
    ],
)
def test_a_pod_that_cannot_be_is_refused_and_leaves_nothing(
    cri: CriClient, shared_daemon: Daemon, config: cri_pb2.PodSandboxConfig
) -> None:
    assert _code(lambda: cri.run_pod(config)) is Code.INVALID_ARGUMENT
    assert list(cri.ListPodSandbox().items) == []
    until(lambda: _folders(shared_daemon) == [])


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "net.ipv4.ip_forward", "../x", "fs.file-max"])
def test_a_sysctl_of_the_host_is_refused(cri: CriClient, name: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    config.linux.sysctls[name] = "1"
    assert _code(lambda: cri.run_pod(config)) is Code.INVALID_ARGUMENT


def test_an_unknown_handler_is_named(cri: CriClient) -> None:
    with pytest.raises(MoorageError, match=r"no runtime handler 'gvisor'.*crun, default, runc"):
        cri.run_pod(pod_config(), "gvisor")


@pytest.mark.parametrize("handler", ["runc", "crun"])
def test_a_handler_chooses_the_oci_runtime(cri: CriClient, busybox: str, handler: str) -> None:
    config = pod_config()
    pod = cri.run_pod(config, handler)
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    assert cri.execute(container, "true").exit_code == 0
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.runtime_handler == handler


def test_a_broken_network_is_told_and_leaves_nothing(busybox: str) -> None:
    with Daemon() as daemon, CriClient(daemon.address) as cri:
        conf = daemon.folder / "cni/conf/10-bridge.conflist"
        good = conf.read_text()
        network = json.loads(good)
        network["plugins"].append({"type": "no-such-plugin"})
        conf.write_text(json.dumps(network))
        config = pod_config()
        with pytest.raises(MoorageError, match="no-such-plugin"):
            cri.run_pod(config)
        assert list(cri.ListPodSandbox().items) == []
        assert _folders(daemon) == []
        conf.unlink()
        condition = cri.Status().status.conditions[1]
        assert (condition.type, condition.status, condition.reason) == ("NetworkReady", False, "NetworkPluginNotReady")
        assert "cni plugin not initialized" in condition.message
        assert _code(lambda: cri.run_pod(config)) is Code.UNAVAILABLE
        conf.write_text(good)
        assert cri.Status().status.conditions[1].status
        pod = cri.run_pod(config)
        assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip
        leases = daemon.folder / "cni/ipam" / daemon.network.bridge
        assert len([path for path in leases.iterdir() if path.name[0].isdigit()]) == 1
        cri.remove_all()


def test_status_and_configuration(cri: CriClient, shared_daemon: Daemon) -> None:
    status = cri.Status(verbose=True)
    assert [condition.status for condition in status.status.conditions] == [True, True]
    assert json.loads(status.info["config"])["cni"]["conf_dir"] == str(shared_daemon.folder / "cni/conf")
    assert json.loads(status.info["cniconfig"])["name"] == shared_daemon.network.bridge
    assert [handler.name for handler in status.runtime_handlers] == ["", "crun", "default", "runc"]
    assert cri.RuntimeConfig().linux.cgroup_driver == cri_pb2.CGROUPFS
    cri.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": "10.0.0.0/8"}})


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_every_call_is_answered(version: str, shared_daemon: Daemon) -> None:
    unanswered = []
    with CriClient(shared_daemon.address, version) as client:
        for service in cri_pb2.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if not method.server_streaming:
                    try:
                        getattr(client, method.name)(deadline=10)
                    except MoorageError as error:
                        if error.code is Code.UNIMPLEMENTED:
                            unanswered.append(method.name)
    assert unanswered == []


def _folders(daemon: Daemon) -> list[str]:
    """What is left on disk of pods: files, network records, bundles."""
    roots = [daemon.root / "io.containerd.grpc.v1.cri" / name for name in ("sandboxes", "cni", "containers")]
    roots.append(daemon.state / "io.containerd.sandbox.controller.v1.shim/k8s.io")
    return [str(path) for root in roots if Path(root).is_dir() for path in Path(root).iterdir()]
