"""The configuration of transfers."""

from __future__ import annotations

from typing import Annotated

import msgspec


class TransferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins."io.containerd.transfer.v1.local"]`."""

    config_path: Annotated[
        str,
        msgspec.Meta(
            description="Folders of registry configuration, separated by colons: <folder>/<host[:port]>/hosts.toml."
        ),
    ] = "/etc/moorage/certs.d:/etc/containerd/certs.d:/etc/docker/certs.d"
    max_concurrent_downloads: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="How many layers of one image are fetched at once.")
    ] = 3
    max_concurrent_parts: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=16, description="How many parts of one large layer are fetched at once; 1 to fetch layers whole."
        ),
    ] = 3
    max_concurrent_uploads: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="How many blobs of one image are sent to a registry at once.")
    ] = 3
    max_concurrent_unpacks: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="How many layers are unpacked at once in the whole daemon.")
    ] = 2
    progress_timeout: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Seconds without a byte from a registry after which a request counts as failed."
        ),
    ] = 60.0
    threads: Annotated[
        int, msgspec.Meta(ge=1, le=256, description="How many calls to stores and snapshotters transfers make at once.")
    ] = 16
