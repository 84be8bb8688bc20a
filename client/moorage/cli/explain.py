"""`explain-pull`: why a pull does what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.credentials import stored_credentials
from moorage.cli.errors import FAILURE, CommandError
from moorage.transfer import Transfers
from moorage_api.transfer import Explanation, HostStep, PullOptions


@click.command("explain-pull")
@click.argument("reference")
@click.option("--hosts-dir", default="", help="A folder of hosts.toml files in place of the daemon's.")
@click.option("--plain-http/--no-plain-http", default=None, help="Speak HTTP without TLS to the registry.")
@formatted
@connected()
async def explain_pull(app: App, reference: str, hosts_dir: str, plain_http: bool | None) -> int:
    """Say which hosts a pull would ask, in which order, how it would log in there, and why. Nothing is fetched.

    The exit status is 1 where no host has the image.
    """
    if app.format not in ("", "json"):
        raise CommandError(f"--format {app.format!r}: an explanation is text, or json")
    origins: dict[str, str] = {}
    options = PullOptions(hosts_dir=hosts_dir, plain_http=plain_http, credentials=stored_credentials(origins))
    explained = await Transfers(app.client.session).explain(reference, options)
    if app.format == "json":
        print(json.dumps(asdict(explained) | {"credential_files": origins}, ensure_ascii=False))
    else:
        print("\n".join(_text(explained, origins)))
    return 0 if explained.digest else FAILURE


def _text(explained: Explanation, origins: Mapping[str, str]) -> Sequence[str]:
    lines = [
        f"Reference:  {explained.reference}",
        f"Hosts from: {explained.config or 'no hosts.toml: the registry itself'}",
    ]
    for number, step in enumerate(explained.hosts, start=1):
        lines += [
            "",
            f"{number}. {step.url}",
            *(f"   {name + ':':<13} {value}" for name, value in _facts(step, origins)),
        ]
    found = f"{explained.digest} ({explained.media_type})" if explained.digest else "nothing: no host has it"
    return [*lines, "", f"A pull fetches {found}"]


def _facts(step: HostStep, origins: Mapping[str, str]) -> list[tuple[str, str]]:
    origin = origins.get(urlsplit(step.url).netloc, "")
    credentials = f"{step.credentials}, from {origin}" if origin else step.credentials
    known = [
        ("because of", step.origin),
        ("trusted to", ", ".join(step.capabilities)),
        ("certificate", step.tls),
        ("proxy", step.proxy or "none"),
        ("wants", step.login if step.asked else ""),
        ("credentials", credentials if step.asked else ""),
        ("outcome", step.outcome),
        ("digest", step.digest),
    ]
    return [(name, value) for name, value in known if value]
