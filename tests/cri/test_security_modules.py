"""AppArmor and SELinux, as far as a kernel without them lets one see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.oci import spec as oci
from moorage_api.wire import cri_pb2
from moorage_cri.container import apparmor, selinux


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of AppArmor's, which keeps what it is given."""
    program = tmp_path / "bin/apparmor_parser"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $* > {tmp_path}/args\ncat > {tmp_path}/profile\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_the_default_profile_is_loaded_once(parser: Path, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.write_text("other (enforce)\n")
    assert apparmor.ensure_default(str(profiles)) == apparmor.NAME
    assert (tmp_path / "args").read_text().split()[0] == "--replace"
    text = (tmp_path / "profile").read_text()
    assert text.startswith(f"profile {apparmor.NAME} ")
    assert "deny mount," in text
    (tmp_path / "profile").unlink()
    profiles.write_text(f"other (enforce)\n{apparmor.NAME} (enforce)\n")
    assert apparmor.ensure_default(str(profiles)) == apparmor.NAME
    assert not (tmp_path / "profile").exists()


def test_a_profile_that_cannot_be_loaded(parser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser.write_text("#!/bin/sh\ncat > /dev/null\necho no such feature >&2\nexit 1\n")
    with pytest.raises(FailedPrecondition, match="no such feature"):
        apparmor.ensure_default(str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="not installed"):
        apparmor.ensure_default(str(tmp_path / "none"))


def test_labels() -> None:
    spec = oci.default_spec(args=["true"])
    assert selinux.apply(spec, cri_pb2.SELinuxOption()) == "system_u:object_r:container_file_t:s0"
    assert spec["process"]["selinuxLabel"] == "system_u:system_r:container_t:s0"
    options = cri_pb2.SELinuxOption(user="u", role="r", type="t", level="s0:c1,c2")
    assert selinux.apply(spec, options) == "u:object_r:container_file_t:s0:c1,c2"
    assert spec["process"]["selinuxLabel"] == "u:r:t:s0:c1,c2"
    assert spec["linux"]["mountLabel"] == "u:object_r:container_file_t:s0:c1,c2"


def test_labels_that_cannot_be() -> None:
    for options in (cri_pb2.SELinuxOption(type="a:b"), cri_pb2.SELinuxOption(level="x" * 5000)):
        with pytest.raises(InvalidArgument):
            selinux.check(options)


def test_a_volume_is_relabelled(tmp_path: Path) -> None:
    """The kernel keeps the attribute though it has no SELinux. A link is labelled itself, not where it leads."""
    (tmp_path / "volume/sub").mkdir(parents=True)
    (tmp_path / "volume/sub/file").touch()
    (tmp_path / "outside").touch()
    (tmp_path / "volume/link").symlink_to(tmp_path / "outside")
    selinux.relabel(str(tmp_path / "volume"), "u:r:t:s0")
    for name in ("volume", "volume/sub", "volume/sub/file", "volume/link"):
        found = os.getxattr(tmp_path / name, "security.selinux", follow_symlinks=False)
        assert found == b"u:r:t:s0\0", name
    with pytest.raises(OSError, match="No data"):
        os.getxattr(tmp_path / "outside", "security.selinux")


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/../etc", "/var"])
def test_the_host_s_own_folders_are_not_relabelled(path: str) -> None:
    with pytest.raises(InvalidArgument):
        selinux.relabel(path, "u:r:t:s0")
