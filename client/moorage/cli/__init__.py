"""The command line: docker's verbs and habits on the client library."""

from moorage.cli.app import main

__all__ = ["main"]
