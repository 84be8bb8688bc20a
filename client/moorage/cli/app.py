"""The command line's frame: global options, verbs that are loaded when they are used, and the fate of errors."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from moorage.cli import errors
from moorage.cli.lazy import LazyGroup
from moorage_api.errors import MoorageError

if TYPE_CHECKING:
    from moorage.client import Client

P = ParamSpec("P")

VERBS = {
    "attach": "lifecycle:attach_verb",
    "commit": "change:commit",
    "completion": "groups:completion",
    "container": "groups:container",
    "content": "content:content",
    "cp": "copy:cp",
    "create": "run:create",
    "diff": "observe:diff",
    "events": "events:events",
    "exec": "execute:exec",
    "gc": "disk:gc",
    "explain-pull": "explain:explain_pull",
    "history": "history:history",
    "image": "groups:image",
    "images": "images:images",
    "info": "system:info",
    "inspect": "inspect:inspect",
    "import": "importing:import_",
    "kill": "lifecycle:kill",
    "lease": "leases:lease",
    "load": "archives:load",
    "login": "login:login",
    "logout": "login:logout",
    "logs": "logs:logs",
    "namespace": "namespaces:ns",
    "network": "networks:network",
    "ns": "namespaces:ns",
    "pause": "change:pause",
    "plugin": "plugin:plugin",
    "plugins": "system:plugins",
    "port": "observe:port",
    "ps": "ps:ps",
    "pull": "images:pull",
    "push": "archives:push",
    "rename": "change:rename",
    "restart": "change:restart",
    "rm": "lifecycle:rm",
    "rmi": "images:rmi",
    "run": "run:run",
    "save": "archives:save",
    "snapshot": "snapshots:snapshot",
    "start": "lifecycle:start",
    "stats": "observe:stats",
    "stop": "lifecycle:stop",
    "system": "groups:system",
    "tag": "history:tag",
    "top": "observe:top",
    "unpause": "change:unpause",
    "update": "change:update",
    "version": "system:version",
    "volume": "volumes:volume",
    "wait": "lifecycle:wait",
}


@dataclass(frozen=True)
class Settings:
    """The global options."""

    address: str
    namespace: str
    format: str
    quiet: bool


@dataclass(frozen=True)
class App:
    """What a command works with: a connected client, and the options of all commands (with its own of `--format` and
    `--quiet` in place of the global ones)."""

    client: Client
    settings: Settings

    @property
    def format(self) -> str:
        return self.settings.format

    @property
    def quiet(self) -> bool:
        return self.settings.quiet

    def show(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], key: str) -> None:
        """Print a list as the user wants it; quietly, the field `key` of each row alone."""
        from moorage.cli.output import print_rows

        if not self.quiet:
            print_rows(rows, columns, self.format)
            return
        for row in rows:
            print(row[key])

    def describe(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Print all that is known of some things: a JSON list, or one after the other by the user's template."""
        from moorage.cli.output import print_object

        if self.format in ("", "table"):
            print_object(found)
            return
        for each in found:
            print_object(each, self.format)

    def tell(self, error: MoorageError) -> None:
        """Tell the user of an error that does not end the command."""
        say(errors.explain(error, self.client.address))


class _Verbs(LazyGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(verbs=VERBS, **settings)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-a", "--address", default="", metavar="PATH", help="The daemon's socket [MOORAGE_ADDRESS].")
@click.option("-n", "--namespace", default="", metavar="NAME", help="The namespace [MOORAGE_NAMESPACE; default].")
@click.option("--format", default="", metavar="FORMAT", help="table, json, or a Go template.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids or names, one a line.")
@click.pass_context
def cli(ctx: click.Context, address: str, namespace: str, format: str, quiet: bool) -> None:
    """Containers, as docker's users know them, on a daemon that speaks containerd's API."""
    ctx.obj = Settings(address, namespace, format, quiet)


def formatted(command: Callable[P, Any]) -> Callable[P, Any]:
    """Give a command its own `--format` and `--quiet`."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="Only ids or names, one a line.")
    return click.option("--format", default="", metavar="FORMAT", help="table, json, or a Go template.")(quiet(command))


def connected(
    failure: int = errors.FAILURE,
) -> Callable[[Callable[Concatenate[App, P], Awaitable[int | None]]], Callable[P, int | None]]:
    """Make a click command of a coroutine that takes an `App` first and returns the exit code (None: 0).

    `failure` is the exit code for errors that bring none of their own.
    """

    def decorate(function: Callable[Concatenate[App, P], Awaitable[int | None]]) -> Callable[P, int | None]:
        @functools.wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> int | None:
            own = {name: kwargs.pop(name) for name in ("address", "namespace", "format", "quiet") if name in kwargs}
            given = {name: value for name, value in own.items() if value}
            settings: Settings = replace(click.get_current_context().obj, **given)

            async def run() -> int | None:
                from moorage.client import connect

                async with connect(settings.address, settings.namespace) as client:
                    try:
                        return await function(App(client, settings), *args, **kwargs)
                    except MoorageError as error:
                        say(errors.explain(error, client.address))
                        return error.exit_code if isinstance(error, errors.CommandError) else failure

            return asyncio.run(run())

        for name in ("--namespace", "--address"):
            # Known before the verb; taken behind it, too.
            command = click.option(name, default="", hidden=True)(command)
        return command

    return decorate


def main(arguments: list[str] | None = None) -> None:
    """The program. Its exit code is docker's: 125 for a wrong use, 1 for a failure, or what the command says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(execute(sys.argv[1:] if arguments is None else arguments))


def execute(arguments: list[str]) -> int:
    """Run a command line; returns its exit code."""
    try:
        code = cli.main(arguments, prog_name="moorage", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _usage(error)
    except MoorageError as error:
        say(error.message)
        return errors.DAEMON_ERROR
    except (KeyboardInterrupt, click.Abort):
        return errors.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left: nothing more to say.
        _drop_output()
        return errors.FAILURE
    except UnicodeEncodeError as error:
        say(f"{error.object[:40]!r} is not UTF-8, as all that is told to the daemon must be")
        return errors.DAEMON_ERROR
    except OSError as error:
        _drop_output()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        say(f"cannot write: {error.strerror}" if full else f"the system says: {error}")
        return errors.FAILURE
    except Exception as error:  # noqa: BLE001 - a user is never shown a traceback
        return _defect(error)


def _drop_output() -> None:
    """Let what is still to be written go nowhere, at the interpreter's end, too."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "moorage"
    message = error.format_message()
    say(f"{message}{'' if message.endswith(('.', '?', '!')) else '.'} See '{path} --help'.")
    return errors.DAEMON_ERROR


def _defect(error: Exception) -> int:
    if os.environ.get("MOORAGE_DEBUG"):
        traceback.print_exception(error)
    say(f"internal error: {type(error).__name__}: {error}. MOORAGE_DEBUG=1 shows where.")
    return errors.DAEMON_ERROR


def say(message: str) -> None:
    """Tell the user what went wrong."""
    click.echo(f"moorage: {message}", err=True)
