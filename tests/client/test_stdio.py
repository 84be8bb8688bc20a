"""FIFOs between a process and its client."""

from __future__ import annotations

import asyncio
import os
import select

import pytest

from moorage import stdio
from moorage_api.runtime import Stdio
from support.descriptors import none_left


async def test_what_is_written_arrives_whole_and_nothing_is_left() -> None:
    with none_left():
        out, err = bytearray(), bytearray()
        async with stdio.Fifos() as fifos:
            assert fifos.stdio.stdin == ""
            fifos.read_into(stdio.collector(out), stdio.collector(err))
            await asyncio.sleep(0.05)
            with open(fifos.stdio.stderr, "wb") as end:
                end.write(b"oops")
            with open(fifos.stdio.stdout, "wb") as end:
                await asyncio.to_thread(end.write, b"x" * 1_000_000)
            await fifos.drained()
        assert (len(out), bytes(err)) == (1_000_000, b"oops")
        assert not os.path.exists(fifos.folder)


async def test_input_reaches_a_reader_that_comes_later_and_its_end_is_told() -> None:
    told = asyncio.Event()
    pieces = iter([b"a" * 200_000, b"b", b""])

    async def source() -> bytes:
        return next(pieces)

    async def at_end() -> None:
        told.set()

    async with stdio.Fifos(terminal=True, stdin=True) as fifos:
        assert fifos.stdio.stderr == ""
        fifos.write_from(source, at_end)
        await asyncio.sleep(0.05)

        def read() -> bytes:
            with open(fifos.stdio.stdin, "rb") as end:
                return end.read()

        assert await asyncio.to_thread(read) == b"a" * 200_000 + b"b"
        await asyncio.wait_for(told.wait(), 5)


async def test_a_stream_that_a_child_keeps_open_is_not_waited_for_without_end() -> None:
    out = bytearray()
    async with stdio.Fifos(terminal=True) as fifos:
        fifos.read_into(stdio.collector(out))
        end = os.open(fifos.stdio.stdout, os.O_WRONLY)
        os.write(end, b"before")
        await asyncio.wait_for(fifos.drained(patience=0.1), 5)
        os.close(end)
    assert out == b"before"


async def test_a_slow_sink_is_waited_for() -> None:
    seen = bytearray()

    async def slow(data: bytes) -> None:
        await asyncio.sleep(0.4)
        seen.extend(data)

    async with stdio.Fifos(terminal=True) as fifos:
        fifos.read_into(slow)
        with open(fifos.stdio.stdout, "wb") as end:
            end.write(b"late")
        await fifos.drained(patience=0.05)
    assert seen == b"late"


async def test_an_error_of_a_sink_is_raised() -> None:
    async def broken(_data: bytes) -> None:
        raise BrokenPipeError

    async with stdio.Fifos(terminal=True) as fifos:
        fifos.read_into(broken)
        with open(fifos.stdio.stdout, "wb") as end:
            end.write(b"x")
        with pytest.raises(BrokenPipeError):
            await fifos.drained()


async def test_kept_fifos_stay_until_they_are_removed() -> None:
    async with stdio.Fifos() as fifos:
        fifos.keep()
    assert os.path.exists(fifos.stdio.stdout)
    stdio.remove_kept(fifos.stdio)
    assert not os.path.exists(fifos.folder)


def test_only_own_fifos_are_removed(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "out")
    with open(path, "w"):
        pass
    stdio.remove_kept(Stdio(stdout=path))
    stdio.remove_kept(Stdio(stdout="cri:///x"))
    assert os.path.exists(path)


async def test_writing_to_a_full_pipe_does_not_block_the_loop() -> None:
    reader, writer = os.pipe()
    data = os.urandom(300_000)
    sending = asyncio.create_task(stdio.fd_sink(writer)(data))
    await asyncio.sleep(0.05)
    assert not sending.done()
    received = bytearray()
    while len(received) < len(data):
        await stdio.ready(reader, select.POLLIN)
        received += os.read(reader, 65536)
    await sending
    assert received == data
    os.close(reader)
    os.close(writer)


async def test_files_are_always_ready(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "w+b") as file:
        await stdio.fd_sink(file.fileno())(b"text")
        file.seek(0)
        source = stdio.fd_source(file.fileno())
        assert (await source(), await source()) == (b"text", b"")
