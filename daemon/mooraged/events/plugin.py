"""Registration of the event bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from moorage_api.events import HISTORY_EXPORT
from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.events.exchange import HISTORY_LENGTH, QUEUE_LENGTH, Exchange


class ExchangeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The event bus."""

    queue_length: Annotated[
        int, msgspec.Meta(ge=1, description="How many events a reader may be behind before it is cut off.")
    ] = QUEUE_LENGTH
    history_length: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="How many events are kept in memory for readers who ask for what they have missed."
        ),
    ] = HISTORY_LENGTH


def init(context: InitContext[ExchangeConfig]) -> Exchange:
    exchange = Exchange(context.config.queue_length, context.config.history_length)
    context.exports[HISTORY_EXPORT] = str(context.config.history_length)
    context.on_stop(exchange.close)
    return exchange


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [Registration(PluginType.EVENT, "exchange", init, config=ExchangeConfig)]
