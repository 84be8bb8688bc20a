"""Version, Status, RuntimeConfig and UpdateRuntimeConfig."""

from __future__ import annotations

import json

import msgspec

from moorage_api.errors import Unavailable
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.node import features
from moorage_cri.sandbox.spec import ALLOWED_SYSCTLS

_KUBE_API_VERSION = "0.1.0"
_RUNTIME_NAME = "moorage"


class Status:
    """Tells what the runtime is, and whether it is ready."""

    def __init__(self, cri: Cri, api_version: str) -> None:
        self._cri = cri
        self._api_version = api_version

    async def Version(self, request: cri_pb2.VersionRequest, call: Call) -> cri_pb2.VersionResponse:
        return cri_pb2.VersionResponse(
            version=_KUBE_API_VERSION,
            runtime_name=_RUNTIME_NAME,
            runtime_version=self._cri.core.daemon.version,
            runtime_api_version=self._api_version,
        )

    async def Status(self, request: cri_pb2.StatusRequest, call: Call) -> cri_pb2.StatusResponse:
        network = self._network()
        return cri_pb2.StatusResponse(
            status=cri_pb2.RuntimeStatus(
                conditions=[cri_pb2.RuntimeCondition(type="RuntimeReady", status=True), network]
            ),
            info=self._info(network.message) if request.verbose else None,
            runtime_handlers=[self._handler(name) for name in ("", *sorted(self._cri.config.runtimes))],
            features=cri_pb2.RuntimeFeatures(
                supplemental_groups_policy=True, user_namespaces_host_network=True, mount_options=True
            ),
        )

    async def RuntimeConfig(self, request: cri_pb2.RuntimeConfigRequest, call: Call) -> cri_pb2.RuntimeConfigResponse:
        systemd = self._cri.config.handler("").options.systemd_cgroup
        driver = cri_pb2.SYSTEMD if systemd else cri_pb2.CGROUPFS
        return cri_pb2.RuntimeConfigResponse(linux=cri_pb2.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def UpdateRuntimeConfig(
        self, request: cri_pb2.UpdateRuntimeConfigRequest, call: Call
    ) -> cri_pb2.UpdateRuntimeConfigResponse:
        """A pod network's range comes with the CNI configuration; what a kubelet says of it is taken note of no further."""
        return cri_pb2.UpdateRuntimeConfigResponse()

    def _network(self) -> cri_pb2.RuntimeCondition:
        try:
            self._cri.network.config()
        except Unavailable as error:
            return cri_pb2.RuntimeCondition(
                type="NetworkReady",
                status=False,
                reason="NetworkPluginNotReady",
                message=f"Network plugin returns error: {error}",
            )
        return cri_pb2.RuntimeCondition(type="NetworkReady", status=True)

    def _handler(self, name: str) -> cri_pb2.RuntimeHandler:
        handler = self._cri.config.handler(name)
        found = cri_pb2.RuntimeHandlerFeatures(
            recursive_read_only_mounts=features.recursive_read_only(handler),
            user_namespaces=not features.user_namespace_problem(handler),
        )
        return cri_pb2.RuntimeHandler(name=name, features=found)

    def _info(self, problem: str) -> dict[str, str]:
        config = json.dumps(msgspec.to_builtins(self._cri.config))
        found = {"config": config, "lastCNILoadStatus": problem or "OK", "lastCNILoadStatus.default": problem or "OK"}
        found["allowedSysctls"] = json.dumps(ALLOWED_SYSCTLS)
        if not problem:
            found["cniconfig"] = json.dumps(self._cri.network.config().document())
        return found
