"""Images whose documents lie: served by a registry that does not look at them, or in an archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moorage_api.errors import DataLoss, InvalidArgument, MoorageError, ResourceExhausted
from moorage_api.oci import image as documents
from support.archives import tar_of
from support.images import digest_of
from support.lyingregistry import Answer, LyingRegistry
from support.tars import archive, entry

Described = dict[str, Any]
FILE = archive(entry("file", data=b"x" * 3000))
_MB = 1 << 20


class Shelf:
    """Blobs and documents under the digests that are claimed for them."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[bytes, str]] = {}

    def put(self, data: bytes, media_type: str, digest: str = "", **changes: object) -> Described:
        """Take in `data`; returns a descriptor of it, with `changes`."""
        digest = digest or digest_of(data)
        self.blobs[digest] = data, media_type
        return {"mediaType": media_type, "digest": digest, "size": len(data), **changes}

    def config(self, layers: Sequence[bytes] = (FILE,), **changes: object) -> Described:
        document = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
        return self.put(json.dumps(document | changes).encode(), documents.OCI_CONFIG)

    def layer(self, data: bytes = FILE, media_type: str = documents.OCI_LAYER, **changes: object) -> Described:
        return self.put(data, media_type, **changes)

    def manifest(self, **changes: object) -> Described:
        """A manifest of one layer, of which anything may be said."""
        document = {"schemaVersion": 2, "mediaType": documents.OCI_MANIFEST} | changes
        document.setdefault("config", self.config())
        document.setdefault("layers", [self.layer()])
        return self.put(json.dumps(document).encode(), documents.OCI_MANIFEST)

    def index(self, *manifests: Described, **changes: object) -> Described:
        document = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": manifests} | changes
        return self.put(json.dumps(document).encode(), documents.OCI_INDEX)

    def serve(self, registry: LyingRegistry, tag: str, root: Described) -> None:
        """Put all of it onto a registry."""
        for digest, (data, media_type) in self.blobs.items():
            registry.answers[f"manifests/{digest}"] = Answer(data, media_type)
            registry.answers[f"blobs/{digest}"] = Answer(data)
        data, _ = self.blobs[root["digest"]]
        headers = {"Docker-Content-Digest": root["digest"]}
        registry.answers[f"manifests/{tag}"] = Answer(data, root["mediaType"], headers=headers)

    def layout(self, root: Described) -> bytes:
        """All of it as an OCI archive."""
        index = {"schemaVersion": 2, "manifests": [root]}
        blobs = {f"blobs/{digest.replace(':', '/')}": data for digest, (data, _) in self.blobs.items()}
        return tar_of(
            {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}
        )


def layered(shelf: Shelf, layers: Sequence[bytes], media_type: str = documents.OCI_LAYER) -> Described:
    """An image of these layers, which says of each that it is uncompressed."""
    return shelf.manifest(config=shelf.config(layers), layers=[shelf.layer(data, media_type) for data in layers])


@dataclass(frozen=True)
class BadDocuments:
    """An image that `make` puts on a shelf, and what a pull must end with; an import too, unless `loads` says how that ends
    (None: well, since nothing in it is wrong by itself)."""

    make: Callable[[Shelf], Described]
    error: type[MoorageError]
    why: str
    loads: tuple[type[MoorageError], str] | None = (MoorageError, "")

    @property
    def load(self) -> tuple[type[MoorageError], str] | None:
        return (self.error, self.why) if self.loads == (MoorageError, "") else self.loads


def _text(text: bytes, media_type: str = documents.OCI_MANIFEST) -> Callable[[Shelf], Described]:
    return lambda shelf: shelf.put(text, media_type)


def _manifest(**changes: object) -> Callable[[Shelf], Described]:
    return lambda shelf: shelf.manifest(**changes)


def _with_layer(**changes: object) -> Callable[[Shelf], Described]:
    return lambda shelf: shelf.manifest(layers=[shelf.layer() | changes])


def _chain(length: int) -> Callable[[Shelf], Described]:
    def make(shelf: Shelf) -> Described:
        found = shelf.manifest()
        for _ in range(length):
            found = shelf.index(found)
        return found

    return make


def _cycle(shelf: Shelf) -> Described:
    """An index that names one under whose digest it is served itself."""
    claimed = "sha256:" + "c" * 64
    child = {"mediaType": documents.OCI_INDEX, "digest": claimed, "size": 1}
    for _ in range(3):
        made = shelf.index(child)
        child = child | {"size": made["size"]}
        del shelf.blobs[made["digest"]]
    root = shelf.index(child)
    shelf.blobs[claimed] = shelf.blobs[root["digest"]]
    return root


def _crowd(shelf: Shelf) -> Described:
    return shelf.index(*[shelf.index(annotations={"number": str(number)}) for number in range(300)])


def _twice(shelf: Shelf) -> Described:
    layer = shelf.layer()
    return shelf.manifest(config=shelf.config((FILE, FILE)), layers=[layer, layer | {"size": len(FILE) + 1}])


_DEEP = b'{"mediaType":"' + documents.OCI_MANIFEST.encode() + b'","config":' + b"[" * _MB
_NOT_READ = "at most"

BAD_DOCUMENTS: Mapping[str, BadDocuments] = {
    "a manifest of 100 MB": BadDocuments(_text(b"{" + b" " * (100 * _MB) + b"}"), ResourceExhausted, _NOT_READ),
    "a child of 100 MB": BadDocuments(
        lambda shelf: shelf.index(shelf.put(b" " * (100 * _MB), documents.OCI_MANIFEST)),
        ResourceExhausted,
        "manifests have",
        (ResourceExhausted, _NOT_READ),
    ),
    "a configuration of 100 MB": BadDocuments(
        lambda shelf: shelf.manifest(config=shelf.put(b" " * (100 * _MB), documents.OCI_CONFIG)),
        ResourceExhausted,
        _NOT_READ,
    ),
    "an empty configuration": BadDocuments(
        lambda shelf: shelf.manifest(config=shelf.put(b"", documents.OCI_CONFIG)),
        InvalidArgument,
        "empty",
        (InvalidArgument, "not JSON"),
    ),
    "a manifest a mile deep": BadDocuments(_text(_DEEP), ResourceExhausted, "nested too deeply"),
    "a closed manifest a mile deep": BadDocuments(
        _text(_DEEP + b"]" * _MB + b"}"), ResourceExhausted, "nested too deeply"
    ),
    "an index a mile deep": BadDocuments(
        _text(b'{"manifests":' + b'{"a":' * 500_000, documents.OCI_INDEX), ResourceExhausted, "nested too deeply"
    ),
    "a configuration a mile deep": BadDocuments(
        lambda shelf: shelf.manifest(config=shelf.put(b'{"a":' * _MB, documents.OCI_CONFIG)),
        ResourceExhausted,
        "nested too deeply",
    ),
    "no JSON": BadDocuments(_text(b"<html>"), InvalidArgument, "not JSON"),
    "no object": BadDocuments(_text(b"[]"), InvalidArgument, "not a JSON object"),
    "a string that is no text": BadDocuments(_text(b'{"mediaType":"\xff\xfe"}'), InvalidArgument, "not JSON"),
    "nothing of an image": BadDocuments(_text(b"{}"), InvalidArgument, "not well-formed"),
    "too many indexes within each other": BadDocuments(_chain(8), ResourceExhausted, "indexes"),
    "an index that is its own child": BadDocuments(_cycle, DataLoss, "was expected", (InvalidArgument, "digest")),
    "a crowd of indexes": BadDocuments(_crowd, ResourceExhausted, "more than 256 indexes and manifests", None),
    "too many manifests": BadDocuments(
        lambda shelf: shelf.index(
            *[{"mediaType": documents.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 9}] * 5000
        ),
        ResourceExhausted,
        "5000 manifests",
    ),
    "too many layers": BadDocuments(
        lambda shelf: shelf.manifest(layers=[shelf.layer()] * 5000), ResourceExhausted, "5000 layers"
    ),
    "a manifest that calls itself an index": BadDocuments(
        _manifest(mediaType=documents.OCI_INDEX), InvalidArgument, "calls itself"
    ),
    "an index that calls itself a manifest": BadDocuments(
        lambda shelf: shelf.index(shelf.manifest(), mediaType=documents.OCI_MANIFEST), InvalidArgument, "calls itself"
    ),
    "manifest and index in one": BadDocuments(
        lambda shelf: shelf.manifest(manifests=[shelf.manifest()]), InvalidArgument, "another kind of document"
    ),
    "a child of another kind than its index says": BadDocuments(
        lambda shelf: shelf.index(shelf.manifest() | {"mediaType": documents.DOCKER_MANIFEST}),
        InvalidArgument,
        "calls itself",
    ),
    "a layer that calls itself text": BadDocuments(
        lambda shelf: layered(shelf, [FILE], "text/plain"), InvalidArgument, "not one of a layer"
    ),
    "more layers than diff IDs": BadDocuments(
        lambda shelf: shelf.manifest(layers=[shelf.layer(), shelf.layer(b"other")]), InvalidArgument, "1 diff IDs"
    ),
    "a layer that is not its diff ID": BadDocuments(
        lambda shelf: shelf.manifest(config=shelf.config((b"another",))), DataLoss, "configuration says"
    ),
    "a diff ID that is none": BadDocuments(
        lambda shelf: shelf.manifest(config=shelf.config(rootfs={"type": "layers", "diff_ids": ["../../x"]})),
        InvalidArgument,
        "digest",
    ),
    "a digest with a path": BadDocuments(
        _with_layer(digest="sha256:../../../../outside/secret"), InvalidArgument, "digest"
    ),
    "a digest of no known kind": BadDocuments(_with_layer(digest="md5:" + "0" * 32), InvalidArgument, "digest"),
    "a layer of negative size": BadDocuments(_with_layer(size=-1), InvalidArgument, "size of -1"),
    "a layer of a huge size": BadDocuments(
        _with_layer(size=1 << 62), ResourceExhausted, "free", (InvalidArgument, "its descriptor says")
    ),
    "a layer of a size beyond numbers": BadDocuments(_with_layer(size=1 << 70), InvalidArgument, ""),
    "a layer of no size": BadDocuments(_with_layer(size="many"), InvalidArgument, "not well-formed"),
    "one layer of two sizes": BadDocuments(_twice, DataLoss, "it has", (InvalidArgument, "its descriptor says")),
}
