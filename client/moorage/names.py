"""Names that people can say, for containers that were given none; and the ids of containers."""

from __future__ import annotations

import random
import re
import secrets

from moorage_api.errors import InvalidArgument

ADJECTIVES = (
    "able amber brave breezy bright brisk calm candid clear clever coastal cosy crisp daring deep eager early fair "
    "fleet fond free fresh gentle glad golden grand hale handy hardy high honest humble jolly keen kind light lively "
    "lofty loyal lucid lucky mellow merry mild misty modest neat nimble noble northern open patient placid plain "
    "polite proud quick quiet ready rosy rugged salty serene sharp silver smart snug sober solid southern spry "
    "stable steady still stout strong sturdy sunny swift tidy tough tranquil true trusty upright vivid warm western "
    "wide wise witty"
).split()
NOUNS = (
    "anchor atoll ballast barge bay beacon berth boat boom bosun bow breaker breeze bridge brig buoy cabin canal cape "
    "capstan captain channel chart cliff clipper coast compass coral cove crane crest crew current cutter davit deck "
    "delta dock dolphin estuary ferry fjord fleet frigate galley gull gulf harbour hatch hawser headland helm heron "
    "hull island jetty jib keel ketch knot lagoon lantern ledger lighthouse lock log lugger mainsail mariner marlin "
    "mast mate mooring oar osprey packet pelican pier pilot port quay raft reef rigging river rope rudder sail sailor "
    "schooner seal sextant shoal shore signal skiff sloop spar spinnaker strait swell tern tide tiller trawler tug "
    "voyage wake watch wave wharf whistle winch yawl"
).split()
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NAME_MAX = 128


def random_name(tries: int = 0) -> str:
    """An adjective and a noun, `steady_keel`; after several `tries` that were all taken, a number behind them."""
    name = f"{random.choice(ADJECTIVES)}_{random.choice(NOUNS)}"
    return name if tries < 5 else f"{name}{random.randrange(10 ** min(tries - 4, 9))}"


def random_id() -> str:
    """64 hexadecimal digits; never digits alone at its head, which a tool might take for a number."""
    while (id := secrets.token_hex(32))[:12].isdecimal():
        pass
    return id


def check_name(name: str) -> str:
    """Return a container's name if docker would take it, else raise `InvalidArgument`."""
    if len(name) > _NAME_MAX or _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"invalid container name {name[:140]!r}: expected a letter or digit, then letters, digits, '_', '.' or '-', "
            f"at most {_NAME_MAX} in all"
        )
    return name
