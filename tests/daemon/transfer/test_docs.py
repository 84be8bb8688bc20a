"""The examples and names of docs/registries.md and docs/images.md are what they say."""

from __future__ import annotations

import re
from pathlib import Path

import mooraged
from moorage_api.oci import image
from mooraged.differ.plugin import DifferConfig
from mooraged.transfer import download
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.hosts import CAPABILITIES, hosts_for
from mooraged.transfer.leases import REFERENCE
from mooraged.transfer.verifiers import BindirConfig

DOCS = Path(mooraged.__file__).parents[2] / "docs"
PAGE = (DOCS / "registries.md").read_text()
IMAGES = (DOCS / "images.md").read_text()
EXAMPLES = re.findall(r"`/etc/moorage/certs\.d/([^/]+)/hosts\.toml`:\n\n```toml\n(.*?)```", PAGE, re.DOTALL)


def test_examples(tmp_path: Path) -> None:
    for name, text in EXAMPLES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts.toml").write_text(text)
    first, second, origin = hosts_for("docker.io", str(tmp_path))
    assert (str(first), first.capabilities) == ("https://mirror.example", {"pull"})
    assert (str(second), second.capabilities, second.dial_timeout) == ("http://10.0.0.5:5000", {"pull", "resolve"}, 2)
    assert (str(origin), origin.capabilities) == ("https://registry-1.docker.io", CAPABILITIES)
    (host,) = hosts_for("registry.example:5000", str(tmp_path))
    folder = tmp_path / "registry.example:5000"
    assert host.tls.ca == (str(folder / "ca.pem"),)
    assert host.tls.client == ((str(folder / "client.pem"), str(folder / "client.key")),)
    assert host.headers == (("x-team", "harbour"),)


def test_names() -> None:
    for folder in TransferConfig().config_path.split(":"):
        assert f"`{folder}`" in PAGE
    assert f"`{REFERENCE}`" in PAGE
    for key in ("config_path", "progress_timeout"):
        assert key in TransferConfig.__struct_fields__
        assert f"`{key}`" in PAGE


def test_keys_and_limits_of_images() -> None:
    known = {*TransferConfig.__struct_fields__, *DifferConfig.__struct_fields__, *BindirConfig.__struct_fields__}
    mentioned = set(re.findall(r"`(max_\w+|ratio_\w+|\w+_timeout|bin_dir)\b", IMAGES)) - {"dial_timeout"}
    assert mentioned <= known
    assert {"max_concurrent_parts", "max_entries", "max_verifiers"} <= mentioned
    manifest, config = image.MANIFEST_MAX >> 20, image.CONFIG_MAX >> 20
    assert f"| {manifest} MiB, {image.ENTRIES_MAX} entries, {image.DEPTH_MAX} indexes within each other |" in IMAGES
    assert f"| a configuration | {config} MiB |" in IMAGES
    assert f"({download.LARGE >> 20} MiB and more)" in IMAGES
    assert f"at most {download.PART >> 20} MiB times" in IMAGES
