"""A `mooraged` of one's own: private roots, socket, bridge, subnet and cgroup parent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support.apicalls import RECORDER
from support.clients import Clients
from support.cni import remove_rules, write_bridge
from support.leftovers import leftovers, sweep
from support.session import new_id

BIN = Path(sys.executable).parent
CNI_BIN = Path("/usr/lib/cni")
READY_SECONDS = 60


class Daemon(Clients):
    """A daemon process on a folder of its own under /tmp (short, for the sake of socket paths).

    `config` holds whole tables of the configuration file as TOML text, appended to what is made here. Registries on
    loopback addresses are plain HTTP by default, so that they need no configuration.
    """

    def __init__(self, config: str = "", folder: Path | None = None, log_level: str = "trace") -> None:
        self.log_level = log_level
        self.folder = folder or Path(tempfile.mkdtemp(prefix="moorage-"))
        self.id = new_id()
        self.tag = f"MOORAGE_TEST_ID={self.id}"
        self.cgroup_parent = f"moorage-{self.id}"
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.address = str(self.folder / "moorage.sock")
        self.nri_socket = str(self.folder / "nri.sock")
        self.config_file = self.folder / "config.toml"
        self.log_file = self.folder / "mooraged.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.network = write_bridge(self.folder / "cni", self.id)
        self.config_file.write_text(self._configuration() + config)
        RECORDER.watch(self.log_file)

    def _configuration(self) -> str:
        return f"""version = 3

[plugins."io.containerd.grpc.v1.cri"]
cgroup_parent = "/{self.cgroup_parent}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dirs = ["{CNI_BIN}"]
conf_dir = "{self.network.conf_dir}"

[plugins."io.containerd.internal.v1.networks"]
bin_dirs = ["{CNI_BIN}"]
bridge = "mr-{self.id}n"
subnets = "{self.network.pool}"

[plugins."io.containerd.nri.v1.nri"]
socket_path = "{self.nri_socket}"
plugin_path = "{self.folder}/nri-plugins"
plugin_config_path = "{self.folder}/nri-conf"

"""

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the daemon and for clients of it: its address, and the tag by which leftovers are found."""
        name, value = self.tag.split("=")
        return {
            **os.environ,
            name: value,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "CONTAINERD_ADDRESS": self.address,
            "MOORAGE_ADDRESS": self.address,
            "MOORAGE_CGROUP_PARENT": f"/{self.cgroup_parent}",
        }

    def command(self) -> list[str]:
        """How it is started."""
        flags = ["--config", self.config_file, "--address", self.address, "--root", self.root, "--state", self.state]
        return [str(BIN / "mooraged"), *map(str, flags), "--log-level", self.log_level]

    def start(self) -> Self:
        """Start it, and return when it says that it is ready."""
        notify = str(self.folder / "notify.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_file.open("ab") as log:
            ready.bind(notify)
            ready.settimeout(0.2)
            self.process = subprocess.Popen(
                self.command(),
                env={**self.environment, "NOTIFY_SOCKET": notify},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            deadline = time.monotonic() + READY_SECONDS
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096).split(b"\n"):
                        return self
        self.kill()
        raise RuntimeError(f"mooraged did not become ready:\n{self.log()[-4000:]}")

    def log(self) -> str:
        """What it has logged so far, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the daemon alone and wait for its end; returns the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        self.process = None
        return status

    def kill(self) -> None:
        """`kill -9`: what runs in containers runs on."""
        self.signal(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as a service manager stops it; containers run on."""
        return self.signal(signal.SIGTERM)

    def restart(self) -> Self:
        """SIGTERM and a new start on the same roots."""
        self.stop()
        return self.start()

    def leftovers(self) -> list[str]:
        """A line for each process, mount and cgroup of this daemon and its containers that is there now."""
        return leftovers(self.folder, self.tag, self.cgroup_parent)

    def close(self) -> None:
        """Kill the daemon and all that it started, and remove every trace of it from the host."""
        if self.process is not None:
            self.kill()
        RECORDER.forget(self.log_file)
        sweep(self.folder, self.tag, self.cgroup_parent)
        self.network.remove()
        self._remove_bridges()
        shutil.rmtree(self.folder)

    def _remove_bridges(self) -> None:
        """Remove the bridges of the command line's networks, which stay for the next container."""
        files = (self.root / "io.containerd.internal.v1.networks" / "conf").glob("*/*.conflist")
        names = [json.loads(file.read_text())["name"] for file in files]
        for name in (f"mr-{self.id}n", *names):
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
            remove_rules(name)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
