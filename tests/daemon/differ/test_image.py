"""Images of layers: they show what extracting the same archive gives."""

from __future__ import annotations

import os
import random
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage_api.linux import syscalls
from mooraged.differ.extract import Extractor
from mooraged.differ.image import ImageSink
from mooraged.differ.limits import Limits
from mooraged.differ.sink import Sink
from mooraged.differ.tar.events import Entry, LimitError, TarError
from mooraged.differ.tar.reader import Reader
from mooraged.differ.whiteouts import OverlayWhiteouts
from support.tars import Member, archive, entry, folder, link, node, symlink

Entries = list[Member]
_RECENT = 1_700_000_000_000_000_000


def file(name: str, data: bytes, **fields: object) -> Member:
    return entry(name, data=data, **fields)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def feed(sink: Sink[Any], data: bytes, image: ImageSink | None = None, chunk: int = 4000) -> None:
    """Give the archive to the sink in pieces, as a worker does."""
    reader = Reader(whole=chunk)
    try:
        for start in range(0, len(data), chunk):
            piece = memoryview(data)[start : start + chunk]
            if image is not None:
                image.append(piece)
            for event in reader.receive(piece):
                sink.take(event)
        reader.finish()
        sink.finish()
    finally:
        sink.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Where the image of `make` is mounted."""
    target = tmp_path / "mounted"
    target.mkdir()
    yield target
    if os.stat(target).st_dev != os.stat(tmp_path).st_dev:
        syscalls.umount2(target, syscalls.MNT_DETACH)


def make(data: bytes, mounted: Path, *, limits: Limits = Limits(), lower: tuple[str, ...] = ()) -> ImageSink:
    """Mount the image of an archive; its root looks as the place does where it is mounted."""
    image = mounted.parent / "layer.erofs"
    with open(image, "w+b") as file:
        sink = ImageSink(file.fileno(), str(mounted), limits, lower)
        feed(sink, data, sink)
    syscalls.mount(image, mounted, "erofs", syscalls.MS_RDONLY)
    return sink


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a tree, but for the sizes of folders, and the times of those that were made just now because
    the archive has no entry for them: an image has the beginning of time for that."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        content: object = None
        time = status.st_mtime_ns if status.st_mtime_ns < _RECENT else 0
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[name] = (
            (oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, time),
            content,
            links.setdefault(status.st_ino, name),
            status.st_nlink,
            {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
        )
    return found


def note(info: tarfile.TarInfo, **xattrs: str) -> tarfile.TarInfo:
    info.pax_headers = {f"SCHILY.xattr.{key.replace('__', '.')}": value for key, value in xattrs.items()}
    return info


CASES: dict[str, Entries] = {
    "kinds": [
        folder("d", mode=0o2775, uid=7, gid=8),
        file("d/file", b"text" * 1000, mode=0o4751, uid=100000, gid=4_000_000_000),
        file("empty", b""),
        file("one", b"1"),
        file("block", b"x" * 512),
        symlink("link", "../somewhere"),
        symlink("long", "t/" * 1500),
        symlink("fits", "t/" * 224),
        symlink("fits-not", "t/" * 224 + "t"),
        link("hard", "d/file"),
        link("to-link", "link"),
        file("n\u00e4me \udcff", b"bytes"),
        file("x" * 255, b"long name"),
    ],
    "whiteouts": [
        file(".wh.gone", b""),
        folder("d"),
        file("d/.wh..wh..opq", b""),
        file("d/new", b"2"),
        file("e/.wh.file", b""),
        file("e/file", b"again"),
        file("f/.wh.folder", b""),
        folder("f/folder"),
        folder("g"),
        file(".wh.g", b""),
        file(".wh..wh.plnk", b""),
    ],
    "replaced": [
        file("a", b"file"),
        folder("a"),
        file("a/b", b"2"),
        folder("c"),
        file("c/d", b"1"),
        file("c", b"a file now"),
        symlink("s", "a"),
        file("s/through", b"3"),
        folder("s"),
        file("s/own", b"4"),
        folder("a", mode=0o700, uid=9),
        link("c", "a/b"),
    ],
    "links in paths": [
        folder("usr"),
        folder("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("usr/up", "../usr/../lib"),
        symlink("absolute", "/usr"),
        file("lib/one", b"1"),
        file("usr/up/two", b"2"),
        file("absolute/lib/three", b"3"),
        file("absolute/new/folders/four", b"4"),
        symlink("loose", "nowhere/yet"),
        file("loose/five", b"5"),
        symlink("out", "../../../.."),
        file("out/six", b"6"),
        link("seven", "lib/one"),
    ],
    "attributes": [
        (note(file("file", b"x")[0], user__note="value", security__evm="e" * 400), b"x"),
        (note(folder("folder")[0], user__a="1", user__b="2" * 600), b""),
        (note(symlink("link", "file")[0], user__no="x"), b""),
        (note(file("refused", b"")[0], trusted__overlay__opaque="y", user__overlay__opaque="y"), b""),
        (note(file("many", b"")[0], **{f"user__{number}": "v" * number for number in range(60)}), b""),
    ],
    "a large folder": [file(f"d/{number:05}-{'n' * (number % 90)}", b"%d" % number) for number in range(3000)],
    "a deep tree": [file("/".join("abcdefgh"[number % 8] for number in range(200)) + "/file", b"deep")],
}


@pytest.mark.parametrize("case", CASES)
def test_an_image_shows_what_extracting_gives(case: str, mounted: Path, tmp_path: Path) -> None:
    data = archive(*CASES[case])
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    extractor = Extractor(str(extracted), OverlayWhiteouts(), Limits())
    feed(extractor, data)
    sink = make(data, mounted)
    assert picture(mounted) == picture(extracted)
    assert sink.incomplete == extractor.incomplete


BROKEN: dict[str, Entries] = {
    "a link to nothing": [link("a", "b")],
    "a link to itself": [file("a", b""), link("a", "a")],
    "a link to a folder": [folder("a"), link("b", "a")],
    "a link to the root": [link("b", "/")],
    "a file as a folder": [file("a", b""), file("a/b", b"")],
    "a loop": [symlink("a", "b"), symlink("b", "a"), file("a/c", b"")],
    "above the root": [file("../a", b"")],
    "a long name": [file("x" * 256, b"")],
    "a target that is too long": [symlink("a", "x" * 4096)],
    "a whiteout of nothing": [file(".wh.", b"")],
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_extracted_makes_no_image(case: str, mounted: Path, tmp_path: Path) -> None:
    data = archive(*BROKEN[case])
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    with pytest.raises(TarError):
        feed(Extractor(str(extracted), OverlayWhiteouts(), Limits()), data)
    with pytest.raises(TarError):
        make(data, mounted)


def test_folders_of_every_size(mounted: Path) -> None:
    """The root and another one, up to where their entries no longer fit beside the inode, or into a block."""
    for count in (0, 1, *range(18, 27)):
        names = {f"name-{number:04}" for number in range(count)}
        make(archive(folder("d"), *(file(f"{place}{name}", b"") for name in names for place in ("", "d/"))), mounted)
        assert set(os.listdir(mounted)) == names | {"d"}
        assert set(os.listdir(mounted / "d")) == names
        syscalls.umount2(mounted, syscalls.MNT_DETACH)


def test_limits(mounted: Path) -> None:
    many = [file(str(number), b"") for number in range(5)]
    with pytest.raises(LimitError, match="entries"):
        make(archive(*many), mounted, limits=Limits(max_entries=4))
    with pytest.raises(LimitError, match="entries"):
        make(archive(file("a/b/c/d/e/f", b"")), mounted, limits=Limits(max_entries=4))
    with pytest.raises(LimitError, match="10 bytes"):
        make(archive(file("a", b"x" * 10)), mounted, limits=Limits(max_size=9))


def test_holes_stay_holes(mounted: Path, tmp_path: Path) -> None:
    for number, tool_format in enumerate(("gnu", "posix")):
        source = tmp_path / f"sparse-{number}"
        with open(source, "wb") as file:
            file.seek(700_001)
            file.write(b"in the middle" * 1000)
            file.truncate(3_000_000_000)
        (tmp_path / "only-a-hole").touch()
        os.truncate(tmp_path / "only-a-hole", 5_000_000)
        command = f"tar -S --format={tool_format} -C {tmp_path} -cf {tmp_path}/x.tar {source.name} only-a-hole"
        assert os.system(command) == 0
        make((tmp_path / "x.tar").read_bytes(), mounted)
        with open(source, "rb") as expected, open(mounted / source.name, "rb") as found:
            assert os.fstat(found.fileno()).st_size == 3_000_000_000
            for offset in (0, 699_999, 712_000, 2_999_990_000):
                expected.seek(offset)
                found.seek(offset)
                assert found.read(10_000) == expected.read(10_000)
        assert (mounted / "only-a-hole").read_bytes() == bytes(5_000_000)
        assert (tmp_path / "layer.erofs").stat().st_blocks * 512 < 1_000_000
        syscalls.umount2(mounted, syscalls.MNT_DETACH)


def test_folders_that_the_archive_leaves_out_are_as_below(mounted: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    (below / "a/b").mkdir(parents=True)
    os.chown(below / "a", 5, 6)
    (below / "a").chmod(0o2750)
    os.setxattr(below / "a", "user.note", b"kept")
    os.setxattr(below / "a", "trusted.overlay.opaque", b"y")
    os.utime(below / "a/b", ns=(1, 1_234_567_890_123_456_789))
    sink = make(archive(file("a/b/file", b"x")), mounted, lower=(str(tmp_path / "nothing-there"), str(below))[1:])
    found = os.stat(mounted / "a")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o2750, 5, 6)
    assert os.listxattr(mounted / "a") == ["user.note"]
    assert os.stat(mounted / "a/b").st_mtime_ns == 1_234_567_890_123_456_789
    assert not sink.incomplete


def test_the_root_looks_as_that_of_the_snapshot(mounted: Path) -> None:
    mounted.chmod(0o711)
    os.chown(mounted, 3, 4)
    make(archive(folder("./", mode=0o777), file("a", b"x")), mounted)
    found = os.stat(mounted)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o711, 3, 4)
    assert found.st_ino > 0


def test_any_tree(mounted: Path, tmp_path: Path) -> None:
    """Random archives, with names that meet each other in every way."""
    for seed in range(8):
        chosen = random.Random(seed)
        entries: Entries = []
        for _ in range(60):
            name = "/".join(chosen.choices("abcd", k=chosen.randint(1, 4)))
            kind = chosen.randrange(6)
            if kind == 0:
                entries.append(folder(name, mode=chosen.choice((0o755, 0o700))))
            elif kind == 1:
                entries.append(symlink(name, chosen.choice(("a", "../b", "/c/d", "."))))
            elif kind == 2:
                parent, _, last = name.rpartition("/")
                entries.append(file(f"{parent}/.wh.{last}".lstrip("/"), b""))
            elif kind == 3:
                entries.append(file(f"{name}/.wh..wh..opq", b""))
            else:
                entries.append(file(name, chosen.randbytes(chosen.choice((0, 1, 511, 512, 5000)))))
        extracted = _extract_what_can_be(entries, tmp_path)
        make(archive(*entries), mounted)
        assert picture(mounted) == picture(extracted), f"seed {seed}"
        syscalls.umount2(mounted, syscalls.MNT_DETACH)


def _extract_what_can_be(entries: Entries, tmp_path: Path) -> Path:
    """Take from `entries` those that cannot be extracted after the others; returns where the rest is."""
    while True:
        extracted = Path(tempfile.mkdtemp(dir=tmp_path))
        extractor = Extractor(str(extracted), OverlayWhiteouts(), Limits())
        candidate = entries[0]
        try:
            for candidate in entries:
                for event in Reader().receive(archive(candidate)):
                    extractor.take(event)
            extractor.finish()
        except TarError:
            entries.remove(candidate)
        else:
            return extracted
        finally:
            extractor.close()


@pytest.mark.parametrize("chunk", [1, 511, 513, 100_000])
def test_the_reader_says_where_bytes_are(chunk: int) -> None:
    data = archive(file("n" * 300, b"one"), file("b", b"two" * 1000), file("empty", b""))
    reader = Reader()
    found = [
        event.offset
        for start in range(0, len(data), chunk)
        for event in reader.receive(data[start : start + chunk])
        if isinstance(event, Entry)
    ]
    assert [data[offset : offset + 3] for offset in found[:2]] == [b"one", b"two"]


def test_a_device_that_linux_has_no_number_for(mounted: Path) -> None:
    with pytest.raises(TarError, match="out of range"):
        make(archive(node("device", tarfile.CHRTYPE, 5000, 1)), mounted)
