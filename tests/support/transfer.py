"""What the transfer's tests stand on: stores in this process, images of any shape, certificates, a token server."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from moorage_api.differ import Differ
from moorage_api.oci import image as documents
from moorage_content.store import LocalContentStore
from moorage_snapshotter.native import NativeSnapshotter
from mooraged.metadata import Metadata
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.service import LocalTransfer
from support.images import ImageSpec, LayerBuilder, digest_of
from support.webserver import Route, WebServer

HTPASSWD = "anna:$2y$05$moorage.moorage.mooraOdbLZJGTWwX9un9jXEiTOsnDHa1uGs8i\n"
"""The user `anna` with the password `harbour`, as docker-registry reads it."""


class World:
    """The stores of a daemon in this process, and transfers into them."""

    def __init__(
        self,
        folder: Path,
        differ: Differ,
        progress_timeout: float = 1.0,
        snapshotter: NativeSnapshotter | None = None,
    ) -> None:
        self.folder = folder
        self.certs = folder / "certs.d"
        for name in ("content", "native", "metadata", "certs.d"):
            (folder / name).mkdir(exist_ok=True)
        self.snapshotter = snapshotter or NativeSnapshotter(folder / "native")
        self.metadata = Metadata(
            folder / "metadata", LocalContentStore(folder / "content"), {"native": self.snapshotter}
        )
        config = TransferConfig(config_path=str(self.certs), progress_timeout=progress_timeout)
        self.transfer = LocalTransfer(config, self.metadata, differ)

    def hosts(self, domain: str, text: str) -> None:
        """Write `hosts.toml` for the registry `domain`."""
        folder = self.certs / domain
        folder.mkdir(exist_ok=True)
        (folder / "hosts.toml").write_text(text)

    def blobs(self, namespace: str = "default") -> dict[str, dict[str, str]]:
        """The labels of each blob."""
        return {info.digest: dict(info.labels) for info in self.metadata.bind(namespace).content.walk()}

    def leftovers(self, namespace: str = "default") -> list[object]:
        """What a transfer that has ended well, or failed for good, leaves none of."""
        view = self.metadata.bind(namespace)
        active = [info for info in view.snapshotter().walk() if info.kind.value == "Active"]
        return [*view.leases.list(), *view.content.statuses(), *active]

    async def close(self) -> None:
        await self.transfer.close()
        self.metadata.close()
        self.snapshotter.close()


def spec(*names: str, size: int = 0) -> ImageSpec:
    """An image with one layer a name: a file of that name, and `size` bytes that do not compress."""
    noise = random.Random(" ".join(names))
    return ImageSpec(
        [
            LayerBuilder().file(name, name.encode()).file(f"{name}.noise", noise.randbytes(size)).build()
            for name in names
        ]
    )


def put(registry: str, repository: str, kind: str, name: str, data: bytes, media_type: str) -> str:
    """Upload a blob or a manifest to the plain-HTTP registry at host:port; returns its digest."""
    base = f"http://{registry}/v2/{repository}"
    url = f"{base}/manifests/{name}"
    if kind == "blobs":
        start = urllib.request.Request(f"{base}/blobs/uploads/", data=b"", method="POST")
        with urllib.request.urlopen(start, timeout=30) as response:
            location = response.headers["Location"]
        url = f"{location}{'&' if '?' in location else '?'}digest={digest_of(data)}"
    upload = urllib.request.Request(url, data=data, method="PUT", headers={"Content-Type": media_type})
    with urllib.request.urlopen(upload, timeout=30):
        return digest_of(data)


def put_index(
    registry: str,
    repository: str,
    tag: str,
    entries: Sequence[Mapping[str, Any]],
    media_type: str = documents.OCI_INDEX,
) -> str:
    """Upload an index of what is there already."""
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}).encode()
    return put(registry, repository, "manifests", tag, data, media_type)


def entry(data: bytes, media_type: str = documents.OCI_MANIFEST, platform: str = "") -> dict[str, Any]:
    """A descriptor as an index has it; `platform` as `os/architecture[/variant]`."""
    known = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False)) if platform else {}
    found = {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
    return {**found, "platform": known} if known else found


def layer_digests(image: ImageSpec) -> list[str]:
    """The digests of the compressed layers."""
    return [digest_of(layer) for layer in image.blobs()[1]]


class Certificates:
    """An authority of one's own in `folder`, and what it signs for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = self._make("ca", "/CN=Moorage test authority", ["-x509"], ["basicConstraints=critical,CA:TRUE"])
        self.server = self._sign("server", ["subjectAltName=IP:127.0.0.1", "extendedKeyUsage=serverAuth"])
        self.client = self._sign("client", ["extendedKeyUsage=clientAuth"])

    def key(self, certificate: Path) -> Path:
        return certificate.with_suffix(".key")

    def _make(self, name: str, subject: str, more: Sequence[str], extensions: Sequence[str]) -> Path:
        path = self.folder / f"{name}.pem"
        added = [word for extension in extensions for word in ("-addext", extension)]
        command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", self.key(path), "-out", path, "-subj", subject, "-days", "2"]
        subprocess.run([*command, *files, *more, *added], check=True, capture_output=True)
        return path

    def _sign(self, name: str, extensions: Sequence[str]) -> Path:
        signer = ["-CA", self.ca, "-CAkey", self.key(self.ca)]
        return self._make(name, f"/CN={name}", ["-x509", *map(str, signer)], ["basicConstraints=CA:FALSE", *extensions])


class TokenServer(WebServer):
    """A token server that docker-registry believes: it signs with `certificates`' authority.

    It gives pull tokens to `anna` with the password `harbour`, and to whoever brings the identity token `anchor`.
    """

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self.requests: list[str] = []

    def configuration(self) -> dict[str, Any]:
        """The `auth` of a registry that sends its clients here."""
        realm = f"http://{self.address}/token"
        token = {"realm": realm, "service": "dock", "issuer": "harbourmaster", "rootcertbundle": str(self._root)}
        return {"auth": {"token": token}}

    @property
    def _root(self) -> Path:
        return self._certificates.ca

    def routes(self) -> list[Route]:
        return [("*", "/token", self._handle)]

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path_qs}")
        form = await request.post() if request.method == "POST" else {}
        basic = "Basic " + base64.b64encode(b"anna:harbour").decode()
        if request.headers.get("Authorization") != basic and form.get("refresh_token") != "anchor":
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}, status=401)
        scopes = str(form["scope"]).split() if form else request.query.getall("scope", [])
        access = [dict(zip(("type", "name", "actions"), scope.split(":"), strict=True)) for scope in scopes]
        return web.json_response({"token": self._sign(access), "expires_in": 300})

    def _sign(self, access: Sequence[Mapping[str, str]]) -> str:
        now = int(time.time())
        chain = subprocess.run(
            ["openssl", "x509", "-in", self._root, "-outform", "DER"], check=True, capture_output=True
        ).stdout
        header = {"alg": "ES256", "typ": "JWT", "x5c": [base64.b64encode(chain).decode()]}
        claims = {
            "iss": "harbourmaster",
            "sub": "anna",
            "aud": "dock",
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
            "jti": hashlib.sha256(repr(access).encode()).hexdigest(),
            "access": [{**one, "actions": one["actions"].split(",")} for one in access],
        }
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        key = self._certificates.key(self._root)
        der = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), check=True, capture_output=True
        ).stdout
        return f"{text}.{_base64url(_raw_signature(der))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _raw_signature(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature, 32 bytes each, out of their DER form (RFC 7518, section 3.4)."""
    numbers, position = [], 2
    for _ in range(2):
        length = der[position + 1]
        numbers.append(int.from_bytes(der[position + 2 : position + 2 + length]))
        position += 2 + length
    return b"".join(number.to_bytes(32) for number in numbers)
