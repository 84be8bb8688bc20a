"""Indexes, manifests and configurations: both forms, and everything a registry may lie about."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api.errors import DataLoss, InvalidArgument, MoorageError, ResourceExhausted, Unimplemented
from moorage_api.oci import image
from moorage_api.types import Descriptor, Platform

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def descriptor(
    media_type: str = image.OCI_LAYER_GZIP, digest: str = DIGEST, size: int = 5, **more: Any
) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def manifest(**more: Any) -> bytes:
    document = {"schemaVersion": 2, "config": descriptor(image.OCI_CONFIG), "layers": [descriptor(digest=OTHER)]}
    return json.dumps({**document, **more}).encode()


def test_manifest_children_are_the_configuration_and_the_layers() -> None:
    parsed = image.parse_manifest(manifest(), image.OCI_MANIFEST)
    assert [(child.media_type, child.digest) for child in parsed.children()] == [
        (image.OCI_CONFIG, DIGEST),
        (image.OCI_LAYER_GZIP, OTHER),
    ]


def test_docker_forms() -> None:
    data = manifest(mediaType=image.DOCKER_MANIFEST, layers=[descriptor(image.DOCKER_LAYER_GZIP)])
    assert image.is_layer(image.parse_manifest(data, image.DOCKER_MANIFEST).children()[1].media_type)
    entry = descriptor(image.DOCKER_MANIFEST, platform={"os": "linux", "architecture": "arm", "variant": "v7"})
    index = json.dumps({"schemaVersion": 2, "mediaType": image.DOCKER_LIST, "manifests": [entry]}).encode()
    (child,) = image.parse_index(index, image.DOCKER_LIST).children()
    assert child.platform == Platform("linux", "arm", "v7")


def test_children_of_other_media_types_are_none() -> None:
    assert image.children(image.OCI_CONFIG, b"anything") == []


def test_configuration_with_nulls() -> None:
    data = (
        b'{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Volumes":{"/data":{}},"Labels":null}}'
    )
    config = image.parse_config(data)
    assert config.config.env == ()
    assert config.config.cmd == ("sh",)
    assert list(config.config.volumes) == ["/data"]
    assert config.platform() == Platform("linux", "amd64")


def test_chain_ids() -> None:
    chain = image.chain_ids([DIGEST, OTHER, DIGEST])
    second = "sha256:" + hashlib.sha256(f"{DIGEST} {OTHER}".encode()).hexdigest()
    assert chain[:2] == [DIGEST, second]
    assert chain[2] == "sha256:" + hashlib.sha256(f"{second} {DIGEST}".encode()).hexdigest()
    assert image.chain_ids([]) == []


def test_descriptor_goes_both_ways() -> None:
    given_ = Descriptor(image.OCI_MANIFEST, DIGEST, 7, {"a": "b"}, Platform("linux", "arm", "v7", "", ("x",)))
    assert image.DescriptorDocument.of(given_).descriptor() == given_


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidArgument),
        (b"null", InvalidArgument),
        (b"[]", InvalidArgument),
        (b"\xff\xfe", InvalidArgument),
        (b'{"config":' * 300_000, ResourceExhausted),
        (b"[" * 1_000_000, ResourceExhausted),
        (b" " * (image.MANIFEST_MAX + 1), ResourceExhausted),
        (manifest(layers=[None]), InvalidArgument),
        (manifest(layers=[descriptor()] * 5000), ResourceExhausted),
        (manifest(mediaType=image.OCI_INDEX), InvalidArgument),
        (manifest(manifests=[]), InvalidArgument),
        (manifest(config={"digest": DIGEST}), InvalidArgument),
        (manifest(schemaVersion=1), Unimplemented),
    ],
)
def test_refuses_a_manifest(data: bytes, error: type[MoorageError]) -> None:
    with pytest.raises(error):
        image.parse_manifest(data, image.OCI_MANIFEST)


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 70])
def test_refuses_a_size_that_is_none(size: int) -> None:
    parsed = image.parse_manifest(manifest(layers=[descriptor(size=size)]))
    with pytest.raises(InvalidArgument, match="size"):
        parsed.children()


@pytest.mark.parametrize("digest", ["", "sha256:short", "md5:" + "0" * 32, DIGEST.upper(), DIGEST + "\n"])
def test_refuses_a_digest_that_is_none(digest: str) -> None:
    parsed = image.parse_manifest(manifest(layers=[descriptor(digest=digest)]))
    with pytest.raises(InvalidArgument, match="digest"):
        parsed.children()


def test_refuses_an_index_that_is_also_a_manifest() -> None:
    data = json.dumps({"manifests": [], "layers": [], "config": descriptor(image.OCI_CONFIG)}).encode()
    with pytest.raises(InvalidArgument, match="another kind"):
        image.parse_index(data)
    with pytest.raises(InvalidArgument, match="another kind"):
        image.parse_manifest(data)


def test_refuses_bad_diff_ids() -> None:
    with pytest.raises(InvalidArgument):
        image.parse_config(json.dumps({"rootfs": {"type": "layers", "diff_ids": ["x"]}}).encode())


def test_verifies() -> None:
    data = b"hello"
    right = Descriptor("", "sha256:" + hashlib.sha256(data).hexdigest(), 5)
    assert image.verify(data, right) is data
    with pytest.raises(DataLoss):
        image.verify(b"hellO", right)
    with pytest.raises(DataLoss):
        image.verify(b"hello!", right)
    long = Descriptor("", "sha512:" + hashlib.sha512(data).hexdigest(), 5)
    assert image.verify(data, long) is data


KEYS = ["config", "layers", "manifests", "mediaType", "digest", "size", "rootfs", "diff_ids", "platform", "annotations"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=20,
)


@given(st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (image.parse_index, image.parse_manifest, image.parse_config):
        with contextlib.suppress(MoorageError):
            read(data)
