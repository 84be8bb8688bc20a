"""The real peer: Debian's containerd on private roots, for comparisons and for checks of wire compatibility."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from moorage_shim.cgroups import UNIFIED, is_hybrid
from support.clients import Clients
from support.cni import write_bridge
from support.leftovers import leftovers, sweep
from support.session import new_id

BIN = Path(sys.executable).parent
READY_SECONDS = 60
_PURE = ("unshare", "--mount", "sh", "-c", f'umount {UNIFIED} && exec "$@"', "sh")


class Peer(Clients):
    """A `containerd` process with its CRI plugin; `pause` is the reference of an image for its pause containers.

    With `pure_cgroups` it and all that it starts do not see the second, empty hierarchy of a hybrid host, where crun refuses
    to work; their mounts are in a namespace of their own then.
    """

    def __init__(
        self, pause: str = "", runtime: str = "runc", folder: Path | None = None, *, pure_cgroups: bool = False
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="peer-"))
        self.id = new_id()
        self.tag = f"MOORAGE_TEST_ID={self.id}"
        self.cgroup_parent = f"peer-{self.id}"
        self.address = str(self.folder / "containerd.sock")
        self.log_file = self.folder / "containerd.log"
        self._prefix = _PURE if pure_cgroups and is_hybrid() else ()
        self.network = write_bridge(self.folder / "cni", self.id)
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "config.toml").write_text(self._configuration(pause, runtime))

    def _configuration(self, pause: str, runtime: str) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"

[grpc]
address = "{self.address}"

[{cri}]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_port = "0"

[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.network.conf_dir}"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
BinaryName = "{shutil.which(runtime)}"

[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
"""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the process and of clients of it; Moorage's shim is on its PATH."""
        name, value = self.tag.split("=")
        path = f"{BIN}:{os.environ['PATH']}"
        return {**os.environ, name: value, "PATH": path, "CONTAINERD_ADDRESS": self.address}

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace")

    def restart(self) -> Self:
        """`kill -9` and a new start: what runs in containers runs on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        return self.start()

    def start(self) -> Self:
        """Start it, and return when its socket accepts connections."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, "containerd", "--config", str(self.folder / "config.toml")],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(self.address)
                return self
            time.sleep(0.02)
        self.close()
        raise RuntimeError("containerd did not become ready")

    def leftovers(self) -> list[str]:
        """A line for each process, mount and cgroup that is there now."""
        return leftovers(self.folder, self.tag, self.cgroup_parent)

    def close(self) -> None:
        """Kill it and all that it started, and remove every trace of it from the host."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        sweep(self.folder, self.tag, self.cgroup_parent)
        self.network.remove()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
