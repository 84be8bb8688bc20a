"""Explains a pull: the hosts in their order, what each is trusted with, how it was asked and what it said."""

from __future__ import annotations

from yarl import URL

from moorage_api.transfer import Explanation, HostStep
from mooraged.transfer.client import RegistryClient
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Host
from mooraged.transfer.proxies import proxy_for
from mooraged.transfer.resolver import Resolved, needed_for, resolve_at
from mooraged.transfer.source import Source


async def explain(source: Source, client: RegistryClient, config: str) -> Explanation:
    """Ask each host once, in order, until one answers; those after it are listed and not asked."""
    steps: list[HostStep] = []
    answer: Resolved | None = None
    answered = ""
    for host in source.hosts:
        resolved, asked, outcome = None, False, f"not asked, since {answered} has answered"
        lacks = sorted(needed_for(source.reference) - host.capabilities)
        if lacks:
            outcome = f"passed over: it is not trusted to {' and to '.join(lacks)}"
        elif answer is None:
            asked = True
            resolved, outcome = await _ask(source, host)
        steps.append(_step(source, client, host, asked, outcome, resolved))
        if resolved is not None and answer is None:
            answer, answered = resolved, host.address
    return Explanation(
        source.reference.canonical,
        config,
        tuple(steps),
        answer.descriptor.digest if answer else "",
        answer.descriptor.media_type if answer else "",
    )


async def _ask(source: Source, host: Host) -> tuple[Resolved | None, str]:
    try:
        return await resolve_at(source, host), "it has it"
    except HostFailure as failure:
        again = ", and it would be asked again" if failure.transient else ""
        return None, f"{failure.error.message}{again}"


def _step(
    source: Source, client: RegistryClient, host: Host, asked: bool, outcome: str, resolved: Resolved | None
) -> HostStep:
    url = source.repository.url(host, "manifests", source.reference.object)
    login = source.repository.login(host)
    return HostStep(
        url=f"{client.scheme_of(host)}://{host.address}{host.path}",
        origin=host.origin,
        capabilities=tuple(sorted(host.capabilities)),
        tls=_tls(client.scheme_of(host), host),
        proxy=_proxy(url),
        asked=asked,
        outcome=outcome,
        login=login.wanted,
        credentials=login.used,
        digest=resolved.descriptor.digest if resolved else "",
    )


def _proxy(url: URL) -> str:
    try:
        proxy, _ = proxy_for(url)
    except HostFailure as failure:
        return failure.error.message
    return str(proxy) if proxy else ""


def _tls(scheme: str, host: Host) -> str:
    if scheme == "http":
        return "none: plain HTTP"
    if host.tls.skip_verify:
        return "its certificate is not checked"
    authorities = ", ".join(("the system's authorities", *host.tls.ca))
    client = f"; shows {', '.join(certificate for certificate, _ in host.tls.client)}" if host.tls.client else ""
    return f"checked against {authorities}{client}"
