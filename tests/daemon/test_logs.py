"""The log's two formats."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from mooraged import logs

Start = Callable[[str, str], io.StringIO]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure the root logger onto a buffer; all is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = {name: logging.getLogger(name).level for name in logs.NOISY}

    def configure(level: str, format: str) -> io.StringIO:
        buffer = io.StringIO()
        logs.configure(level, format, buffer)
        return buffer

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in noisy.items():
        logging.getLogger(name).setLevel(value)


def test_logfmt_is_one_line_a_record(start: Start) -> None:
    buffer = start("info", "text")
    logger = logging.getLogger("x")
    logger.info("ready", extra={"address": "/a b", "count": 3, "empty": "", "quote": 'a"b', "plain": "a/b:c"})
    logger.warning("two\nlines")
    first, second = buffer.getvalue().splitlines()
    assert first.split(" ", 1)[1] == ('level=info msg=ready address="/a b" count=3 empty="" quote="a\\"b" plain=a/b:c')
    assert first.startswith("time=20")
    assert second.endswith('level=warn msg="two\\nlines"')


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_stays_within_its_record(start: Start, format: str) -> None:
    buffer = start("info", format)
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("x").exception("failed")
    [line] = buffer.getvalue().splitlines()
    assert "Traceback" in line
    if format == "json":
        record = json.loads(line)
        assert (record["level"], record["msg"], record["error"]) == ("error", "failed", "a\nb")


def test_levels_have_containerds_names(start: Start) -> None:
    buffer = start("trace", "json")
    logger = logging.getLogger("x")
    for level in (logs.TRACE, 10, 20, 30, 40, 50, logs.PANIC):
        logger.log(level, "m")
    levels = [json.loads(line)["level"] for line in buffer.getvalue().splitlines()]
    assert levels == ["trace", "debug", "info", "warn", "error", "fatal", "panic"]


def test_what_is_below_the_level_is_not_written(start: Start) -> None:
    buffer = start("error", "text")
    logging.getLogger("x").warning("m")
    logging.getLogger("asyncio").info("m")
    assert buffer.getvalue() == ""
