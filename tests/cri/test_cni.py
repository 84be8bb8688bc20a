"""`moorage_cri.cni` with plugins made of shell scripts, whose failures are chosen."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moorage_api.cni.call import Attachment, request
from moorage_api.cni.config import parse
from moorage_api.cni.result import addresses
from moorage_api.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moorage_api.wire import cri_pb2
from moorage_cri.background import Background
from moorage_cri.cni import pod, process
from moorage_cri.cni.cache import Cache
from moorage_cri.cni.config import ConfigFolder
from moorage_cri.cni.netns import NetworkNamespaces
from moorage_cri.cni.network import Network
from moorage_cri.cni.plugin import Plugins
from moorage_cri.cni.turns import Turns

RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/ns"}],
    "ips": [{"address": "10.1.2.3/24", "interface": 0}],
}


class Scripts:
    """A folder of plugins that note how they are called, and a configuration that uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.conf = folder / "conf"
        self.calls_file = folder / "calls"
        self.bin.mkdir()
        self.conf.mkdir()
        self.calls_file.touch()

    def plugin(self, name: str, body: str = "") -> None:
        """A plugin that logs `COMMAND NAME NETNS` and its input, runs `body`, and prints the result on ADD."""
        log = f'printf "%s {name} %s %s\\n" "$CNI_COMMAND" "${{CNI_NETNS:--}}" "$(cat)" >> {self.calls_file}'
        text = f"#!/bin/sh\n{log}\n{body}\n[ $CNI_COMMAND = ADD ] && echo '{json.dumps(RESULT)}'\nexit 0\n"
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def network(self, *plugins: str, file: str = "10-x.conflist", version: str = "1.0.0") -> None:
        listed = [{"type": name, "capabilities": {"portMappings": True}} for name in plugins]
        (self.conf / file).write_text(json.dumps({"cniVersion": version, "name": "net", "plugins": listed}))

    def calls(self) -> list[str]:
        return [" ".join(line.split(" ", 3)[:3]) for line in self.calls_file.read_text().splitlines()]

    def inputs(self, command: str) -> list[dict[str, Any]]:
        lines = [line.split(" ", 3) for line in self.calls_file.read_text().splitlines()]
        return [json.loads(line[3]) for line in lines if line[0] == command]

    def make(self, spawn: Callable[[str, Coroutine[Any, Any, None]], object], timeout: float = 5) -> Network:
        plugins = Plugins([str(self.folder / "none"), str(self.bin)], timeout)
        return Network(ConfigFolder(str(self.conf)), plugins, Cache(self.folder / "cache"), "ipv4", spawn)


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def _never(name: str, work: Coroutine[Any, Any, None]) -> None:
    work.close()
    pytest.fail("nothing was to be tried again")


NETNS = "/proc/self/ns/net"
ATTACHMENT = Attachment(
    "pod1", NETNS, args={"K8S_POD_NAME": "p"}, capabilities={"portMappings": [{"hostPort": 1, "protocol": "tcp"}]}
)


async def test_a_chain_is_made_in_order_and_taken_down_in_reverse(scripts: Scripts) -> None:
    scripts.plugin("one")
    scripts.plugin("two")
    scripts.network("one", "two")
    network = scripts.make(_never)
    made = await network.attach(ATTACHMENT)
    assert made.addresses == ("10.1.2.3",)
    first, second = scripts.inputs("ADD")
    assert "prevResult" not in first
    assert second["prevResult"] == RESULT
    assert first["name"] == "net"
    assert first["cniVersion"] == "1.0.0"
    assert first["runtimeConfig"] == ATTACHMENT.capabilities
    assert "capabilities" not in first
    assert network.known() == ["pod1"]
    await network.detach("pod1")
    assert scripts.calls() == [f"ADD one {NETNS}", f"ADD two {NETNS}", f"DEL two {NETNS}", f"DEL one {NETNS}"]
    assert all(config["prevResult"] == RESULT for config in scripts.inputs("DEL"))
    assert network.known() == []
    await network.detach("pod1")
    assert len(scripts.calls()) == 4


async def test_a_network_is_taken_down_as_it_was_made_after_a_restart(scripts: Scripts) -> None:
    scripts.plugin("one")
    scripts.network("one")
    await scripts.make(_never).attach(replace(ATTACHMENT, netns="/no/such/namespace"))
    scripts.network("other")
    later = scripts.make(_never)
    restored = later.restore("pod1")
    assert restored is not None
    assert restored.addresses == ("10.1.2.3",)
    await later.detach("pod1")
    assert scripts.calls()[-1] == "DEL one -"


async def test_what_a_failed_add_left_is_taken_down(scripts: Scripts) -> None:
    scripts.plugin("one")
    scripts.plugin(
        "two", '[ $CNI_COMMAND = ADD ] && { echo \'{"code":7,"msg":"no such thing","details":"at all"}\'; exit 1; }'
    )
    scripts.network("one", "two")
    network = scripts.make(_never)
    with pytest.raises(Unavailable, match=r"two failed.*no such thing; at all"):
        await network.attach(ATTACHMENT)
    assert network.known() == ["pod1"]
    assert network.restore("pod1") is None
    await network.detach("pod1")
    assert network.known() == []


async def test_a_failed_del_is_repeated_until_it_succeeds(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage_cri.cni.network._RETRY_FIRST", 0.02)
    scripts.plugin("one", f"[ $CNI_COMMAND = DEL ] && [ ! -e {scripts.folder}/mended ] && exit 3")
    scripts.network("one")
    background = Background()
    network = scripts.make(background.start)
    await network.attach(ATTACHMENT)
    with pytest.raises(Unavailable, match="exit code 3"):
        await network.detach("pod1")
    then = asyncio.Event()

    async def gone() -> None:
        assert not network.stands("pod1")
        then.set()

    network.detach_later("pod1", gone)
    network.detach_later("pod1", gone)
    await asyncio.sleep(0.15)
    assert network.known() == ["pod1"]
    assert not then.is_set()
    (scripts.folder / "mended").touch()
    async with asyncio.timeout(5):
        while network.known():
            await asyncio.sleep(0.01)
        await then.wait()
    await background.stop()


async def test_a_host_port_is_free_before_it_is_given_again(scripts: Scripts) -> None:
    scripts.plugin("one", f"[ $CNI_COMMAND = DEL ] && while [ ! -e {scripts.folder}/go ]; do sleep 0.02; done")
    scripts.network("one")
    background = Background()
    network = scripts.make(background.start)
    ports = {"portMappings": [{"hostPort": 80, "containerPort": 1, "protocol": "tcp"}]}
    others = {"portMappings": [{"hostPort": 80, "containerPort": 1, "protocol": "udp"}]}
    await network.attach(Attachment("first", NETNS, capabilities=ports))
    network.detach_later("first")
    await network.attach(Attachment("other", NETNS, capabilities=others))
    waiting = asyncio.ensure_future(network.attach(Attachment("second", NETNS, capabilities=ports)))
    await asyncio.sleep(0.1)
    assert len(scripts.inputs("ADD")) == 2
    (scripts.folder / "go").touch()
    async with asyncio.timeout(10):
        await waiting
    assert network.known() == ["other", "second"]
    await background.stop()


async def test_a_hanging_plugin_is_killed_with_its_children(scripts: Scripts) -> None:
    scripts.plugin("one", f"sleep 1000 & echo $! > {scripts.folder}/child; wait")
    scripts.network("one")
    network = scripts.make(_never, timeout=0.5)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="killed"):
        await network.attach(ATTACHMENT)
    assert time.monotonic() - started < 3
    await _gone(int((scripts.folder / "child").read_text()))


async def test_a_plugin_is_not_cut_off_with_its_caller(scripts: Scripts) -> None:
    scripts.plugin("one", f"touch {scripts.folder}/begun; sleep 0.3; touch {scripts.folder}/ended")
    scripts.network("one")
    task = asyncio.ensure_future(scripts.make(_never).attach(ATTACHMENT))
    async with asyncio.timeout(5):
        while not (scripts.folder / "begun").exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (scripts.folder / "ended").exists()


async def test_a_cancelled_program_is_killed(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 1000"]
    task = asyncio.ensure_future(process.run(command, os.environ, b"", 60))
    async with asyncio.timeout(5):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_a_missing_plugin_is_named(scripts: Scripts) -> None:
    scripts.network("one")
    network = scripts.make(_never)
    with pytest.raises(NotFound, match="CNI plugin one is not in"):
        await network.attach(ATTACHMENT)
    assert network.known() == []


async def test_one_failed_del_does_not_keep_the_others_from_theirs(scripts: Scripts) -> None:
    scripts.plugin("one")
    scripts.plugin("two", "[ $CNI_COMMAND = DEL ] && exit 1")
    scripts.network("one", "two")
    network = scripts.make(_never)
    await network.attach(ATTACHMENT)
    with pytest.raises(Unavailable, match="two failed"):
        await network.detach("pod1")
    assert scripts.calls()[-2:] == [f"DEL two {NETNS}", f"DEL one {NETNS}"]
    assert network.known() == ["pod1"]


@pytest.mark.parametrize(
    ("body", "message"), [("echo nonsense; exit 0", "not JSON"), ("echo '[]'; exit 0", "not a JSON")]
)
async def test_a_result_that_is_none_is_an_error(scripts: Scripts, body: str, message: str) -> None:
    scripts.plugin("one", body)
    scripts.network("one")
    with pytest.raises(Unavailable, match=message):
        await scripts.make(_never).attach(ATTACHMENT)


async def test_too_much_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted):
        await process.run(["/bin/sh", "-c", "head -c 5000000 /dev/zero"], os.environ, b"", 10)


async def test_a_program_gets_its_input_and_no_descriptor_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w"):
        done = await process.run(["/bin/sh", "-c", "cat; ls -l /proc/self/fd >&2; exit 4"], os.environ, b"in", 10)
    assert (done.status, done.stdout) == (4, b"in")
    assert b"/proc/" in done.stderr
    assert b"ours" not in done.stderr
    assert b"socket:" not in done.stderr


async def test_a_signal_that_kills_is_told(tmp_path: Path) -> None:
    done = await process.run(["/bin/sh", "-c", "kill -9 $$"], os.environ, b"", 10)
    assert done.status == -9
    with pytest.raises(Unavailable, match="cannot run"):
        await process.run([str(tmp_path / "none")], {}, b"", 10)


def test_the_first_configuration_is_used_and_a_change_is_seen(scripts: Scripts) -> None:
    folder = ConfigFolder(str(scripts.conf))
    with pytest.raises(Unavailable, match="cni plugin not initialized"):
        folder.current()
    scripts.network("late", file="20-late.conflist")
    assert folder.current().plugins[0]["type"] == "late"
    (scripts.conf / "10-single.conf").write_text('{"cniVersion": "0.3.1", "name": "s", "type": "single"}')
    (scripts.conf / "00-readme.txt").write_text("not a configuration")
    assert folder.current().plugins[0]["type"] == "single"
    (scripts.conf / "10-single.conf").write_text("{")
    with pytest.raises(Unavailable, match=r"10-single\.conf is not JSON"):
        folder.current()
    (scripts.conf / "10-single.conf").unlink()
    assert folder.current().plugins[0]["type"] == "late"


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"name": "n", "plugins": []},
        {"name": "n", "plugins": [{}]},
        {"name": "n", "plugins": [{"type": "../../bin/sh"}]},
        {"name": "-n", "plugins": [{"type": "x"}]},
        {"plugins": [{"type": "x"}]},
        {"name": "n", "cniVersion": "0.2.0", "plugins": [{"type": "x"}]},
        {"name": "n", "cniVersion": "new", "plugins": [{"type": "x"}]},
        {"name": "n", "cniVersion": 1, "plugins": [{"type": "x"}]},
    ],
)
def test_a_configuration_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(InvalidArgument):
        parse(json.dumps(document).encode(), "here")


def test_a_plugin_gets_the_capabilities_that_it_declares() -> None:
    plugin = {"type": "x", "capabilities": {"dns": True, "bandwidth": False}}
    asked = request("1.0.0", "n", plugin, {"dns": {"servers": ["1"]}, "bandwidth": {"ingressRate": 1}, "o": 1}, None)
    assert asked == {"type": "x", "name": "n", "cniVersion": "1.0.0", "runtimeConfig": {"dns": {"servers": ["1"]}}}


def test_a_pod_s_wishes_become_arguments() -> None:
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(name="p", namespace="ns", uid="u"),
        port_mappings=[
            cri_pb2.PortMapping(protocol=cri_pb2.UDP, container_port=53, host_port=5353, host_ip="127.0.0.1"),
            cri_pb2.PortMapping(container_port=80),
        ],
        dns_config=cri_pb2.DNSConfig(servers=["9.9.9.9"]),
        annotations={"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Ki"},
    )
    made = pod.attachment("id", config)
    assert made.args["K8S_POD_NAMESPACE"] == "ns"
    assert made.args["K8S_POD_INFRA_CONTAINER_ID"] == "id"
    assert made.capabilities["portMappings"] == [
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}
    ]
    assert made.capabilities["dns"] == {"servers": ["9.9.9.9"], "searches": [], "options": []}
    assert made.capabilities["bandwidth"]["ingressRate"] == 10_000_000
    assert made.capabilities["bandwidth"]["egressRate"] == 1024


@pytest.mark.parametrize("text", ["", "fast", "1", "-5M", "9" * 40, "1e3"])
def test_a_bandwidth_that_is_none_is_refused(text: str) -> None:
    config = cri_pb2.PodSandboxConfig(annotations={"kubernetes.io/ingress-bandwidth": text})
    with pytest.raises(InvalidArgument):
        pod.attachment("id", config)


DUAL = {
    "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/ns"}],
    "ips": [
        {"address": "fd00::5/64", "interface": 1},
        {"address": "10.0.0.5/24", "interface": 1},
        {"address": "10.0.0.1/24", "interface": 0},
    ],
}


@pytest.mark.parametrize(
    ("preference", "expected"),
    [("ipv4", ["10.0.0.5", "fd00::5"]), ("ipv6", ["fd00::5", "10.0.0.5"]), ("cni", ["fd00::5", "10.0.0.5"])],
)
def test_addresses_by_preference(preference: str, expected: list[str]) -> None:
    assert addresses(DUAL, "eth0", preference) == expected


@pytest.mark.parametrize(
    "result", [{}, {"ips": []}, {"ips": [{"address": "x"}]}, {"ips": [{"address": "10.0.0.1/8", "interface": 3}]}]
)
def test_a_result_without_an_address_is_an_error(result: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        addresses(result, "eth0", "ipv4")


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "cache/x.json").write_text("{")
    assert cache.load("x") is None
    assert cache.ids() == []


async def _gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            await asyncio.sleep(0.01)


async def test_a_network_namespace_is_made_and_unpinned(tmp_path: Path) -> None:
    namespaces = NetworkNamespaces(tmp_path / "netns")
    assert namespaces.ids() == []
    path = await namespaces.make("pod1", {"net.ipv4.ip_forward": "1", "net/ipv4/ping_group_range": "0 5"})
    assert path == namespaces.path("pod1")
    assert namespaces.ids() == ["pod1"]
    assert os.stat(path).st_ino != os.stat("/proc/self/ns/net").st_ino
    script = "cat /proc/sys/net/ipv4/ip_forward; ip -o addr show lo"
    done = await process.run(["/usr/bin/nsenter", f"--net={path}", "sh", "-c", script], os.environ, b"", 10)
    assert done.stdout.startswith(b"1\n")
    assert b"inet 127.0.0.1/8" in done.stdout
    namespaces.remove("pod1")
    namespaces.remove("pod1")
    assert namespaces.ids() == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_a_namespace_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    namespaces = NetworkNamespaces(tmp_path / "netns")
    with pytest.raises(FailedPrecondition, match=r"sysctl net\.no\.such=1"):
        await namespaces.make("pod1", {"net.no.such": "1"})
    assert namespaces.ids() == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_the_quick_take_turns_and_the_slow_hold_up_nobody() -> None:
    turns = Turns(2, turn=1000)
    inside = most = 0

    async def work(seconds: float) -> None:
        nonlocal inside, most
        async with turns.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(seconds)
            inside -= 1

    await asyncio.gather(*(work(0.01) for _ in range(10)))
    assert most == 2
    turns = Turns(2, turn=0.05)
    slow = [asyncio.ensure_future(work(1000)) for _ in range(50)]
    async with asyncio.timeout(10):
        while inside < 50:
            await asyncio.sleep(0.001)
        await work(0.01)
    await _cancel(slow)
    async with asyncio.timeout(10):
        await work(0.01)


async def test_a_turn_that_nobody_waits_for_any_more_is_the_next_one_s() -> None:
    turns = Turns(1, turn=1000)
    done: list[int] = []

    async def work(number: int) -> None:
        async with turns.turn():
            done.append(number)

    async with turns.turn():
        tasks = [asyncio.ensure_future(work(number)) for number in range(3)]
        await asyncio.sleep(0)
        await _cancel(tasks[:1])
    # It has been called, and is cancelled before it could begin.
    await _cancel(tasks[1:2])
    async with asyncio.timeout(10):
        await tasks[2]
        await work(3)
    assert done == [2, 3]


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
