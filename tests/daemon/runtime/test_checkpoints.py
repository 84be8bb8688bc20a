"""Checkpoints as blobs in the real content store; criu itself is played by a task manager that writes files."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moorage_api.containers import Container, Runtime
from moorage_api.errors import DataLoss, InvalidArgument, NotFound, Unimplemented
from moorage_api.types import Descriptor, TypedValue
from moorage_api.wire.runc_options_pb2 import CheckpointOptions
from moorage_content.store import LocalContentStore
from mooraged.runtime import checkpoints


class Criu:
    """Writes a checkpoint's files where it is told."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.error: Exception | None = None

    async def checkpoint(self, container_id: str, path: str, options: TypedValue | None = None) -> None:
        self.paths.append(path)
        if self.error is not None:
            raise self.error
        Path(path, "core-1.img").write_bytes(b"memory" * 1000)
        Path(path, "empty").mkdir()


@pytest.fixture
def content(tmp_path: Path) -> LocalContentStore:
    return LocalContentStore(tmp_path / "content")


@pytest.fixture
def space(content: LocalContentStore) -> Any:
    record = Container("web", Runtime("io.containerd.runc.v2"), TypedValue("spec", b"{}"))
    containers = SimpleNamespace(get=lambda id: record)
    return SimpleNamespace(tasks=Criu(), content=content, containers=containers)


async def test_a_checkpoint_comes_back_as_it_was(space: Any, content: LocalContentStore) -> None:
    archive, config = await checkpoints.save(space, "web", None)
    assert (archive.media_type, config.media_type) == (checkpoints.CHECKPOINT, checkpoints.CONFIG)
    assert content.info(archive.digest).size == archive.size
    assert not os.path.exists(space.tasks.paths[0])
    async with checkpoints.unpacked(content, archive) as folder:
        assert sorted(os.listdir(folder)) == ["core-1.img", "empty"]
        assert Path(folder, "core-1.img").read_bytes() == b"memory" * 1000
    assert not os.path.exists(folder)


async def test_a_checkpoint_into_a_folder_of_the_clients(
    space: Any, content: LocalContentStore, tmp_path: Path
) -> None:
    options = CheckpointOptions(image_path=str(tmp_path)).SerializeToString()
    assert await checkpoints.save(space, "web", TypedValue("containerd.runc.v1.CheckpointOptions", options)) == []
    assert (tmp_path / "core-1.img").exists()
    assert list(content.walk()) == []


async def test_a_checkpoint_that_fails_leaves_nothing(space: Any, content: LocalContentStore) -> None:
    space.tasks.error = Unimplemented("no criu")
    with pytest.raises(Unimplemented):
        await checkpoints.save(space, "web", None)
    assert not os.path.exists(space.tasks.paths[0])
    assert list(content.walk()) == []


async def test_blobs_that_are_no_checkpoint(content: LocalContentStore) -> None:
    async def unpack(media_type: str, data: bytes) -> None:
        with content.writer("blob") as writer:
            writer.write(data)
            info = writer.commit(len(data), writer.digest())
        async with checkpoints.unpacked(content, Descriptor(media_type, info.digest, len(data))):
            pytest.fail("unpacked")

    with pytest.raises(InvalidArgument, match="application/json"):
        await unpack("application/json", b"{}")
    with pytest.raises(DataLoss):
        await unpack(checkpoints.CHECKPOINT, b"x" * 2000)
    with pytest.raises(NotFound):
        async with checkpoints.unpacked(content, Descriptor(checkpoints.CHECKPOINT, "sha256:" + "0" * 64, 1)):
            pytest.fail("unpacked")


async def test_an_archive_that_leads_out_of_its_folder(content: LocalContentStore) -> None:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    data = buffer.getvalue()
    with content.writer("evil") as writer:
        writer.write(data)
        info = writer.commit(len(data), writer.digest())
    with pytest.raises(DataLoss):
        async with checkpoints.unpacked(content, Descriptor(checkpoints.CHECKPOINT, info.digest, len(data))):
            pytest.fail("unpacked")


async def test_no_checkpoint_is_no_folder(content: LocalContentStore) -> None:
    async with checkpoints.unpacked(content, None) as folder:
        assert folder == ""
