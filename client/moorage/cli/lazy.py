"""Groups whose commands are imported when they are used: `moorage version` needs no table of images."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """`verbs` maps each command to `module:name` below `moorage.cli`."""

    def __init__(self, name: str | None, verbs: Mapping[str, str], **settings: Any) -> None:
        super().__init__(name, **settings)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module, _, name = self.verbs[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"moorage.cli.{module}"), name)
        return command
