"""The archive of a checkpoint."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2

if TYPE_CHECKING:
    from tarfile import TarFile


def write_archive(location: str, images: Path, config: cri_pb2.ContainerConfig, spec: TypedValue | None) -> None:
    """Write it whole, mode 0600, and rename it into place: a file at `location` is replaced, or nothing is there."""
    import tarfile  # slow, and rarely needed

    scratch = f"{location}.{os.getpid()}.tmp"
    try:
        with tarfile.open(scratch, "x:") as archive:
            os.chmod(scratch, 0o600)
            archive.add(images, "checkpoint")
            document = json_format.MessageToJson(config, preserving_proto_field_name=True)
            _add(archive, "config.dump", document.encode())
            _add(archive, "spec.dump", spec.value if spec is not None else b"{}")
        os.replace(scratch, location)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _add(archive: TarFile, name: str, data: bytes) -> None:
    import tarfile

    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    archive.addfile(entry, io.BytesIO(data))
