"""Images made from Debian's busybox-static, and their way into a registry, with nothing but the standard library."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
MTIME = 1_700_000_000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\nwww-data:x:33:\nstaff:x:50:www-data\nnogroup:x:65534:\n"
ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`, as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class LayerBuilder:
    """An uncompressed layer, entry by entry; the same entries give the same bytes."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed in build

    def _add(self, name: str, kind: bytes, mode: int, data: bytes = b"", target: str = "") -> LayerBuilder:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size, info.linkname = kind, mode, MTIME, len(data), target
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755) -> LayerBuilder:
        return self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> LayerBuilder:
        return self._add(name, tarfile.REGTYPE, mode, data)

    def symlink(self, name: str, target: str) -> LayerBuilder:
        return self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def build(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


@cache
def busybox_layer() -> bytes:
    """A root file system: busybox, a link for each applet, and the folders and files that programs expect."""
    layer = LayerBuilder()
    for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "var", "var/www"):
        layer.folder(name, 0o700 if name == "root" else 0o755)
    layer.folder("tmp", 0o1777)
    layer.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            layer.symlink(f"bin/{applet}", "busybox")
    layer.file("etc/passwd", PASSWD.encode()).file("etc/group", GROUP.encode())
    return layer.build()


@cache
def _gzip(layer: bytes) -> bytes:
    return gzip.compress(layer, 6, mtime=0)


@dataclass(frozen=True)
class ImageSpec:
    """What goes into an image: uncompressed layers, bottom first, and the `config` of its configuration."""

    layers: Sequence[bytes] = field(default_factory=lambda: [busybox_layer()])
    config: Mapping[str, object] = field(default_factory=lambda: {"Cmd": ["sh"], "Env": [ENV]})
    architecture: str = "amd64"

    def blobs(self) -> tuple[bytes, list[bytes]]:
        """The configuration and the compressed layers."""
        config = {
            "architecture": self.architecture,
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in self.layers]},
            "history": [{"created_by": "support.images"} for _ in self.layers],
        }
        return json.dumps(config).encode(), [_gzip(layer) for layer in self.layers]

    def manifest(self) -> bytes:
        """The OCI manifest that names the blobs."""
        config, layers = self.blobs()
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "size": len(config), "digest": digest_of(config)},
                "layers": [{"mediaType": LAYER, "size": len(x), "digest": digest_of(x)} for x in layers],
            }
        ).encode()


def _request(
    method: str, url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(response.headers)


def _push_blob(base: str, data: bytes) -> None:
    digest = digest_of(data)
    try:
        _request("HEAD", f"{base}/blobs/{digest}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    else:
        return
    location = _request("POST", f"{base}/blobs/uploads/", b"")["Location"]
    separator = "&" if "?" in location else "?"
    _request("PUT", f"{location}{separator}digest={digest}", data, {"Content-Type": "application/octet-stream"})


def push(registry: str, repository: str, tag: str, image: ImageSpec | None = None) -> str:
    """Push an image (default: busybox alone) to the plain-HTTP registry at host:port; returns its manifest's digest."""
    image = image or ImageSpec()
    base = f"http://{registry}/v2/{repository}"
    config, layers = image.blobs()
    for blob in (config, *layers):
        _push_blob(base, blob)
    manifest = image.manifest()
    _request("PUT", f"{base}/manifests/{tag}", manifest, {"Content-Type": MANIFEST})
    return digest_of(manifest)
