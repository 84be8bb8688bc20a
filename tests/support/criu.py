"""criu, where it works: Debian 12's does not know kernels of today."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache


@cache
def problem() -> str:
    """Why nothing can be checkpointed here; empty where it can."""
    if shutil.which("criu") is None:
        return "criu is not installed"
    check = subprocess.run(["criu", "check"], capture_output=True, text=True, check=False)
    return "" if check.returncode == 0 else f"criu check fails: {check.stderr.strip()[-200:]}"
