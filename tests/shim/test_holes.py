"""What a forked child allocates after its parent has filled the holes."""

from __future__ import annotations

import subprocess
import sys

# Leave holes as loading does: every second object of many goes. Then count the pages that some new objects are on.
_SCRIPT = """
import gc, sys
from moorage_shim.holes import fill_holes
size = int(sys.argv[1])
kept = [bytes(size) for _ in range(4000)]
kept = kept[::2]
gc.disable()
if sys.argv[2] == "filled":
    fill_holes()
found = [bytes(size) for _ in range(40)]
print(len({id(each) >> 12 for each in found}))
"""


def pages(size: int, state: str) -> int:
    command = [sys.executable, "-c", _SCRIPT, str(size), state]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def test_new_objects_are_neighbours() -> None:
    """Forty of 96 or of 480 bytes need one page or two, or five or six."""
    assert pages(60, "filled") <= 2
    assert pages(440, "filled") <= 6 < pages(440, "holes")
