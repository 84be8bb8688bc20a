"""The command `mooraged`: the daemon, and what looks at its configuration."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from moorage_api.discovery import Discovery, discover
from moorage_api.errors import MoorageError
from mooraged import logs
from mooraged.config import DEFAULT_PATH, Config, ConfigError, Loaded, Overrides, load, render
from mooraged.config.schema import LEVELS
from mooraged.version import VERSION


@dataclass(frozen=True, slots=True)
class _Options:
    path: str | None
    overrides: Overrides

    def load(self, discovery: Discovery) -> Loaded:
        """The configuration with the flags over it; prints every problem and exits with 1 where it does not hold."""
        try:
            return load(self.path, self.overrides, discovery.registrations, complete=not discovery.failures)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(f"mooraged: {problem}", err=True)
            sys.exit(1)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--state", metavar="DIR", help="Folder for what a reboot clears."),
        click.option("--root", metavar="DIR", help="Folder for what must survive a reboot."),
        click.option("--log-format", "format", type=click.Choice(["text", "json"]), help="How a log line looks."),
        click.option("-l", "--log-level", "level", type=click.Choice(LEVELS), help="What is logged."),
        click.option("-a", "--address", metavar="PATH", help="Path of the Unix socket for clients."),
        click.option("-c", "--config", "path", metavar="FILE", help=f"Configuration file (default: {DEFAULT_PATH})."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_options
@click.version_option(VERSION, "-v", "--version", prog_name="mooraged")
@click.pass_context
def main(context: click.Context, /, path: str | None, **flags: str | None) -> None:
    """The Moorage daemon: containers, with plugins and namespaces."""
    options = _Options(path, Overrides(**{name: value or "" for name, value in flags.items()}))
    context.obj = options
    if context.invoked_subcommand is None:
        _serve(options)


@main.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
def default() -> None:
    """Print every key with its default and its description."""
    discovery = _discover()
    plugins = {r.uri: r.config() for r in discovery.registrations if r.config is not None}
    click.echo(render(Config(), plugins, discovery.registrations), nl=False)


@config.command()
@click.pass_obj
def dump(options: _Options) -> None:
    """Print the configuration that the daemon would run with."""
    discovery = _discover()
    loaded = options.load(discovery)
    click.echo(render(loaded.config, loaded.plugins, discovery.registrations), nl=False)


@config.command()
@click.pass_obj
def check(options: _Options) -> None:
    """Print all errors in the configuration and exit with 1, or exit with 0."""
    for problem in options.load(_discover()).warnings:
        click.echo(f"mooraged: warning: {problem}", err=True)


def _discover() -> Discovery:
    """All plugins; those that cannot be loaded are named on standard error, since their keys are not shown."""
    discovery = discover()
    for failure in discovery.failures:
        click.echo(f"mooraged: warning: plugin {failure.id} cannot be loaded: {failure.error}", err=True)
    return discovery


def _serve(options: _Options) -> None:
    from mooraged.daemon import run

    discovery = discover()
    loaded = options.load(discovery)
    logs.configure(loaded.config.debug.level, loaded.config.debug.format)
    try:
        asyncio.run(run(loaded, discovery))
    except MoorageError as error:
        click.echo(f"mooraged: {error}", err=True)
        sys.exit(1)
