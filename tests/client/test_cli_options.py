"""Options of `run` and `update` as the container sees them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from support.images import ImageSpec, push
from support.registry import Registry

from .conftest import Cli


def test_an_init_reaps_what_the_command_leaves(cli: Cli) -> None:
    script = "sh -c 'sleep 0.1 &' ; sleep 0.4; cat /proc/1/comm; ps -o stat | grep -c ^Z"
    lines = cli.call("run", "--rm", "--init", cli.image, "sh", "-c", script).stdout.splitlines()
    assert lines == ["docker-init", "0"]


def test_limits_and_settings_of_the_kernel(cli: Cli) -> None:
    script = (
        "ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1 | cut -c 22-; cat /proc/sys/kernel/shm_rmid_forced; id -G"
    )
    output = cli(
        *("run", "--rm", "--ulimit", "nofile=300:400", "--shm-size", "1m", "--sysctl", "kernel.shm_rmid_forced=1"),
        *("--group-add", "www-data", "--group-add", "1234", cli.image, "sh", "-c", script),
    )
    lines = output.splitlines()
    assert (lines[0], lines[1], lines[2].split()[0], lines[3]) == ("300", "400", "1024", "1")
    assert {"0", "33", "1234"} <= set(lines[4].split())


def test_namespaces_of_the_host(cli: Cli) -> None:
    for name in ("pid", "ipc", "uts"):
        seen = cli("run", "--rm", f"--{name}", "host", cli.image, "readlink", f"/proc/self/ns/{name}").strip()
        assert seen == os.readlink(f"/proc/self/ns/{name}")
    assert cli.call("run", "--rm", "--uts", "host", "-h", "x", cli.image, "true").returncode == 125
    assert cli.call("run", "--rm", "--pid", "nowhere", cli.image, "true").returncode == 125


def test_devices(cli: Cli) -> None:
    assert cli.call("run", "--rm", cli.image, "test", "-e", "/dev/kmsg").returncode == 1
    show = ("run", "--rm", "--device", "/dev/kmsg:/dev/mine:m", cli.image, "sh", "-c")
    assert cli(*show, "test -c /dev/mine && stat -c %t:%T /dev/mine") == "1:b\n"
    assert "not permitted" in cli.call(*show, "cat </dev/mine").stderr
    assert cli.call("run", "--rm", "--device", "/dev/nothing", cli.image, "true").returncode == 125


def test_security(cli: Cli, tmp_path: Path) -> None:
    status = ("grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status")
    plain = cli("run", "--rm", "--security-opt", "no-new-privileges", cli.image, *status)
    assert plain.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    free = cli("run", "--rm", "--security-opt", "seccomp=unconfined", cli.image, *status)
    assert free.split() == ["NoNewPrivs:", "0", "Seccomp:", "0"]
    machine = platform.machine().upper()
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": f"SCMP_ARCH_{machine}", "subArchitectures": []}],
        "syscalls": [
            {
                "names": ["mkdir", "mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "args": [],
                "excludes": {"caps": ["CAP_SYS_ADMIN"]},
            },
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
        ],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    own = ("run", "--rm", "--security-opt", f"seccomp={tmp_path}/profile.json")
    assert "not permitted" in cli.call(*own, cli.image, "mkdir", "/x").stderr
    assert cli.call(*own, "--cap-add", "SYS_ADMIN", cli.image, "mkdir", "/x").returncode == 0
    (tmp_path / "profile.json").write_text("[]")
    assert "invalid seccomp profile" in cli.call(*own, cli.image, "true").stderr
    assert cli.call("run", "--security-opt", "magic=on", cli.image, "true").returncode == 125


def test_the_id_goes_into_a_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    (tmp_path / "labels").write_text("# who\nteam=a\n")
    cli("run", "--cidfile", str(path), "--label-file", str(tmp_path / "labels"), cli.image, "true")
    assert cli("ps", "-aq", "--no-trunc", "--filter", "label=team=a").strip() == path.read_text()
    again = cli.call("run", "--cidfile", str(path), cli.image, "true")
    assert (again.returncode, "is there already" in again.stderr) == (125, True)


def test_ports_that_an_image_exposes_are_published(cli: Cli, registry: Registry) -> None:
    name = f"{registry.address}/exposed:1"
    push(registry.address, "exposed", "1", ImageSpec(config={"Cmd": ["true"], "ExposedPorts": {"80/tcp": {}}}))
    cli("pull", "-q", name)
    cli("create", "--network", "bridge", "-P", "--expose", "81/udp", "--name", "open", name)
    assert set(json.loads(cli("inspect", "open"))[0]["HostConfig"]["PortBindings"]) == {"80/tcp", "81/udp"}


def test_names_are_looked_up_where_the_user_says(cli: Cli) -> None:
    flags = ("--dns", "192.0.2.1", "--dns-search", "sea.test", "--dns-option", "ndots:2")
    lines = cli("run", "--rm", *flags, cli.image, "cat", "/etc/resolv.conf").splitlines()
    assert {"nameserver 192.0.2.1", "search sea.test", "options ndots:2"} <= set(lines)
    assert "search" not in cli("run", "--rm", "--dns-search", ".", cli.image, "cat", "/etc/resolv.conf")


def test_a_platform_is_chosen(cli: Cli, registry: Registry) -> None:
    from moorage_api.oci.platforms import default_platform, format_platform

    own = format_platform(default_platform())
    assert cli("run", "--rm", "--platform", own, cli.image, "echo", "mine") == "mine\n"
    other = cli.call("run", "--rm", "--pull", "never", "--platform", "linux/s390x", cli.image, "true")
    assert (other.returncode, "linux/s390x" in other.stderr) == (125, True)


def test_a_shim_of_another_kind(cli: Cli) -> None:
    other = ("--runtime", "/usr/bin/containerd-shim-runc-v2")
    done = cli.call("run", "--rm", *other, cli.image, "sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\n")
    cli("run", "-d", "--name", "foreign", *other, cli.image, "sleep", "1000")
    assert cli("exec", "foreign", "echo", "there") == "there\n"
    for verb in ("logs", "attach"):
        told = cli.call(verb, "foreign")
        assert (told.returncode, "not Moorage's" in told.stderr) == (1, True)
    cli("rm", "-f", "foreign")


def test_limits_are_changed_while_it_runs(cli: Cli) -> None:
    cli("run", "-d", "--name", "busy", "-c", "512", "--cpuset-cpus", "0", "--memory", "32m", cli.image, "sleep", "1000")
    config = json.loads(cli("inspect", "busy"))[0]["HostConfig"]
    assert (config["CpuShares"], config["CpusetCpus"]) == (512, "0")
    cli("update", "--memory", "48m", "--memory-swap", "64m", "busy")
    config = json.loads(cli("inspect", "busy"))[0]["HostConfig"]
    assert (config["Memory"], config["MemorySwap"], config["CpuShares"]) == (48 << 20, 64 << 20, 512)
    limit = cli(
        "exec",
        "busy",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>&-; true",
    )
    assert limit.strip() in ("", str(48 << 20))
    assert cli.call("update", "--memory-swap", "1m", "busy").returncode == 1


@pytest.mark.parametrize(("flags", "seconds"), [(["--stop-timeout", "0"], 0), (["--stop-timeout", "1"], 1)])
def test_how_long_stop_waits_is_kept(cli: Cli, flags: list[str], seconds: int) -> None:
    cli("run", "-d", "--name", "slow", *flags, cli.image, "sleep", "1000")
    assert json.loads(cli("inspect", "slow"))[0]["Config"]["StopTimeout"] == seconds
    cli("stop", "slow")
    assert "Exited (137)" in cli("ps", "-a")
