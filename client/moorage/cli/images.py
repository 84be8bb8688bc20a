"""`pull`, `images`, `rmi`."""

from __future__ import annotations

import asyncio
import datetime as dt
import fnmatch
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.credentials import stored_credentials
from moorage.cli.errors import FAILURE
from moorage.cli.filters import filters, has_label
from moorage.cli.output import print_rows, warn
from moorage.cli.progress import display
from moorage.cli.references import familiar
from moorage.cli.units import human_duration, human_size
from moorage.client import Client
from moorage.dangling import is_dangling
from moorage.find import find_images
from moorage.image_config import ResolvedImage, resolve
from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.images import Image
from moorage_api.oci import reference as references
from moorage_api.oci.platforms import format_platform, only, parse_platform
from moorage_api.transfer import PullOptions
from moorage_api.types import Platform

_COLUMNS = {"REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size"}
_NONE = "<none>"


@click.command()
@click.argument("reference")
@click.option("--platform", default="", help="os/architecture[/variant]; this machine's unless given.")
@click.option("--snapshotter", default="", help="Unpack with this snapshotter.")
@click.option("--hosts-dir", default="", help="A folder of hosts.toml files in place of the daemon's.")
@click.option("--plain-http/--no-plain-http", default=None, help="Speak HTTP without TLS to the registry.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's name alone.")
@connected()
async def pull(
    app: App, reference: str, platform: str, snapshotter: str, hosts_dir: str, plain_http: bool | None
) -> None:
    """Fetch an image from a registry."""
    options = PullOptions(
        platforms=(parse_platform(platform),) if platform else (),
        snapshotter=snapshotter,
        hosts_dir=hosts_dir,
        plain_http=plain_http,
        credentials=stored_credentials(),
    )
    image = await pull_shown(app, reference, options)
    print(image.name)


async def pull_shown(app: App, reference: str, options: PullOptions | None = None) -> Image:
    """Pull, and show on standard error how it goes."""
    options = options or PullOptions(credentials=stored_credentials())
    with display(quiet=app.quiet) as shown:
        image = await app.client.pull(reference, options, shown.show)
    if not app.quiet:
        warn(f"Digest: {image.target.digest}")
    return image


async def ensure(app: App, reference: str, policy: str, platform: str = "") -> ResolvedImage:
    """The image to run: pulled where the policy (`missing`, `always`, `never`) says so. `NotFound` for `never`."""
    wanted = parse_platform(platform) if platform else None
    options = PullOptions(platforms=(wanted,) if wanted else (), credentials=stored_credentials())
    if policy != "always":
        try:
            return await _for_platform(app, reference, wanted)
        except NotFound:
            if policy == "never":
                raise
        warn(f"Unable to find image '{references.parse(reference).familiar}' locally")
    await pull_shown(app, reference, options)
    return await _for_platform(app, reference, wanted)


async def _for_platform(app: App, reference: str, wanted: Platform | None) -> ResolvedImage:
    """An image that is here; `NotFound` also for one that was made for another platform than the one asked for."""
    found = await app.client.image(reference, wanted)
    own = found.config.platform()
    if wanted is not None and not only(wanted).matches(own):
        raise NotFound(
            f"image {reference} is here, but not for the platform {format_platform(wanted)}: it is for {format_platform(own)}"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Listed:
    """An image as the list shows it; empty and zero where its content is not here."""

    image: Image
    id: str = ""
    created: str = ""
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@click.command()
@click.argument("repository", default="")
@click.option("-a", "--all", is_flag=True, hidden=True, help="docker's; there are no images between others.")
@click.option("-f", "--filter", "texts", multiple=True, metavar="KEY=VALUE", help="reference, label, dangling.")
@click.option("--digests", is_flag=True, help="Show digests.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids.")
@formatted
@connected()
async def images(app: App, repository: str, all: bool, texts: tuple[str, ...], digests: bool, no_trunc: bool) -> None:
    """List the images of the namespace."""
    wanted_by = filters(texts, ("reference", "label", "dangling"))
    found = await app.client.images.list()
    if "dangling" in wanted_by:
        found = [image for image in found if str(is_dangling(image)).lower() in wanted_by["dangling"]]
    for pattern in wanted_by.get("reference", ()):
        found = [image for image in found if _is_like(image.name, pattern)]
    if repository:
        wanted = references.parse_exact(repository)
        found = [image for image in found if _matches(image.name, wanted)]
    listed = await asyncio.gather(*(_look(app.client, image) for image in found))
    for tag in wanted_by.get("label", ()):
        listed = [entry for entry in listed if has_label(entry.labels, tag)]
    rows = [_row(entry, no_trunc=no_trunc) for entry in sorted(listed, key=lambda entry: entry.created, reverse=True)]
    if app.quiet:
        for id in dict.fromkeys(row["ID"] for row in rows):
            print(id)
        return
    columns = dict(_COLUMNS)
    if digests:
        columns = {"REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest", **columns}
    print_rows(rows, columns, app.format)


async def _look(client: Client, image: Image) -> _Listed:
    try:
        found = await resolve(client.content, image)
    except MoorageError:
        # Not for this platform, or only a part of it is here: it is listed all the same.
        return _Listed(image)
    size = sum(blob.size for blob in (found.manifest, found.config_descriptor, *found.layers))
    return _Listed(image, found.id, found.config.created, size, found.config.config.labels)


def _is_like(name: str, pattern: str) -> bool:
    """Whether a name is as a pattern says, with or without its tag."""
    short = familiar(name)
    return fnmatch.fnmatchcase(short, pattern) or fnmatch.fnmatchcase(short.rpartition(":")[0], pattern)


def _matches(name: str, wanted: references.Reference) -> bool:
    try:
        own = references.parse_exact(name)
    except InvalidArgument:
        return False
    return own.name == wanted.name and (not wanted.object or own.object == wanted.object)


def _row(entry: _Listed, *, no_trunc: bool) -> dict[str, str]:
    repository, tag, digest = entry.image.name, _NONE, entry.image.target.digest
    try:
        reference = references.parse_exact(entry.image.name)
        short = references.Reference(reference.domain, reference.path)
        repository, tag = short.familiar, reference.tag or _NONE
        if is_dangling(entry.image):
            repository, tag = _NONE, _NONE
    except InvalidArgument:
        # A name that another client chose: shown as it is.
        pass
    age = _age(entry.created)
    id = entry.id or digest
    return {
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "ID": id if no_trunc else id.partition(":")[2][:12],
        "CreatedAt": entry.created or "N/A",
        "CreatedSince": f"{human_duration(age)} ago" if age is not None else "N/A",
        "Size": human_size(entry.size) if entry.size else "N/A",
    }


def _age(created: str) -> float | None:
    try:
        return time.time() - dt.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return None


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Also where containers use it; no error where it is not there.")
@connected()
async def rmi(app: App, images: tuple[str, ...], force: bool) -> int:
    """Remove images, by name or id."""
    failed = 0
    for wanted in images:
        try:
            for image in await find_images(app.client, wanted):
                if not force:
                    await _check_unused(app.client, image.name)
                await app.client.images.delete(image.name, sync=True)
                print(removed(image))
        except MoorageError as error:
            if force and isinstance(error, NotFound):
                continue
            failed = FAILURE
            app.tell(error)
    return failed


def removed(image: Image) -> str:
    """What the user is told of an image whose name is gone."""
    return f"Deleted: {image.target.digest}" if is_dangling(image) else f"Untagged: {familiar(image.name)}"


async def _check_unused(client: Client, name: str) -> None:
    users = await client.containers.list(f"image=={json.dumps(name)}")
    if users:
        ids = ", ".join(user.id[:12] for user in users)
        raise FailedPrecondition(f"image {name} is used by {ids}: remove the containers first, or use --force")
