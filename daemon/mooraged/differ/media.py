"""Media types of layers, and which bytes they announce."""

from __future__ import annotations

from typing import Literal

from moorage_api.errors import InvalidArgument, Unimplemented

Compression = Literal["", "gzip", "zstd"]

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FOREIGN_OCI_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYERS = (
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)

# With which compression a layer is written, by the media type asked for.
WRITABLE: dict[str, Compression] = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    _DOCKER_LAYERS[0]: "",
    f"{_DOCKER_LAYERS[0]}.gzip": "gzip",
    f"{_DOCKER_LAYERS[0]}.zstd": "zstd",
}


def check_readable(media_type: str) -> None:
    """Accept the media types of layers, OCI's and Docker's; how they are compressed is seen in the bytes.

    `Unimplemented` for encrypted layers, `InvalidArgument` for everything else.
    """
    base, _, suffixes = media_type.partition("+")
    if "encrypted" in suffixes.split("+"):
        raise Unimplemented(f"layers of media type {media_type} cannot be decrypted here")
    docker = base.removesuffix(".gzip").removesuffix(".zstd")
    known = base in (OCI_LAYER, _FOREIGN_OCI_LAYER) or docker in _DOCKER_LAYERS
    if not known or suffixes not in ("", "gzip", "zstd"):
        raise InvalidArgument(f"media type {media_type!r} is not one of a layer")


def compression_for(media_type: str) -> Compression:
    """How to compress a layer of this media type. `InvalidArgument` where it is not one that is written here."""
    try:
        return WRITABLE[media_type]
    except KeyError:
        raise InvalidArgument(
            f"layers of media type {media_type!r} are not written here: choose one of {', '.join(WRITABLE)}"
        ) from None
