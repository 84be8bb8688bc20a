"""What commands print: tables, JSON lines, templates. The one place that knows how a list looks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.cli.template import Template

_GAP, _LEAST = 3, 10
"""Spaces behind the longest cell of a column, and the width of the narrowest column: docker's."""
_TABLE = "table"


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], format: str = "", least: int = _LEAST
) -> None:
    """Print a list. `columns` maps the headings of the table to fields of the rows.

    `format` is empty or `table` for the table, `json` for one object a line, `table TEMPLATE` for a table of the
    template's fields, or a template.
    """
    if format in ("", _TABLE):
        _print_table([list(columns), *([str(row[field]) for field in columns.values()] for row in rows)], least)
    elif format == "json":
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif format.startswith(f"{_TABLE} "):
        template = Template(format.removeprefix(_TABLE).strip())
        headings = {field: heading for heading, field in columns.items()}
        lines = [template.render({**template.headings, **_known(headings, template)})]
        lines += [template.render(row) for row in rows]
        _print_table([line.split("\t") for line in lines], least)
    else:
        template = Template(format)
        for row in rows:
            print(template.render(row))


def _known(headings: Mapping[str, str], template: Template) -> dict[str, str]:
    return {field: headings[field] for field in template.headings if field in headings}


def print_object(value: Any, format: str = "") -> None:
    """Print one thing: indented JSON, or by a template."""
    if format in ("", "json", _TABLE):
        print(json.dumps(value, indent=4, ensure_ascii=False))
    else:
        print(Template(format).render(value))


def warn(message: str) -> None:
    """Tell on standard error what the user should know; never raises."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        return


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis where some are left out."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _print_table(table: Sequence[Sequence[str]], least: int) -> None:
    widths = [max(len(row[column]) for row in table if column < len(row)) for column in range(len(table[0]))]
    limit = _width_of_terminal()
    for row in table:
        cells = [cell.ljust(max(width + _GAP, least)) for cell, width in zip(row, widths, strict=False)]
        line = "".join(cells).rstrip()
        print(shorten(line, limit) if limit else line)


def _width_of_terminal() -> int:
    """The columns of the terminal that is printed to; zero where it is none, and nothing is to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() and "COLUMNS" not in os.environ else 0
