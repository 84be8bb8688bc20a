"""The built-in validator: which adjustments a node's operator does not want, and which plugins must have been asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from moorage_api.errors import InvalidArgument, PermissionDenied
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri.config import ValidatorConfig
from moorage_cri.nri.owners import Owners

NAME = "default-validator"
INDEX = "00"

REQUIRED_PLUGINS = "required-plugins.noderesource.dev"
"""The annotation by which a pod requires plugins: a list of names in YAML."""

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Validator:
    """Validates the adjustment that all plugins have agreed on."""

    def __init__(self, config: ValidatorConfig) -> None:
        self._config = config

    def validate(self, request: pb.ValidateContainerAdjustmentRequest, owners: Owners) -> None:
        """`PermissionDenied`, naming the plugins; `InvalidArgument` for an annotation that cannot be read."""
        for reason in self._reasons(request, owners):
            raise PermissionDenied(f"the adjustment of container {request.container.id} is rejected: {reason}")

    def _reasons(self, request: pb.ValidateContainerAdjustmentRequest, owners: Owners) -> Iterator[str]:
        config, id = self._config, request.container.id
        for rejected, field, what in (
            (config.reject_oci_hook_adjustment, pb.OciHooks, "OCI hooks"),
            (self._rejects_seccomp(request.container.linux), pb.SeccompPolicy, "the seccomp policy"),
            (config.reject_namespace_adjustment, pb.Namespace, "namespaces"),
            (config.reject_sysctl_adjustment, pb.Sysctl, "sysctls"),
        ):
            plugins = sorted(set(owners.of(id, field).values()))
            if rejected and plugins:
                yield f"{what} may not be adjusted, as NRI plugins {', '.join(plugins)} did"
        missing = self._missing(request)
        if missing:
            yield f"required NRI plugins are not there: {', '.join(missing)}"

    def _rejects_seccomp(self, linux: pb.LinuxContainer) -> bool:
        """By the profile that the container has of its own."""
        kind = linux.seccomp_profile.profile_type
        if not linux.HasField("seccomp_profile") or kind == pb.SecurityProfile.UNCONFINED:
            return self._config.reject_unconfined_seccomp_adjustment
        if kind == pb.SecurityProfile.RUNTIME_DEFAULT:
            return self._config.reject_runtime_default_seccomp_adjustment
        return self._config.reject_custom_seccomp_adjustment

    def _missing(self, request: pb.ValidateContainerAdjustmentRequest) -> list[str]:
        pod, container = request.pod, request.container.name
        tolerated = annotation(pod, self._config.tolerate_missing_plugins_annotation, container)
        if tolerated is not None:
            if tolerated not in _TRUE | _FALSE:
                raise InvalidArgument(f"{tolerated[:80]!r} does not say whether missing NRI plugins are tolerated")
            if tolerated in _TRUE:
                return []
        required = [*self._config.required_plugins, *_list(annotation(pod, REQUIRED_PLUGINS, container) or "")]
        return [plugin for plugin in required if plugin not in _names(request.plugins)]


def annotation(pod: pb.PodSandbox, key: str, container: str) -> str | None:
    """A pod's annotation as it holds for a container: the container's own, else the pod's. None without one."""
    if key:
        for name in (f"{key}/container.{container}", f"{key}/pod", key):
            if name in pod.annotations:
                return pod.annotations[name]
    return None


def _names(plugins: Iterable[pb.PluginInstance]) -> set[str]:
    return {name for plugin in plugins for name in (plugin.name, f"{plugin.index}-{plugin.name}")}


def _list(text: str) -> list[str]:
    """A list of texts in YAML, of which JSON is a part. `InvalidArgument` for anything else."""
    try:
        return msgspec.yaml.decode(text, type=list[str] | None) or []
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"annotation {REQUIRED_PLUGINS} is no list of names: {text[:80]!r}") from error
