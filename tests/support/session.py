"""What belongs to one run of the tests: a folder under /tmp, and names that start with the run's own letters.

Whatever the run leaves on the host (processes, mounts, files, cgroups, links, firewall rules) is known by these.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.leftovers import CGROUPS, mounts_below, tagged_processes

VARIABLE = "MOORAGE_TEST_SESSION"
_RUNTIMES = "copies-of-runtimes"
# Where a daemon lives unless it is told otherwise: every daemon of the tests is.
_DEFAULTS = tuple(Path(path) for path in ("/run/moorage", "/var/lib/moorage", "/etc/moorage", "/run/nri", "/opt/nri"))
_before: set[Path] = set()
"""What the host had before the run of what bears nobody's name."""


def begin() -> Path:
    """Make the run's folder, and let temporary files, here and in child processes, be made in it."""
    os.environ[VARIABLE] = secrets.token_hex(2)
    _before.update(_of_defaults(), _copies())
    folder = Path("/tmp") / f"mt-{os.environ[VARIABLE]}"
    folder.mkdir(mode=0o755)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # Where OCI runtimes under the shims of others copy themselves: their /tmp is the host's.
    copies = folder / _RUNTIMES
    copies.mkdir()
    os.environ["_LIBCONTAINER_STATEDIR"] = str(copies)
    return folder


def _of_defaults() -> set[Path]:
    return {path for path in _DEFAULTS if path.exists()}


def _copies() -> set[Path]:
    """What crun leaves when it is killed while it copies itself."""
    return set(Path("/tmp").glob("crun.*"))


def new_id() -> str:
    """Eight hex digits for names on the host; the first four are the run's, outside of a run random too."""
    return os.environ.get(VARIABLE, secrets.token_hex(2)) + secrets.token_hex(2)


def _cgroups(run: str) -> list[str]:
    folders = [*CGROUPS.iterdir(), *CGROUPS.glob("*/*")]
    return [f"cgroup {path}" for path in folders if path.is_dir() and run in path.name.split("-")[-1][:4]]


def _network(run: str) -> list[str]:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [f"link {line}" for line in links if f"mr-{run}" in line] + [f"rule {x}" for x in rules if f"mr-{run}" in x]


def end(folder: Path) -> list[str]:
    """Remove the run's folder; returns a line for each thing that the tests had left behind."""
    run = os.environ[VARIABLE]
    found = [f"process {pid}: {command}" for pid, command in tagged_processes(f"{VARIABLE}={run}").items()]
    found += [f"mount {point}" for point in mounts_below(folder)]
    found += [f"file {path}" for path in folder.iterdir() if not path.name.startswith(("pytest-of-", _RUNTIMES))]
    found += [f"{path}, made on the host" for path in sorted(_of_defaults() - _before)]
    # Where another run goes on beside this one, a copy may be its own.
    if set(Path("/tmp").glob("mt-*")) == {folder}:
        found += [f"file {path}" for path in sorted(_copies() - _before)]
    found += _cgroups(run) + _network(run)
    if not mounts_below(folder):
        shutil.rmtree(folder)
    return found
