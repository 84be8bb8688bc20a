"""Registration of the metadata database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from moorage_api.snapshots import Snapshotter
from mooraged.metadata.content import SharingPolicy
from mooraged.metadata.metadata import Metadata

_PREFERRED_SNAPSHOTTERS = ("overlayfs", "native")


class MetadataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata database."""

    content_sharing_policy: Annotated[
        SharingPolicy,
        msgspec.Meta(
            description="Whether a namespace may take over content and unpacked layers that another one has, by naming "
            "their digest (shared), or must bring every byte itself (isolated)."
        ),
    ] = SharingPolicy.ISOLATED
    default_snapshotter: Annotated[
        str,
        msgspec.Meta(description="The snapshotter for clients that name none; empty: overlayfs, or native without it."),
    ] = ""


def _default_snapshotter(configured: str, started: Mapping[str, Snapshotter]) -> str:
    """The configured one even where it did not start, so that the error names it."""
    return configured or next((name for name in _PREFERRED_SNAPSHOTTERS if name in started), "")


def _init(context: InitContext[MetadataConfig]) -> Metadata:
    snapshotters = context.get_all(PluginType.SNAPSHOTTER)
    metadata = Metadata(
        context.root,
        context.get(PluginType.CONTENT),
        snapshotters,
        events=context.get(PluginType.EVENT),
        policy=context.config.content_sharing_policy,
        default_snapshotter=_default_snapshotter(context.config.default_snapshotter, snapshotters),
    )
    context.on_stop(metadata.close)
    context.exports["policy"] = context.config.content_sharing_policy.value
    context.exports["root"] = str(context.root)
    return metadata


@hookimpl
def moorage_register() -> list[Registration]:
    return [
        Registration(
            PluginType.METADATA,
            "sqlite",
            _init,
            requires=(PluginType.CONTENT, PluginType.SNAPSHOTTER, PluginType.EVENT),
            config=MetadataConfig,
        )
    ]
