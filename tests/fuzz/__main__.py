"""`./dev fuzz TARGET [SECONDS]`: search for inputs that a target cannot bear, guided by coverage.

What covers something new is added to the target's corpus, which the tests replay; what breaks the target is written to
the corpus too, as `finding-…`, so that the tests fail until it is mended.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["moorage_api.erofs", "moorage_api.oci", "mooraged.differ", "mooraged.transfer.challenges"]
):
    from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_SECONDS = 60
_LENGTH_MAX = 8192
_MEMORY = "/dev/shm"


def main(words: list[str]) -> None:
    """Run one target; further words are options of libFuzzer's."""
    if not words or words[0] not in TARGETS:
        raise SystemExit(f"usage: ./dev fuzz {'|'.join(TARGETS)} [SECONDS] [libFuzzer options]")
    target, *options = words
    seconds = options.pop(0) if options and options[0].isdecimal() else str(_SECONDS)
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-max_len={_LENGTH_MAX}", "-timeout=10", "-rss_limit_mb=2048"]
    arguments = ["fuzz", *limits, f"-artifact_prefix={folder}/finding-", *options]
    dictionary = CORPUS / f"{target}.dict"
    if dictionary.exists():
        arguments.append(f"-dict={dictionary}")
    if os.access(_MEMORY, os.W_OK):
        tempfile.tempdir = _MEMORY
    atheris.Setup([*arguments, str(folder)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
