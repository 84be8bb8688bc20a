"""The command line: docker's verbs and habits on the client library."""

import os
import signal
import sys

# An interrupt while modules are imported would be shown as a traceback; `main` takes the usual handler back.
if os.path.basename(sys.argv[0]) == "moorage":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from moorage.cli.app import main

__all__ = ["main"]
