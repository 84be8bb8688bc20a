"""Every RPC of the Container Runtime Interface, with the types of its request and its answer."""

from __future__ import annotations

from moorage.cri.rpcs import Service, Streaming, Unary
from moorage_api.wire import cri_pb2 as v1


class RuntimeService(Service):
    """Pods and containers."""

    SERVICE = "RuntimeService"

    Version = Unary(v1.VersionRequest, v1.VersionResponse)
    RunPodSandbox = Unary(v1.RunPodSandboxRequest, v1.RunPodSandboxResponse)
    StopPodSandbox = Unary(v1.StopPodSandboxRequest, v1.StopPodSandboxResponse)
    RemovePodSandbox = Unary(v1.RemovePodSandboxRequest, v1.RemovePodSandboxResponse)
    PodSandboxStatus = Unary(v1.PodSandboxStatusRequest, v1.PodSandboxStatusResponse)
    ListPodSandbox = Unary(v1.ListPodSandboxRequest, v1.ListPodSandboxResponse)
    StreamPodSandboxes = Streaming(v1.StreamPodSandboxesRequest, v1.StreamPodSandboxesResponse)
    CreateContainer = Unary(v1.CreateContainerRequest, v1.CreateContainerResponse)
    StartContainer = Unary(v1.StartContainerRequest, v1.StartContainerResponse)
    StopContainer = Unary(v1.StopContainerRequest, v1.StopContainerResponse)
    RemoveContainer = Unary(v1.RemoveContainerRequest, v1.RemoveContainerResponse)
    ListContainers = Unary(v1.ListContainersRequest, v1.ListContainersResponse)
    StreamContainers = Streaming(v1.StreamContainersRequest, v1.StreamContainersResponse)
    ContainerStatus = Unary(v1.ContainerStatusRequest, v1.ContainerStatusResponse)
    UpdateContainerResources = Unary(v1.UpdateContainerResourcesRequest, v1.UpdateContainerResourcesResponse)
    ReopenContainerLog = Unary(v1.ReopenContainerLogRequest, v1.ReopenContainerLogResponse)
    ExecSync = Unary(v1.ExecSyncRequest, v1.ExecSyncResponse)
    Exec = Unary(v1.ExecRequest, v1.ExecResponse)
    Attach = Unary(v1.AttachRequest, v1.AttachResponse)
    PortForward = Unary(v1.PortForwardRequest, v1.PortForwardResponse)
    ContainerStats = Unary(v1.ContainerStatsRequest, v1.ContainerStatsResponse)
    ListContainerStats = Unary(v1.ListContainerStatsRequest, v1.ListContainerStatsResponse)
    StreamContainerStats = Streaming(v1.StreamContainerStatsRequest, v1.StreamContainerStatsResponse)
    PodSandboxStats = Unary(v1.PodSandboxStatsRequest, v1.PodSandboxStatsResponse)
    ListPodSandboxStats = Unary(v1.ListPodSandboxStatsRequest, v1.ListPodSandboxStatsResponse)
    StreamPodSandboxStats = Streaming(v1.StreamPodSandboxStatsRequest, v1.StreamPodSandboxStatsResponse)
    UpdateRuntimeConfig = Unary(v1.UpdateRuntimeConfigRequest, v1.UpdateRuntimeConfigResponse)
    Status = Unary(v1.StatusRequest, v1.StatusResponse)
    CheckpointContainer = Unary(v1.CheckpointContainerRequest, v1.CheckpointContainerResponse)
    CheckpointPod = Unary(v1.CheckpointPodRequest, v1.CheckpointPodResponse)
    RestorePod = Unary(v1.RestorePodRequest, v1.RestorePodResponse)
    GetContainerEvents = Streaming(v1.GetEventsRequest, v1.ContainerEventResponse)
    ListMetricDescriptors = Unary(v1.ListMetricDescriptorsRequest, v1.ListMetricDescriptorsResponse)
    ListPodSandboxMetrics = Unary(v1.ListPodSandboxMetricsRequest, v1.ListPodSandboxMetricsResponse)
    StreamPodSandboxMetrics = Streaming(v1.StreamPodSandboxMetricsRequest, v1.StreamPodSandboxMetricsResponse)
    RuntimeConfig = Unary(v1.RuntimeConfigRequest, v1.RuntimeConfigResponse)
    UpdatePodSandboxResources = Unary(v1.UpdatePodSandboxResourcesRequest, v1.UpdatePodSandboxResourcesResponse)


class ImageService(Service):
    """Images."""

    SERVICE = "ImageService"

    ListImages = Unary(v1.ListImagesRequest, v1.ListImagesResponse)
    StreamImages = Streaming(v1.StreamImagesRequest, v1.StreamImagesResponse)
    ImageStatus = Unary(v1.ImageStatusRequest, v1.ImageStatusResponse)
    PullImage = Unary(v1.PullImageRequest, v1.PullImageResponse)
    RemoveImage = Unary(v1.RemoveImageRequest, v1.RemoveImageResponse)
    ImageFsInfo = Unary(v1.ImageFsInfoRequest, v1.ImageFsInfoResponse)
