"""Verbs that take several names: one after the other, and what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from moorage.cli.app import App
from moorage.cli.errors import FAILURE
from moorage_api.errors import MoorageError, NotFound


async def for_each(
    app: App,
    names: Sequence[str],
    action: Callable[[str], Awaitable[object]],
    *,
    missing_ok: bool = False,
    answer: bool = False,
) -> int:
    """Do `action` for each name; print what was given, or with `answer` the result. What fails is told. Returns the
    exit code."""
    failed = 0
    for name in names:
        try:
            result = await action(name)
            print(result if answer else name)
        except MoorageError as error:
            if missing_ok and isinstance(error, NotFound):
                continue
            failed = FAILURE
            app.tell(error)
    return failed


async def describe_each(app: App, names: Sequence[str], describe: Callable[[str], Awaitable[Mapping[str, Any]]]) -> int:
    """Show all that is known of each name. Of what fails, the user is told. Returns the exit code."""
    found, failed = [], 0
    for name in names:
        try:
            found.append(await describe(name))
        except MoorageError as error:
            failed = FAILURE
            app.tell(error)
    app.describe(found)
    return failed


def confirmed(question: str, *, force: bool) -> bool:
    """Whether the user wants it: asked on the terminal, unless they said so before."""
    import click

    return force or click.confirm(f"WARNING! {question}", default=False, err=True)
