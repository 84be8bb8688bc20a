"""What is fuzzed: each target takes any bytes, and fails only where the code under it is wrong.

A target catches the errors that the code may answer with; all else that it raises is a finding. Beyond "no crash" each
states what must hold of an answer.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from moorage_api.errors import InvalidArgument, ResourceExhausted, Unimplemented
from moorage_api.linux.tree import Left, remove_tree, walk
from moorage_api.oci import image, reference
from mooraged.differ.extract import Extractor
from mooraged.differ.image import ImageSink
from mooraged.differ.limits import Limits
from mooraged.differ.sink import Sink
from mooraged.differ.tar.events import Data, End, Entry, TarError, Type, Whole
from mooraged.differ.tar.reader import Reader
from mooraged.differ.whiteouts import OverlayWhiteouts, PlainWhiteouts
from mooraged.transfer.challenges import parse_challenges

_BLOCK = 512
_CHUNKS = (1, 511, 513)
_LIMITS = Limits(max_entries=200, max_size=1 << 20, max_depth=16)


def tar(data: bytes) -> None:
    """The tar reader, given the same bytes whole and in pieces: the same entries, or the same refusal."""
    archive = with_sums(data)
    whole = _read(archive, len(archive) or 1, whole=len(archive))
    for chunk in _CHUNKS[len(data) % 3 :][:1]:
        assert _read(archive, chunk) == whole, f"other entries from pieces of {chunk} bytes"


def layer(data: bytes) -> None:
    """Extraction in both ways of keeping deletions, and into an image: nothing outside of the root changes, and what is made
    can be removed."""
    archive = with_sums(data)
    for whiteouts in (OverlayWhiteouts(), PlainWhiteouts()):
        with _cage() as (cage, root):
            before = _outside(cage)
            _take(Extractor(root, whiteouts, _LIMITS), archive)
            assert _outside(cage) == before, "it got out of its root"
    with _cage() as (_, root), tempfile.TemporaryFile() as image_file:
        sink = ImageSink(image_file.fileno(), root, _LIMITS)
        sink.append(memoryview(archive))
        _take(sink, archive)


def _take(sink: Sink[Any], archive: bytes) -> None:
    reader = Reader(whole=_LIMITS.max_size)
    try:
        with suppress(TarError):
            for event in reader.receive(archive):
                sink.take(event)
            reader.finish()
            sink.finish()
    finally:
        sink.close()


def references(data: bytes) -> None:
    """The reference parser: what is accepted names itself, and the short form names the same."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (reference.parse, reference.parse_exact):
        try:
            found = parse(text)
        except InvalidArgument as error:
            _check_words(error)
            continue
        for form in (str(found), found.familiar):
            assert reference.parse_exact(form) == found
        assert reference.parse_exact(found.canonical).object == found.object
        assert len(str(found)) <= 1024 + len("docker.io/library/:latest")


def manifest(data: bytes) -> None:
    """The readers of an image's documents: accepted ones can be written, and mean the same then."""
    for read in (image.parse_index, image.parse_manifest, image.parse_config):
        try:
            document = read(data)
            children = [] if isinstance(document, image.ImageConfig) else document.children()
        except (InvalidArgument, ResourceExhausted, Unimplemented) as error:
            _check_words(error)
            continue
        assert all(child.size >= 0 for child in children)
        again = read(msgspec.json.encode(document))
        assert again == document


def challenges(data: bytes) -> None:
    """The parser of `WWW-Authenticate`: answers for everything, with schemes and names in lower case."""
    header = data.decode("latin-1")
    for challenge in parse_challenges([header, header[::-1]]):
        assert challenge.scheme
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name and name == name.lower() for name in challenge.parameters)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (tar, layer, references, manifest, challenges)
}


def with_sums(data: bytes) -> bytes:
    """An archive with the right checksum in every block that is not all zeros: without it, hardly any change of a header
    gets past the reader's first look."""
    blocks = []
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        # What does not call itself a header is content, and stays as it is.
        if len(block) == _BLOCK and block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            block = b"%s%06o\0 %s" % (block[:148], total, block[156:])
        blocks.append(block)
    return b"".join(blocks)


def _check_words(error: Exception) -> None:
    assert len(str(error)) < 4096, "an error repeats too much of what was given"


def _read(archive: bytes, chunk: int, whole: int = 0) -> tuple[list[object], bool]:
    """What the reader makes of an archive, each file's data as a digest of offsets and bytes; whether it was accepted."""
    found: list[object] = []
    reader, digest, end = Reader(whole), hashlib.sha256(), 0
    open_entry: Entry | None = None
    try:
        for start in range(0, len(archive), chunk):
            for event in reader.receive(archive[start : start + chunk]):
                match event:
                    case Whole():
                        assert open_entry is None, "a file within another's data"
                        assert event.entry.type is Type.FILE
                        assert 0 < len(event.view) == event.entry.size <= whole
                        found += [event.entry, hashlib.sha256(event.view).hexdigest()]
                    case Entry():
                        assert open_entry is None, "an entry within another's data"
                        open_entry, end = (event if event.type is Type.FILE else None), 0
                        digest = hashlib.sha256()
                        found.append(event)
                    case Data():
                        assert open_entry is not None, "data of no file"
                        assert end <= event.offset, "data that goes back"
                        if event.offset > end:
                            digest.update(b"hole %d" % event.offset)
                        end = event.offset + len(event.view)
                        assert end <= open_entry.size, "more data than the file has"
                        digest.update(event.view)
                    case End():
                        assert open_entry is not None, "the end of no file"
                        found.append(digest.hexdigest())
                        open_entry = None
        reader.finish()
        assert open_entry is None, "an archive that ends within a file"
    except TarError as error:
        _check_words(error)
        return found, False
    return found, True


@contextmanager
def _cage() -> Iterator[tuple[str, str]]:
    """A folder with something of each kind in it, and in it an empty root to extract into."""
    umask = os.umask(0)
    cage = tempfile.mkdtemp(prefix="fuzz-")
    try:
        root = f"{cage}/root"
        for folder in (root, f"{cage}/folder"):
            os.mkdir(folder)
        with open(f"{cage}/file", "wb") as file:
            file.write(b"untouched")
        os.symlink("file", f"{cage}/link")
        yield cage, root
        remove_tree(root)
    finally:
        remove_tree(cage)
        os.umask(umask)


def _outside(cage: str) -> list[object]:
    seen: list[object] = []
    for event in walk(cage):
        if isinstance(event, Left):
            continue
        if "root" in event.folders:
            event.folders.remove("root")
        for entry in event.entries:
            if entry.name != "root":
                found = entry.stat(follow_symlinks=False)
                seen.append((event.name, entry.name, found.st_mode, found.st_size, found.st_mtime_ns, found.st_uid))
    return seen
