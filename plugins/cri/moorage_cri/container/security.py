"""Security of a container: capabilities, seccomp, AppArmor, privilege."""

from __future__ import annotations

import json
from typing import Any

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.oci import capabilities, devices, seccomp
from moorage_api.oci import spec as oci
from moorage_api.oci.spec import Spec
from moorage_api.wire import cri_pb2
from moorage_cri.container import apparmor
from moorage_cri.container.host import Host

_PROFILE_MAX = 4 << 20
_LOCALHOST = "localhost/"
_RUNTIME_DEFAULT = ("runtime/default", "docker/default")
_UNCONFINED = "unconfined"

SecurityProfile = cri_pb2.SecurityProfile


def apply(spec: Spec, context: cri_pb2.LinuxContainerSecurityContext, host: Host, unset_seccomp: str) -> None:
    """Set what `context` asks for. `unset_seccomp` is the profile where it names none. A localhost profile is read.

    The lists of masked and read-only paths are the caller's: an empty list means none.
    """
    wanted = context.capabilities
    caps = capabilities.adjust(
        capabilities.DEFAULT, wanted.add_capabilities, wanted.drop_capabilities, everything=host.capabilities
    )
    ambient = capabilities.adjust((), wanted.add_ambient_capabilities, everything=host.capabilities)
    caps += [name for name in ambient if name not in caps]
    oci.set_capabilities(spec, caps, ambient=ambient)
    spec["process"]["noNewPrivileges"] = context.no_new_privs
    spec["root"]["readonly"] = context.readonly_rootfs
    spec["linux"]["maskedPaths"] = list(context.masked_paths)
    spec["linux"]["readonlyPaths"] = list(context.readonly_paths)
    if context.privileged:
        oci.set_privileged(spec, host.capabilities)
        return
    profile = _seccomp(_profile(context, "seccomp", context.seccomp_profile_path or unset_seccomp), caps)
    if profile is not None:
        spec["linux"]["seccomp"] = profile
    confined = _apparmor(_profile(context, "apparmor", context.apparmor_profile), host)
    if confined:
        spec["process"]["apparmorProfile"] = confined


def add_host_devices(spec: Spec) -> None:
    """Give a privileged container every device of the host."""
    spec["linux"]["devices"] = devices.host_devices()


def _profile(context: cri_pb2.LinuxContainerSecurityContext, field: str, text: str) -> SecurityProfile:
    """The profile in its present form; `text` is the form that older kubelets send."""
    if context.HasField(field):  # type: ignore[arg-type]
        given: SecurityProfile = getattr(context, field)
        return given
    if text in ("", _UNCONFINED):
        return SecurityProfile(profile_type=SecurityProfile.Unconfined)
    if text in _RUNTIME_DEFAULT:
        return SecurityProfile(profile_type=SecurityProfile.RuntimeDefault)
    if text.startswith(_LOCALHOST):
        return SecurityProfile(profile_type=SecurityProfile.Localhost, localhost_ref=text.removeprefix(_LOCALHOST))
    raise InvalidArgument(f"unknown {field} profile {text[:80]!r}")


def _seccomp(profile: SecurityProfile, caps: list[str]) -> dict[str, Any] | None:
    if profile.profile_type == SecurityProfile.Unconfined:
        return None
    if profile.profile_type == SecurityProfile.RuntimeDefault:
        return seccomp.default_profile(caps)
    path = profile.localhost_ref.removeprefix(_LOCALHOST)
    if not path.startswith("/"):
        raise InvalidArgument(f"seccomp profile {path[:80]!r} is not an absolute path")
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_PROFILE_MAX))
    except OSError as error:
        raise InvalidArgument(f"seccomp profile {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"seccomp profile {path} is not JSON: {error}") from error
    if not isinstance(document, dict) or "defaultAction" not in document:
        raise InvalidArgument(f"seccomp profile {path} has no defaultAction")
    return document


def _apparmor(profile: SecurityProfile, host: Host) -> str:
    """Without AppArmor in the kernel only a profile that was asked for by name is an error."""
    if profile.profile_type == SecurityProfile.Unconfined:
        return ""
    if profile.profile_type == SecurityProfile.RuntimeDefault:
        return apparmor.ensure_default() if host.apparmor else ""
    if not host.apparmor:
        raise FailedPrecondition("an AppArmor profile is asked for, and this host has no AppArmor")
    name = profile.localhost_ref.removeprefix(_LOCALHOST)
    if not apparmor.loaded(name):
        raise FailedPrecondition(f"AppArmor profile {name[:80]!r} is not loaded on this host")
    return name
