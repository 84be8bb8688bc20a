"""kill -9 while a namespace is written to: the next start finds what was acknowledged, and nothing torn."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.storage import Storage, digest_of

KILLS = 6
TESTS = Path(__file__).parents[2]

CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.storage import Storage, container, digest_of, image, put
storage = Storage(Path(sys.argv[1]))
view = storage.bind("one")
print("ready", flush=True)
for number in range(int(sys.argv[3]), 1_000_000):
    digest = put(view, b"blob %d" % number, {"containerd.io/gc.root": "now"}).digest
    view.snapshotter().prepare(f"active-{number}")
    view.snapshotter().commit(f"base-{number}", f"active-{number}", {"containerd.io/gc.root": "now"})
    view.images.create(image(f"image-{number}", digest))
    view.containers.create(container(f"container-{number}", {"moorage.io/name": f"name-{number}"}))
    print(number, flush=True)
"""


def check(folder: Path, acknowledged: list[int]) -> None:
    """Open as the next start does."""
    storage = Storage(folder)
    view = storage.bind("one")
    storage.collector.collect()
    snapshots = {info.name: info for info in view.snapshotter().walk()}
    for number in acknowledged:
        with view.content.open(digest_of(b"blob %d" % number)) as reader:
            assert reader.pread(100, 0) == b"blob %d" % number
        view.images.get(f"image-{number}")
        view.containers.get(f"container-{number}")
        assert f"base-{number}" in snapshots
    for info in view.content.walk():
        view.content.open(info.digest).close()
    for name in snapshots:
        view.snapshotter().usage(name)
    backend = list(storage.native.walk())
    assert len(backend) == len(snapshots), "no snapshot in the backend that nobody knows"
    assert len(list((folder / "native" / "snapshots").iterdir())) == len(backend), "no folder either"
    assert {info.digest for info in storage.content.walk()} == {info.digest for info in view.content.walk()}
    storage.close()


@pytest.mark.timeout(120)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(20)
    done: list[int] = []
    for run in range(KILLS):
        # Each run has numbers of its own: what a kill cut short was not acknowledged, and may stand half-way.
        arguments = [sys.executable, "-c", CLIENT, str(tmp_path), str(TESTS), str(run * 1000)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            # However slow the machine is today, something was acknowledged.
            done.append(int(process.stdout.readline()))
            time.sleep(rng.uniform(0.02, 0.2))
            process.send_signal(signal.SIGKILL)
            done += [int(line) for line in process.stdout]
        check(tmp_path, done)
    assert len(done) >= KILLS
