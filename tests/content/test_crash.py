"""kill -9 while content is written: what is left is whole blobs and resumable ingests, and all that was acknowledged."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists
from moorage_content import LocalContentStore

CHUNK = 64 << 10
KILLS = 12

WRITER = """
import sys
from pathlib import Path
from moorage_api.errors import AlreadyExists
from moorage_content import LocalContentStore
sys.path.insert(0, sys.argv[2])
from test_crash import blob, digest_of, write
store = LocalContentStore(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(int(sys.argv[3]), 1_000_000):
    try:
        write(store, number)
    except AlreadyExists:
        pass
    print(number, flush=True)
"""


def blob(number: int) -> bytes:
    """Blob `number`: from a few bytes to some hundred kilobytes."""
    size = (number * 7919) % (6 * CHUNK)
    return (b"%d " % number) * (size // len(b"%d " % number) + 1)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write(store: LocalContentStore, number: int) -> None:
    """Write blob `number` from wherever its ingest stands."""
    data = blob(number)
    with store.writer(f"ref-{number}", len(data), digest_of(data)) as writer:
        start = writer.status().offset
        assert writer.digest() == digest_of(data[:start]), "a resumed ingest has the bytes that were written"
        for offset in range(start, len(data), CHUNK):
            writer.write(data[offset : offset + CHUNK])
        writer.commit(len(data), digest_of(data))


def check(folder: Path, acknowledged: int) -> LocalContentStore:
    """Open the store as the next start does, and check every file in it."""
    store = LocalContentStore(folder)
    present = set()
    for path in (folder / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "a blob is whole, or is not there"
        present.add(f"sha256:{path.name}")
    missing = [number for number in range(acknowledged) if digest_of(blob(number)) not in present]
    assert not missing, "what was acknowledged is there"
    for folder_of_ingest in (folder / "ingest").iterdir():
        assert (folder_of_ingest / "ref").exists(), "a torn ingest is removed at the start"
    for status in store.statuses():
        number = int(status.ref.removeprefix("ref-"))
        try:
            write(store, number)
        except AlreadyExists:
            store.abort(status.ref)
    assert store.statuses() == []
    return store


@pytest.mark.timeout(120)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(20)
    here = str(Path(__file__).parent)
    acknowledged = 0
    resumed = 0
    for _ in range(KILLS):
        arguments = [sys.executable, "-c", WRITER, str(tmp_path), here, str(acknowledged)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.12))
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                acknowledged = int(line) + 1
        resumed += len(list((tmp_path / "ingest").iterdir()))
        check(tmp_path, acknowledged)
    assert acknowledged > KILLS, "the writer got somewhere between kills"
    assert resumed, "some kill left an ingest behind"
