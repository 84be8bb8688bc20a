"""`push`, `save`, `load`, `image convert`: images to registries, as files, and in other forms."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import sys
import tempfile
from collections.abc import Iterator

import click

from moorage.cli.app import App, connected
from moorage.cli.credentials import stored_credentials
from moorage.cli.errors import CommandError
from moorage.cli.output import warn
from moorage.cli.progress import display
from moorage.stdio import Sink, Source
from moorage.transfer import Transfers
from moorage_api.oci.platforms import parse_platform
from moorage_api.oci.reference import parse
from moorage_api.transfer import ConvertOptions, ExportOptions, ImportOptions, NameRule, PushOptions

_PIECE = 1 << 20


@click.command()
@click.argument("reference")
@click.option("--platform", default="", help="Only this platform's image: os/architecture[/variant].")
@click.option("--plain-http/--no-plain-http", default=None, help="Speak HTTP without TLS to the registry.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's name alone.")
@connected()
async def push(app: App, reference: str, platform: str, plain_http: bool | None) -> None:
    """Send an image to its registry."""
    name = parse(reference).canonical
    image = await app.client.images.get(name)
    platforms = (parse_platform(platform),) if platform else ()
    options = PushOptions(platforms=platforms, credentials=stored_credentials(), plain_http=plain_http)
    with display(quiet=app.quiet) as shown:
        await Transfers(app.client.session).push(name, name, options, shown.show)
    if not app.quiet:
        warn(f"Digest: {image.target.digest}")
    print(name)


@click.command()
@click.argument("image")
@click.argument("target")
@click.option("--compression", type=click.Choice(["gzip", "zstd", "uncompressed"]), help="Of the layers.")
@click.option("--oci", is_flag=True, help="OCI's media types in place of Docker's.")
@click.option("--platform", default="", help="Only this platform's image: os/architecture[/variant].")
@connected()
async def convert(app: App, image: str, target: str, compression: str | None, oci: bool, platform: str) -> None:
    """Make the image TARGET of IMAGE with its layers or documents in another form; the files stay the same."""
    platforms = (parse_platform(platform),) if platform else ()
    options = ConvertOptions(compression or "", oci, platforms)
    name = parse(target).canonical
    with display(quiet=app.quiet) as shown:
        await Transfers(app.client.session).convert(parse(image).canonical, name, options, shown.show)
    print(name)


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output", default="", metavar="FILE", help="In place of standard output.")
@click.option("--platform", default="", help="Only this platform's images.")
@connected()
async def save(app: App, images: tuple[str, ...], output: str, platform: str) -> None:
    """Write images as a tar that docker and containerd read."""
    names = [parse(image).canonical for image in images]
    for name in names:
        await app.client.images.get(name)
    if not output and sys.stdout.isatty():
        raise CommandError("a tar is nothing for a terminal: name a file with -o, or redirect the output")
    options = ExportOptions(platforms=(parse_platform(platform),) if platform else ())
    with _written(output) as fd:
        await Transfers(app.client.session).export(names, _to(fd), options)


@click.command()
@click.option("-i", "--input", "path", default="", metavar="FILE", help="In place of standard input.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@connected()
async def load(app: App, path: str) -> None:
    """Read images from a tar, as docker or containerd writes it."""
    if not path and sys.stdin.isatty():
        raise CommandError("a tar is wanted: name a file with -i, or redirect the input")
    before = {image.name: image.target.digest for image in await app.client.images.list()}
    # An image keeps its full name; one that has a tag alone in the archive gets the day's repository.
    rule = NameRule(f"import-{dt.datetime.now(dt.UTC).date().isoformat()}", is_prefix=True, allow_overwrite=True)
    options = ImportOptions(rules=[rule], unpack=True)
    with opened(path) as fd, display(quiet=app.quiet) as shown:
        await Transfers(app.client.session).import_(reading(fd), options, shown.show)
    after = {image.name: image for image in await app.client.images.list()}
    for name, image in sorted(after.items()):
        if before.get(name) != image.target.digest:
            print(f"Loaded image: {name}")


@contextlib.contextmanager
def _written(path: str) -> Iterator[int]:
    """A file that is there under its name only when it is whole; standard output without a name."""
    if not path:
        sys.stdout.flush()
        yield 1
        return
    folder = os.path.dirname(os.path.abspath(path))
    try:
        fd, scratch = tempfile.mkstemp(prefix=".moorage-", dir=folder)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield fd
        os.fchmod(fd, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A file to read; standard input without a name. `CommandError`."""
    if not path:
        yield 0
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _to(fd: int) -> Sink:
    async def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await asyncio.to_thread(os.write, fd, view) :]

    return sink


def reading(fd: int) -> Source:
    """What a descriptor gives, piece by piece."""

    async def source() -> bytes:
        return await asyncio.to_thread(os.read, fd, _PIECE)

    return source
