"""The plugins in their order, and how a request goes from one to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.message import Message

from moorage_api.wire import nri_pb2 as pb
from moorage_cri.concurrency import together
from moorage_cri.nri import validator
from moorage_cri.nri.merge import Creation, Updates
from moorage_cri.nri.owners import Owners
from moorage_cri.nri.plugin import Plugin
from moorage_cri.nri.validator import Validator


class Chain:
    """Plugins by index, then name. One request at a time is under way, so that every plugin sees all of them in one
    order. `rules` is the built-in validator."""

    def __init__(self, rules: Validator | None = None) -> None:
        self._plugins: list[Plugin] = []
        self._rules = rules
        self._turn = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether there is nobody to ask or to tell."""
        return not self._plugins and self._rules is None

    def add(self, plugin: Plugin) -> None:
        """Ask and tell it, too, from now on."""
        self._plugins = sorted([*self._plugins, plugin], key=lambda each: (each.index, each.name))

    def remove(self, plugin: Plugin) -> None:
        """Do not, any more."""
        self._plugins = [each for each in self._plugins if each is not plugin]

    async def tell(
        self,
        event: pb.Event.ValueType,
        method: str,
        request: Message,
        answer: type[Message],
        due: Callable[[], bool] = lambda: True,
    ) -> None:
        """Tell each plugin that wants the event, unless `due`, asked when it is this request's turn, says no. The first error
        is raised, and the plugins after it are not told."""
        async with self._turn:
            for plugin in self._plugins if due() else ():
                await plugin.relay(event, method, request, answer)

    async def create(self, request: pb.CreateContainerRequest) -> Creation:
        """Ask for the adjustment of a container. `InvalidArgument` for a conflict, `PermissionDenied` where it is
        rejected, and the errors that plugins answer with."""
        async with self._turn:
            plugins = self._plugins
            original = pb.Container()
            original.CopyFrom(request.container)
            creation = Creation(request)
            for plugin in plugins:
                answer = await plugin.relay(pb.CREATE_CONTAINER, "CreateContainer", request, pb.CreateContainerResponse)
                if answer is not None:
                    creation.apply(plugin.id, answer)
            await self._validate(pb.CreateContainerRequest(pod=request.pod, container=original), creation, plugins)
            return creation

    async def update(self, request: pb.UpdateContainerRequest) -> Updates:
        """Ask about an update, whose resources in `request` are then as plugins want them. Errors as `create`."""
        async with self._turn:
            updates = Updates(Owners(), request=request)
            for plugin in self._plugins:
                answer = await plugin.relay(pb.UPDATE_CONTAINER, "UpdateContainer", request, pb.UpdateContainerResponse)
                if answer is not None:
                    updates.apply(plugin.id, answer.update)
                    updates.evictions.extend(answer.evict)
            return updates

    async def stop(self, request: pb.StopContainerRequest, due: Callable[[], bool]) -> Updates:
        """Tell that a container has ended, whereupon plugins may want updates of others. `due` is asked when it is this
        request's turn: if it says no, another has told it. Errors as `create`."""
        async with self._turn:
            updates = Updates(Owners())
            if not due():
                return updates
            for plugin in self._plugins:
                answer = await plugin.relay(pb.STOP_CONTAINER, "StopContainer", request, pb.StopContainerResponse)
                if answer is not None:
                    updates.apply(plugin.id, answer.update)
            return updates

    async def _validate(self, original: pb.CreateContainerRequest, creation: Creation, plugins: list[Plugin]) -> None:
        """Have it validated: the container as it was, what becomes of it, and who had a say."""
        validators = [plugin for plugin in plugins if plugin.wants(pb.VALIDATE_CONTAINER_ADJUSTMENT)]
        if not validators and self._rules is None:
            return
        request = pb.ValidateContainerAdjustmentRequest(
            pod=original.pod,
            container=original.container,
            adjust=creation.adjustment,
            update=creation.updates.others,
            owners=creation.owners.message(),
            plugins=[pb.PluginInstance(name=plugin.name, index=plugin.index) for plugin in plugins],
        )
        if self._rules is not None:
            request.plugins.add(name=validator.NAME, index=validator.INDEX)
            self._rules.validate(request, creation.owners)
        await together(*(plugin.validate(request) for plugin in validators))
