"""What follows from the end of a container, whoever has learnt of it."""

from __future__ import annotations

from moorage_cri import events
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.nri import lifecycle


def ended(cri: Cri, container: Container) -> None:
    """Tell that a container has ended; what that is can be read by now."""
    events.tell(cri, container, events.STOPPED)
    if cri.nri.ledger.live(container.id):
        cri.background.start(f"NRI: end of container {container.id}", lifecycle.stop_container(cri, container))
