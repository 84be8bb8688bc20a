"""Registration of the local content store."""

from __future__ import annotations

from moorage_api.content import ContentStore
from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from moorage_content.store import LocalContentStore


def _init(context: InitContext[None]) -> ContentStore:
    context.exports["root"] = str(context.root)
    return LocalContentStore(context.root)


@hookimpl
def moorage_register() -> list[Registration]:
    return [Registration(PluginType.CONTENT, "content", _init)]
