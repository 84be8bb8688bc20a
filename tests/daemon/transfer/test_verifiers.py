"""Image verifiers: what they are told, what they may say, and that nothing but a yes is a yes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, Internal, MoorageError, NotFound, PermissionDenied
from moorage_api.types import Descriptor
from moorage_api.verifier import Judgement
from mooraged.transfer.verifiers import Bindir, Gate
from support.registry import Registry
from support.transfer import World

NAME = "shelf.test/box:1"
TARGET = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "0" * 64, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "verifiers"
    made.mkdir()
    return made


def verifier(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def judge(folder: Path, most: int = 10, timeout: float = 20) -> Judgement:
    return await Bindir(str(folder), most, timeout).verify(NAME, TARGET)


async def test_a_verifier_is_told_what_the_contract_says(folder: Path) -> None:
    verifier(folder, "one", f'echo "$@" > {folder.parent}/args; cat > {folder.parent}/stdin; echo fine; echo psst >&2')
    judged = await judge(folder)
    assert judged == Judgement(True, "one: fine")
    expected = f"-name {NAME} -digest {TARGET.digest} -stdin-media-type application/vnd.oci.descriptor.v1+json"
    assert (folder.parent / "args").read_text().strip() == expected
    told = json.loads((folder.parent / "stdin").read_text())
    assert told == {"mediaType": TARGET.media_type, "digest": TARGET.digest, "size": 2}


async def test_all_must_accept_in_the_order_of_their_names(folder: Path) -> None:
    verifier(folder, "b", "echo second; exit 3")
    verifier(folder, "a", "echo first")
    verifier(folder, "c", f"touch {folder.parent}/asked")
    judged = await judge(folder)
    assert not judged.ok
    assert "b rejects it (exit status 3): second" in judged.reason
    assert not (folder.parent / "asked").exists()


async def test_no_more_than_the_most_are_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    verifier(folder, "a", "exit 0")
    verifier(folder, "b", "exit 1")
    assert (await judge(folder, most=1)).ok
    assert "1 of 2 image verifiers" in caplog.text
    assert not (await judge(folder, most=-1)).ok
    assert (await judge(folder, most=0)).ok


async def test_no_verifiers_accept_everything(folder: Path) -> None:
    assert (await judge(folder)).ok
    assert (await judge(folder / "not there")).ok


async def test_what_forbids(folder: Path) -> None:
    verifier(folder, "a", "kill -9 $$")
    with pytest.raises(FailedPrecondition, match="killed by signal 9"):
        await judge(folder)
    verifier(folder, "a", "sleep 600")
    started = time.monotonic()
    with pytest.raises(FailedPrecondition, match=r"within 0\.3 seconds"):
        await judge(folder, timeout=0.3)
    assert time.monotonic() - started < 15
    # A child that keeps the output open does not keep the daemon waiting either.
    verifier(folder, "a", "sleep 600 & exit 0")
    with pytest.raises(FailedPrecondition, match="within"):
        await judge(folder, timeout=0.3)
    (folder / "a").chmod(0o644)
    with pytest.raises(FailedPrecondition, match="cannot be run"):
        await judge(folder)
    (folder / "a").unlink()
    (folder / "folder").mkdir()
    with pytest.raises(FailedPrecondition, match="cannot be run"):
        await judge(folder)
    with pytest.raises(FailedPrecondition, match="cannot be listed"):
        await judge(Path(os.__file__))


async def test_a_talkative_verifier_is_cut_short(folder: Path) -> None:
    verifier(folder, "a", "yes | head -c 3000000; yes | head -c 3000000 >&2; exit 0")
    judged = await judge(folder)
    assert judged.ok
    assert len(judged.reason) < 40_000


class Says:
    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def verify(self, name: str, target: Descriptor) -> Judgement:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Judgement(False, "no"), PermissionDenied),
        (Judgement("yes"), PermissionDenied),  # type: ignore[arg-type]
        (Internal("broken"), FailedPrecondition),
        (ValueError("a defect"), FailedPrecondition),
        (None, FailedPrecondition),
    ],
)
async def test_only_a_yes_is_a_yes(answer: object, error: type[MoorageError]) -> None:
    if answer is None:
        gate = Gate({"a": Says(Judgement(True))}, {"b": NotFound("no such library")})
    else:
        gate = Gate({"a": Says(Judgement(True)), "b": Says(answer)})
    with pytest.raises(error, match=NAME):
        await gate.check(NAME, TARGET)


async def test_a_pull_that_is_forbidden_fetches_nothing(world: World, busybox: str, registry: Registry) -> None:
    world.transfer.gate = Gate({"no": Says(Judgement(False, "not in this harbour"))})
    with pytest.raises(PermissionDenied, match="not in this harbour"):
        await world.transfer.bind("default").pull(busybox)
    assert world.blobs() == {}
    assert world.metadata.bind("default").images.list() == []
    world.transfer.gate = Gate({"yes": Says(Judgement(True))})
    await world.transfer.bind("default").pull(busybox)
