"""A pod's checkpoint on disk, and what is known of each container in it.

pod.json             the version, and of each container what `Saved` says; written last: without it there is no checkpoint
0/checkpoint/        the images of criu, of the first container
0/rootfs.tar         what it has changed in its root file system, as an OCI layer
1/…
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from moorage_api.errors import DataLoss, FailedPrecondition, NotFound
from moorage_api.wire import cri_pb2

IMAGES = "checkpoint"
ROOTFS = "rootfs.tar"
_MANIFEST = "pod.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Saved:
    """One container: its name in the pod, the id of its image, its configuration, and the digest and size of what it has
    changed."""

    name: str
    image: str
    config: dict[str, Any]
    digest: str
    size: int

    @property
    def configuration(self) -> cri_pb2.ContainerConfig:
        """`DataLoss` where it is none."""
        try:
            return json_format.ParseDict(self.config, cri_pb2.ContainerConfig(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise DataLoss(f"the configuration of container {self.name} in the checkpoint: {error}") from error


def begin(folder: Path, containers: int) -> None:
    """Make the folders. `FailedPrecondition` for a folder that is not there, or not empty."""
    if not folder.is_dir():
        raise FailedPrecondition(f"the folder {folder} for the checkpoint does not exist")
    if any(folder.iterdir()):
        raise FailedPrecondition(f"the folder {folder} for the checkpoint is not empty")
    for number in range(containers):
        # Memory and files of containers are for nobody else to read.
        (folder / str(number)).mkdir(mode=0o700)
        (folder / str(number) / IMAGES).mkdir(mode=0o700)


def finish(folder: Path, containers: Sequence[Saved]) -> None:
    """Write what makes it a checkpoint."""
    document = {"version": _VERSION, "containers": [asdict(each) for each in containers]}
    scratch = folder / f"{_MANIFEST}.tmp"
    scratch.touch(0o600)
    scratch.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(scratch, folder / _MANIFEST)


def discard(folder: Path) -> None:
    """Empty the folder, which is the caller's."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read(folder: Path) -> list[Saved]:
    """What a checkpoint holds, in the order of its folders. `NotFound`, `DataLoss`."""
    try:
        document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise DataLoss(f"the checkpoint {folder} is of version {document['version']}, not {_VERSION}")
        return [Saved(**each) for each in document["containers"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no checkpoint of a pod in {folder}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"the checkpoint {folder} cannot be read: {error!r}") from error
