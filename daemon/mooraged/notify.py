"""Tell the service manager how the daemon is (sd_notify(3)): one datagram on the socket named by NOTIFY_SOCKET."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


class ServiceManager:
    """Who started the daemon, if it wants to be told.

    Its address is taken out of the environment: whatever the daemon starts must not report in its place, and an OCI
    runtime that finds the variable would set up a socket of its own for the container.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # "@": the abstract name space

    def tell(self, state: str) -> None:
        """Send `state` (`READY=1`); nothing where nobody listens. A failure is logged: it must not stop us."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._address)
                sender.sendall(state.encode())
        except OSError as error:
            logger.warning("cannot notify the service manager", extra={"state": state, "error": error})
