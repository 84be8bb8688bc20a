"""`moorage_cri.nri.gate` and `moorage_cri.nri.validator`: small parts by themselves."""

from __future__ import annotations

import asyncio

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri.gate import Busy, Gate
from moorage_cri.nri.validator import _list, annotation


async def test_who_looks_waits_for_changes_and_keeps_others_out() -> None:
    gate, steps, go = Gate(), list[str](), asyncio.Event()

    async def change(name: str, until: asyncio.Event) -> None:
        async with gate:
            steps.append(f"{name} begins")
            await until.wait()
            steps.append(f"{name} ends")

    async def look() -> None:
        async with gate.look(10):
            steps.append("looks")

    first = asyncio.create_task(change("first", go))
    await asyncio.sleep(0)
    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    second = asyncio.create_task(change("second", go))
    await asyncio.sleep(0)
    assert steps == ["first begins"]
    go.set()
    await asyncio.gather(first, looking, second)
    assert steps == ["first begins", "first ends", "looks", "second begins", "second ends"]


async def test_a_change_that_hangs_is_not_waited_for_for_ever() -> None:
    gate = Gate()
    async with gate:
        with pytest.raises(Busy):
            async with gate.look(0.01):
                raise AssertionError("it must not look")
        async with asyncio.timeout(5), gate:
            pass
    async with gate.look(0.01):
        pass


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("[]", []),
        ('["a", "10-b"]', ["a", "10-b"]),
        ("[a, b]", ["a", "b"]),
        ("- a\n- '10-b'\n- \"c\"\n", ["a", "10-b", "c"]),
    ],
)
def test_lists_in_annotations(text: str, names: list[str]) -> None:
    assert _list(text) == names


@pytest.mark.parametrize("text", ["a", "{}", '{"a": 1}', "[1]", "- a\nb"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no list of names"):
        _list(text)


def test_an_annotation_of_the_container_comes_first() -> None:
    pod = pb.PodSandbox(annotations={"k/container.c": "own", "k/pod": "pod", "k": "plain", "l": "plain"})
    assert [annotation(pod, *each) for each in (("k", "c"), ("k", "d"), ("l", "c"), ("m", "c"), ("", "c"))] == [
        "own", "pod", "plain", None, None,
    ]  # fmt: skip
