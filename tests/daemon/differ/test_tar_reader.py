"""The tar reader, as bytes in and events out."""

from __future__ import annotations

import io
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooraged.differ.tar.events import Data, End, Entry, LimitError, TarError, Type, Whole
from mooraged.differ.tar.reader import Reader
from support.tars import block, padded, pax

_TYPES = {
    tarfile.REGTYPE: Type.FILE,
    tarfile.LNKTYPE: Type.LINK,
    tarfile.SYMTYPE: Type.SYMLINK,
    tarfile.CHRTYPE: Type.CHARACTER_DEVICE,
    tarfile.BLKTYPE: Type.BLOCK_DEVICE,
    tarfile.DIRTYPE: Type.FOLDER,
    tarfile.FIFOTYPE: Type.FIFO,
}


def read(archive: bytes, chunk: int = 1 << 20, whole: int = 0) -> list[tuple[Entry, bytes]]:
    """The entries of an archive with their contents, holes filled; the bytes are given `chunk` at a time."""
    reader = Reader(whole)
    found: list[tuple[Entry, bytearray]] = []
    complete = True
    for start in range(0, len(archive), chunk):
        for event in reader.receive(archive[start : start + chunk]):
            if isinstance(event, Whole):
                assert complete
                assert 0 < len(event.view) == event.entry.size <= whole
                found.append((event.entry, bytearray(event.view)))
            elif isinstance(event, Entry):
                assert complete
                complete = event.type is not Type.FILE
                found.append((event, bytearray()))
            elif isinstance(event, Data):
                content = found[-1][1]
                content += bytes(event.offset - len(content)) + bytes(event.view)
            else:
                assert isinstance(event, End)
                entry, content = found[-1]
                content += bytes(entry.size - len(content))
                complete = True
    reader.finish()
    assert complete
    return [(entry, bytes(data)) for entry, data in found]


def member(name: str = "file", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def archive_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=format) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


_names = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=150)
_paths = st.lists(_names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


@st.composite
def _members(draw: st.DrawFn, format: int) -> tuple[tarfile.TarInfo, bytes]:
    ascii_only = format == tarfile.USTAR_FORMAT
    names = (
        st.text("abc.-_", min_size=1, max_size=90).filter(lambda name: not name.endswith("/")) if ascii_only else _paths
    )
    kind = draw(st.sampled_from(sorted(_TYPES)))
    large = 0o7777777 if ascii_only else 1 << 31
    info = member(
        draw(names),
        type=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, large)),
        gid=draw(st.integers(0, large)),
        mtime=draw(st.integers(0 if ascii_only else -(1 << 33), 1 << 32)),
        linkname=draw(names) if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "",
        devmajor=draw(st.integers(0, 4095)),
        devminor=draw(st.integers(0, 0o7777777)),
    )
    return info, draw(st.binary(max_size=2000)) if kind == tarfile.REGTYPE else b""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_reads_what_tarfile_writes(format: int, data: st.DataObject) -> None:
    members = data.draw(st.lists(_members(format), max_size=5))
    chunk = data.draw(st.sampled_from([1, 7, 511, 512, 513, 4096, 1 << 20]))
    found = read(archive_of(*members, format=format), chunk, data.draw(st.sampled_from([0, 1000, 1 << 20])))
    assert len(found) == len(members)
    for (entry, content), (info, written) in zip(found, members, strict=True):
        slash = "/" if info.isdir() else ""
        assert entry.name == (info.name + slash).encode()
        assert (entry.type, entry.mode, entry.uid, entry.gid) == (_TYPES[info.type], info.mode, info.uid, info.gid)
        assert entry.mtime == info.mtime * 1_000_000_000
        assert (entry.link, content) == (info.linkname.encode(), written)
        if info.isdev() and not info.isfifo():
            assert (entry.major, entry.minor) == (info.devmajor, info.devminor)


@given(data=st.binary(max_size=3000), chunk=st.sampled_from([1, 100, 512, 5000]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, chunk: int) -> None:
    with suppress(TarError):
        read(data, chunk)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_archive_is_read_or_refused(data: st.DataObject) -> None:
    archive = bytearray(archive_of((member("a" * 150, pax_headers={"SCHILY.xattr.user.a": "b"}), b"content")))
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    # Sums that are right again let the damage through to what is behind them.
    for start in (0, 1024):
        header = archive[start : start + 512]
        header[148:156] = b" " * 8
        archive[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    with suppress(TarError):
        read(bytes(archive))


def test_small_files_come_whole_where_all_of_them_is_there() -> None:
    members = [
        (member("small"), b"some"),
        (member("empty"), b""),
        (member("folder", type=tarfile.DIRTYPE), b""),
        (member("n" * 200), b"s" * 600),
        (member("larger"), b"s" * 601),
        (member("cut off"), b"some"),
    ]
    archive = archive_of(*members)
    cut = archive.rindex(b"some") + 2
    reader = Reader(whole=600)
    kinds = [[type(event) for event in reader.receive(part)] for part in (archive[:cut], archive[cut:])]
    assert kinds == [[Whole, Entry, End, Entry, Whole, Entry, Data, End, Entry, Data], [Data, End]]


def test_fractions_of_seconds_and_xattrs() -> None:
    info = member(
        "f", pax_headers={"mtime": "12.3456789019", "SCHILY.xattr.user.k=v".replace("=", "."): "\x01", "atime": "1"}
    )
    [(entry, _)] = read(archive_of((info, b"")))
    assert entry.mtime == 12_345_678_901
    assert entry.xattrs == {"user.k.v": b"\x01"}


def test_binary_and_empty_xattrs() -> None:
    records = pax((b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\n="), (b"SCHILY.xattr.user.empty", b""))
    [(entry, _)] = read(records + block())
    assert entry.xattrs == {"security.capability": b"\x01\0\0\x02\n=", "user.empty": b""}


@pytest.mark.parametrize("value", [b"-1.5", b"-1.500000000999"])
def test_time_before_the_epoch(value: bytes) -> None:
    [(entry, _)] = read(pax((b"mtime", value)) + block())
    assert entry.mtime == -1_500_000_000


def test_base_256_numbers() -> None:
    header = block(uid=(108, b"\x80\0\0\0\x80\0\0\x01"), mtime=(136, b"\xff" * 12))
    [(entry, _)] = read(header)
    assert (entry.uid, entry.mtime) == (0x80000001, -1_000_000_000)


def test_old_archives_without_a_magic() -> None:
    header = block(b"folder/", b"\0", magic=(257, bytes(8)), prefix=(345, b"no prefix"))
    assert [(entry.name, entry.type) for entry, _ in read(header)] == [(b"folder/", Type.FOLDER)]


def test_prefix_of_ustar() -> None:
    [(entry, _)] = read(block(b"name", prefix=(345, b"some/where")))
    assert entry.name == b"some/where/name"


def test_checksum_of_signed_bytes() -> None:
    header = bytearray(block(b"n\xe4me"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) - 256)
    assert read(bytes(header))[0][0].name == b"n\xe4me"


def test_the_last_of_contradicting_records_counts() -> None:
    archive = (
        pax((b"path", b"first"), (b"size", b"9"), (b"path", b"second"), (b"size", b"3"))
        + block(size=b"7")
        + padded(b"abc")
    )
    assert [(entry.name, data) for entry, data in read(archive)] == [(b"second", b"abc")]


def test_global_headers_are_passed_over() -> None:
    records = pax((b"path", b"everything"))
    archive = records[:156] + b"g" + records[157:]
    archive = bytearray(archive)
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    assert read(bytes(archive) + block())[0][0].name == b"file"


def test_what_follows_the_end_is_passed_over() -> None:
    assert len(read(block() + bytes(1024) + b"\xff" * 5000)) == 1


@pytest.mark.parametrize("kind", b"123456")
def test_size_of_what_has_no_content_is_ignored(kind: int) -> None:
    found = read(block(b"a", bytes([kind]), b"00000001000") + block(b"b"))
    assert [entry.name for entry, _ in found] == [b"a", b"b"]


@pytest.mark.parametrize("format", ["gnu", "posix"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: str, version: str) -> None:
    content = bytearray(3_000_000)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(len(content))
        for number in range(60):
            offset = number * 45_056
            content[offset : offset + 8] = b"%08d" % number
            file.seek(offset)
            file.write(b"%08d" % number)
    command = ["tar", "-C", tmp_path, "-cS", f"--format={format}", f"--sparse-version={version}", "sparse"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(archive) < 1_000_000
    for chunk in (511, 1 << 20):
        [(entry, data)] = read(archive, chunk)
        assert (entry.name, entry.size, data) == (b"sparse", len(content), bytes(content))


def test_sparse_file_that_is_all_hole(tmp_path: Path) -> None:
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1_000_000)
    archive = subprocess.run(["tar", "-C", tmp_path, "-cS", "hole"], check=True, capture_output=True).stdout
    assert [len(data) for _, data in read(archive)] == [1_000_000]


def _sparse(*records: tuple[bytes, bytes], stored: bytes = b"x" * 512) -> bytes:
    return pax(*records) + block(size=b"%011o" % len(stored)) + padded(stored)


_MAP = (b"GNU.sparse.size", b"1000")
_MAP_1 = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"1000"))

MALFORMED = {
    "text": b"this is no archive".ljust(512),
    "wrong checksum": block()[:-1] + b"x",
    "octal with an 8": block(size=b"00000000008"),
    "octal with a sign": block(size=b"-0000000001"),
    "negative size": block(size=b"\xff" * 12),
    "unknown type": block(kind=b"Z"),
    "zeros within": block() + bytes(512) + block(),
    "cut header": block()[:300],
    "cut file": block(size=b"00000000010") + b"abc",
    "header without an entry": pax((b"path", b"x")),
    "negative pax size": pax((b"size", b"-1")) + block(),
    "pax size that is no number": pax((b"size", b"1e3")) + block(),
    "pax path with a NUL": pax((b"path", b"a\0b")) + block(),
    "pax time that is no time": pax((b"mtime", b"now")) + block(),
    "pax length too large": block(b"p", b"x", b"00000000012") + padded(b"99 a=b\n") + block(),
    "pax length zero": block(b"p", b"x", b"00000000012") + padded(b"0 a=b\n   ") + block(),
    "pax without a key": block(b"p", b"x", b"00000000006") + padded(b"6 =ab\n") + block(),
    "sparse without a map": _sparse(_MAP),
    "sparse map of an odd count": _sparse(_MAP, (b"GNU.sparse.map", b"0,512,600")),
    "sparse map that overlaps": _sparse(_MAP, (b"GNU.sparse.map", b"0,256,128,256")),
    "sparse map beyond the file": _sparse(_MAP, (b"GNU.sparse.map", b"900,512")),
    "sparse map of another size": _sparse(_MAP, (b"GNU.sparse.map", b"0,100")),
    "sparse map with a negative": _sparse(_MAP, (b"GNU.sparse.map", b"0,1000,1000,-488")),
    "sparse offsets that do not alternate": _sparse(_MAP, (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.offset", b"1")),
    "sparse map of letters": _sparse(*_MAP_1, stored=b"one\n".ljust(512, b"\0")),
    "sparse map without an end": _sparse(*_MAP_1, stored=b"1" * 512),
    "sparse map longer than the data": _sparse(*_MAP_1, stored=b"200\n" + b"0\n" * 254) + bytes(1024),
    "old sparse that disagrees": block(kind=b"S", size=b"00000001000", map=(386, b"00000000000\00000000000001\0")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archives_are_refused(name: str) -> None:
    for chunk in (512, 1 << 20):
        with pytest.raises(TarError):
            read(MALFORMED[name], chunk)


@pytest.mark.parametrize(
    "archive",
    [
        block(b"p", b"x", b"00010000001"),
        block(b"p", b"L", b"77777777777"),
        _sparse(*_MAP_1, stored=b"99999999\n".ljust(512, b"\0")),
    ],
    ids=["pax header", "long name", "sparse map"],
)
def test_what_would_fill_memory_is_refused_at_once(archive: bytes) -> None:
    with pytest.raises(LimitError):
        read(archive)


def test_an_archive_cut_anywhere_is_never_taken_for_whole() -> None:
    whole = archive_of((member("a" * 200), b"x" * 700), (member("b"), b"y" * 600))
    entries = read(whole)
    refused = 0
    for cut in range(1, len(whole.rstrip(b"\0")), 97):
        found: list[tuple[Entry, bytes]] = []
        try:
            found = read(whole[:cut])
        except TarError:
            refused += 1
        # Where a cut falls between two entries, there are fewer of them, each one whole.
        assert found == entries[: len(found)]
        assert len(found) < len(entries)
    assert refused > 20


def test_errors_name_the_entry() -> None:
    with pytest.raises(TarError, match=r"some/file.*Z"):
        read(block(b"some/file", b"Z"))
    with pytest.raises(TarError, match="some/file"):
        read(block(b"some/file", size=b"00000000010") + b"abc")
