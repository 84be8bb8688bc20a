"""One daemon, two worlds: a pod as a kubelet runs it, and a container as a docker user does, on the same Moorage.

Run by `./dev run`. Everything is real and private: a registry on a free port, seeded with an image made from
busybox-static; a daemon on roots under /tmp with a bridge and a cgroup of its own. Nothing is left behind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.images import push
from support.registry import Registry

console = Console(highlight=False)
SCRIPT = "i=0; while true; do i=$((i+1)); echo {} $i; sleep 0.2; done"


def title(text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/]")


def show(text: object) -> None:
    console.print(str(text).rstrip(), markup=False, soft_wrap=True)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    """Return when `condition` holds; `TimeoutError` that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.05)


class Session:
    """The steps of the demonstration, on a running daemon and registry."""

    def __init__(self, daemon: Daemon, cri: CriClient, image: str) -> None:
        self.daemon, self.cri, self.image = daemon, cri, image
        self.pod = self.container = ""
        self.log = daemon.folder / "pods/counter.log"

    def command(self, *words: str) -> None:
        """Run a client as a person would, and show the line and what it prints."""
        console.print(f"[dim]$ {' '.join(words)}[/]", highlight=False)
        show(self.daemon.run(*words))

    def run_pod(self) -> None:
        title("Kubernetes' world: PullImage, RunPodSandbox, CreateContainer, StartContainer")
        self.log.parent.mkdir()
        self.cri.PullImage(image=cri_pb2.ImageSpec(image=self.image))
        config = pod_config("demo", log_directory=self.log.parent)
        self.pod = self.cri.run_pod(config)
        script = SCRIPT.format("tick")
        self.container = self.cri.start(
            self.pod, config, container_config(self.image, "sh", "-c", script, name="counter", log_path=self.log.name)
        )
        status = self.cri.PodSandboxStatus(pod_sandbox_id=self.pod).status
        show(f"pod {self.pod[:12]} has the address {status.network.ip}; container {self.container[:12]} runs")

    def run_container(self) -> None:
        title("A docker user's world: moorage pull, moorage run")
        self.command("moorage", "pull", self.image)
        self.command("moorage", "run", "-d", "--name", "clock", self.image, "sh", "-c", SCRIPT.format("tock"))

    def show_both(self) -> None:
        title("Neither sees the other")
        self.command("moorage", "ps")
        console.print("[dim]CRI ListContainers[/]")
        for found in self.cri.ListContainers().containers:
            state = cri_pb2.ContainerState.Name(found.state)
            show(
                f"{found.id[:12]}  {found.metadata.name}  {state}  {found.image.user_specified_image or found.image.image}"
            )
        for namespace in ("default", "k8s.io"):
            self.command("ctr", "-n", namespace, "containers", "ls")

    def logs_and_exec(self) -> None:
        title("Logs and exec, in each")
        wait_for(lambda: self.log.exists() and len(self.log.read_text().splitlines()) >= 3, "the pod's log")
        console.print("[dim]the pod's log[/]")
        show("\n".join(self.log.read_text().splitlines()[:3]))
        console.print("[dim]CRI ExecSync: hostname[/]")
        show(self.cri.execute(self.container, "hostname").stdout.decode())
        self.command("moorage", "logs", "--tail", "3", "clock")
        self.command("moorage", "exec", "clock", "hostname")

    def stop(self) -> None:
        title("Stop and remove all")
        self.cri.StopContainer(container_id=self.container, timeout=1)
        self.cri.StopPodSandbox(pod_sandbox_id=self.pod)
        self.cri.RemovePodSandbox(pod_sandbox_id=self.pod)
        self.cri.RemoveImage(image=cri_pb2.ImageSpec(image=self.image))
        self.command("moorage", "stop", "--time", "1", "clock")
        self.command("moorage", "rm", "clock")
        self.command("moorage", "rmi", self.image)
        self.command("ctr", "namespaces", "ls")

    def run(self) -> None:
        """All of it, in order."""
        self.command("moorage", "version")
        self.run_pod()
        self.run_container()
        self.show_both()
        self.logs_and_exec()
        self.stop()


def main() -> int:
    """Run the demonstration; 0 when it went through and left nothing behind."""
    title("A registry with an image made from busybox-static, and the daemon")
    with tempfile.TemporaryDirectory() as folder, Registry(Path(folder)) as registry:
        push(registry.address, "library/busybox", "latest")
        with Daemon() as daemon, CriClient(daemon.address) as cri:
            show(f"registry {registry.address}, daemon {daemon.address}")
            Session(daemon, cri, f"{registry.address}/library/busybox:latest").run()
            daemon.stop()
            if daemon.leftovers():
                raise RuntimeError("left behind: " + "; ".join(daemon.leftovers()))
    title("Done: no process, mount, network namespace or cgroup is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
