"""The server that clients of Exec, Attach and PortForward connect to, with a URL that was made for them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl

from moorage_api.errors import InvalidArgument, MoorageError, NotFound, Unavailable
from moorage_cri.config import Config
from moorage_cri.streaming.commands import serve_command
from moorage_cri.streaming.http import Front, Request
from moorage_cri.streaming.jobs import CommandJob, Job
from moorage_cri.streaming.lifetime import Limits
from moorage_cri.streaming.ports import serve_ports
from moorage_cri.streaming.tokens import Tokens
from moorage_cri.streaming.transport import Transport

logger = logging.getLogger(__name__)

_REQUEST_SECONDS = 30.0
_METHODS = ("GET", "POST")
_STATUS: dict[type[MoorageError], int] = {InvalidArgument: 400, NotFound: 404}
_METHOD_NOT_ALLOWED = 405
_INTERNAL_ERROR = 500
# An address that is never used: which way a packet there would go tells the host's own address.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


class StreamServer:
    """Listens where it is configured to. What connects without a token gets an answer and nothing else."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._limits = Limits(config.stream_idle_timeout, config.stream_creation_timeout)
        self._tokens: Tokens[Job] = Tokens()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._base = ""

    async def start(self) -> None:
        """Listen. `Unavailable` where the address is taken or is not this host's; `InvalidArgument` for a certificate
        that cannot be used."""
        config = self._config
        pair = config.x509_key_pair_streaming
        tls = _tls_context(pair.tls_cert_file, pair.tls_key_file) if config.enable_tls_streaming else None
        host, port = config.stream_server_address, int(config.stream_server_port)
        try:
            self._server = await asyncio.start_server(self._on_client, host or None, port, ssl=tls)
        except OSError as error:
            raise Unavailable(f"the streaming server cannot listen at {host}:{port}: {error.strerror}") from error
        name = self._server.sockets[0].getsockname()
        self._base = f"{'https' if tls else 'http'}://{_reachable(name[0])}:{name[1]}"

    def grant(self, job: Job) -> str:
        """The URL at which a client may have the job done, once, within a minute. `ResourceExhausted`."""
        return f"{self._base}/{job.kind}/{self._tokens.issue(job)}"

    async def stop(self) -> None:
        """Take no more connections, and end those that there are, with all that was done for them."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Transport(reader, writer)), name="streaming client")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, transport: Transport) -> None:
        front = Front(transport)
        try:
            request = await _read(front)
            if request is not None:
                await self._answer(front, request)
        except ConnectionError:
            logger.debug("a streaming client went before it was answered")
        except Exception:
            logger.exception("serving a streaming client failed")
            transport.abort()
        finally:
            transport.close()

    async def _answer(self, front: Front, request: Request) -> None:
        try:
            if request.method not in _METHODS:
                await front.refuse(_METHOD_NOT_ALLOWED, f"method {request.method} is not allowed")
                return
            job = self._job(request)
            if isinstance(job, CommandJob):
                await serve_command(front, request, job, self._limits)
            else:
                await serve_ports(front, request, job, self._limits)
        except MoorageError as error:
            logger.info("a streaming request failed: %s", error)
            await front.refuse(_STATUS.get(type(error), _INTERNAL_ERROR), error.message)

    def _job(self, request: Request) -> Job:
        _, kind, token, *more = [*request.path.split("/"), "", ""]
        job = self._tokens.redeem(token)
        if job.kind != kind or any(more):
            raise NotFound(f"the token is not for {request.path[:80]!r}")
        return job


async def _read(front: Front) -> Request | None:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            return await front.read()
    except TimeoutError:
        return None
    except InvalidArgument as error:
        logger.info("a streaming client broke the protocol: %s", error)
        return None


def _reachable(host: str) -> str:
    """The address to give to clients: for a wildcard, the one from which this host talks to others."""
    address = ipaddress.ip_address(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if address.is_unspecified:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((_ELSEWHERE[family], 9))
                host = probe.getsockname()[0]
            except OSError:
                host = "127.0.0.1" if address.version == 4 else "::1"
    return host if address.version == 4 else f"[{host}]"


def _tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """`InvalidArgument` for files that are not there, or do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"TLS key pair {certificate}, {key}: {error}") from error
    return context
