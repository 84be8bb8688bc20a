"""Images that tools unpack differently, unless they are careful."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence

from support.tars import Member, archive, block, entry, folder, link, node, padded, pax, symlink

Layers = Callable[[], list[bytes]]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""The value of `security.capability` for CAP_NET_BIND_SERVICE (vfs_cap_data, revision 2)."""
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permission, id)
    for tag, permission, id in (
        (1, 7, 0xFFFFFFFF),
        (2, 5, 1234),
        (4, 5, 0xFFFFFFFF),
        (16, 7, 0xFFFFFFFF),
        (32, 5, 0xFFFFFFFF),
    )
)
"""The value of `system.posix_acl_access` with an entry for user 1234."""


def _of(*layers: Sequence[Member], format: int = tarfile.PAX_FORMAT) -> Layers:
    return lambda: [archive(*members, format=format) for members in layers]


def _xattr(**values: bytes) -> bytes:
    return pax(*((b"SCHILY.xattr." + name.replace("_", ".").encode(), value) for name, value in values.items()))


def _attributes() -> list[bytes]:
    records = (
        (_xattr(user_note=b"\0binary=\n", user_empty=b""), block(b"file")),
        (_xattr(security_capability=CAPABILITY), block(b"bind", size=b"00000000003") + padded(b"elf")),
        (pax((b"SCHILY.xattr.system.posix_acl_access", ACL)), block(b"acl")),
        (_xattr(user_folder=b"1"), block(b"folder/", b"5")),
        (_xattr(trusted_overlay_opaque=b"y", user_kept=b"1"), block(b"folder/forged/", b"5")),
    )
    upper = _xattr(user_folder=b"2") + block(b"folder/", b"5") + block(b"folder/new")
    return [b"".join(part for pair in records for part in pair) + bytes(1024), upper + bytes(1024)]


def _sparse() -> list[bytes]:
    data = b"a" * 512 + b"b" * 512
    pax_1 = pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"new"),
        (b"GNU.sparse.realsize", b"99999"),
    )
    map_1 = b"2\n4096\n512\n50000\n512\n".ljust(512, b"\0")
    hole = pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"hole"),
        (b"GNU.sparse.realsize", b"70000"),
    )
    return [
        pax_1
        + block(b"GNUSparseFile.0/new", size=b"00000003000")
        + map_1
        + data
        + hole
        + block(b"GNUSparseFile.0/hole", size=b"00000001000")
        + b"0\n".ljust(512, b"\0")
        + bytes(1024)
    ]


def _old_sparse() -> list[bytes]:
    """As GNU tar wrote them before pax, and still does with `--format=gnu`."""
    regions = (386, b"00000010000\00000000001000\000000100000\00000000001000\000000200000\00000000000000\0")
    header = block(b"old", b"S", b"00000002000", map=regions, size_of_all=(483, b"00000200000\0"))
    return [_gnu(header) + b"a" * 512 + b"b" * 512 + bytes(1024)]


def _gnu(header: bytes) -> bytes:
    """A ustar header block as GNU writes it, with the checksum for that."""
    made = bytearray(header)
    made[257:265] = b"ustar  \0"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def _formats() -> list[bytes]:
    """What the formats have their own ways for, each in its own layer."""
    long, target = "n" * 100 + "/" + "m" * 150, "t" * 200
    members = [entry(long, data=b"x", uid=1 << 20, gid=5), symlink("to-long", target), folder("f", mode=0o750)]
    layers = [archive(*members, format=format) for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    ustar = archive(entry("p" * 90 + "/" + "q" * 90, data=b"ustar"), format=tarfile.USTAR_FORMAT)
    base_256 = block(b"base256", uid=(108, b"\x80\0\0\0\x00\x20\0\1"), gid=(116, b"\x80\0\0\0\x00\x20\0\2")) + bytes(
        1024
    )
    v7 = block(b"v7", b"\0", b"00000000002", magic=(257, bytes(8))) + padded(b"v7") + bytes(1024)
    records = pax(
        (b"uid", b"3000000"), (b"gid", b"3000001"), (b"path", "ünï/ cödé".encode()), (b"mtime", b"1600000000.5")
    )
    return [*layers, ustar, base_256, v7, records + block(b"short") + bytes(1024)]


def _global_header() -> list[bytes]:
    """As `git archive` writes."""
    header = bytearray(pax((b"comment", b"of git")))
    header[156:157] = b"g"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return [bytes(header) + block(b"file") + bytes(1024)]


def _names() -> list[bytes]:
    bad = "bad\udcff\udcfename"
    odd = [
        "./dot/a",
        "/absolute",
        "trailing//slashes",
        "a/../up",
        " blank ",
        "new\nline",
        "back\\slash",
        "n" * 255,
        ".hidden",
        "...",
    ]
    deep = "/".join("d" * 50 for _ in range(30))
    made = [entry(name, data=name.encode("utf-8", "surrogateescape")) for name in [*odd, deep]]
    bytes_names = archive(entry(bad, data=b"bytes"), format=tarfile.GNU_FORMAT)
    return [archive(*made), bytes_names]


def _whiteout_of(name: str) -> Member:
    head, _, tail = name.rpartition("/")
    return entry(f"{head}/.wh.{tail}" if head else f".wh.{tail}")


def _opaque(name: str) -> Member:
    return entry(f"{name}/.wh..wh..opq")


_TREE = [
    folder("a", mode=0o711),
    folder("a/b"),
    entry("a/b/c", data=b"1"),
    folder("a/b/d"),
    entry("a/b/d/e", data=b"1"),
    entry("f", data=b"1"),
]

NASTY: Mapping[str, Layers] = {
    "links": _of(
        [
            entry("file", data=b"1"),
            symlink("relative", "file"),
            symlink("absolute", "/file"),
            symlink("dangling", "no/such"),
            symlink("out", "../../../etc/passwd"),
            symlink("self", "self"),
            symlink("long", "x/" * 500 + "y", uid=3, gid=4, mtime=99),
        ],
    ),
    "hard links": _of(
        [
            entry("a", data=b"1"),
            link("b", "a"),
            link("d/c", "./a"),
            symlink("l", "a"),
            link("m", "l"),
            node("fifo", tarfile.FIFOTYPE),
            link("fifo2", "fifo"),
            link("n", "/d/c"),
        ],
    ),
    "hard links that say other things of their file": _of(
        [entry("a", data=b"1", mode=0o640, uid=5), link("b", "a", mode=0o600, uid=6)]
    ),
    "hard links over layers": _of(
        [entry("d/a", data=b"1", mode=0o4755, uid=5, mtime=1000), link("d/b", "d/a")],
        [link("c", "d/a"), link("e", "c")],
    ),
    "whiteouts": _of(
        _TREE, [_whiteout_of("a/b/c"), _whiteout_of("a/b/d"), _whiteout_of("no"), entry("a/b/new", data=b"2")]
    ),
    "whiteouts over links": _of(
        [entry("d/x", data=b"1"), symlink("l", "d"), symlink("m", "nowhere"), symlink("n", "d/x")],
        [_whiteout_of("l"), _whiteout_of("m"), _whiteout_of("n"), folder("l"), entry("l/y", data=b"2")],
    ),
    "whiteout of a parent": _of(
        _TREE,
        [_whiteout_of("a"), folder("a", mode=0o700), entry("a/new", data=b"2")],
        [_whiteout_of("a")],
        [entry("a/b/newer", data=b"3")],
    ),
    "opaque in opaque": _of(
        _TREE,
        [folder("a"), _opaque("a"), folder("a/b"), _opaque("a/b"), entry("a/b/new", data=b"2")],
        [folder("a/b"), _opaque("a/b"), entry("a/b/c", data=b"3")],
    ),
    "opaque and the same again": _of(
        _TREE, [folder("a"), _opaque("a"), entry("a/b/c", data=b"2"), folder("a/b/d"), entry("a/b/d/e", data=b"2")]
    ),
    "folders and files in each other's place": _of(
        [
            folder("x"),
            entry("x/a", data=b"1"),
            entry("y", data=b"1"),
            symlink("z", "x"),
            folder("w"),
            entry("w/b", data=b"1"),
        ],
        [
            entry("x", data=b"2"),
            folder("y"),
            entry("y/c", data=b"2"),
            folder("z", mode=0o700),
            entry("z/d", data=b"2"),
            symlink("w", "y"),
        ],
        [folder("x"), entry("x/e", data=b"3"), node("y", tarfile.FIFOTYPE), entry("z", data=b"3")],
    ),
    "attributes": _attributes,
    "sparse files": _sparse,
    "sparse files of old": _old_sparse,
    "modes": _of(
        [
            entry(f"{mode:o}", mode=mode, uid=mode, gid=mode + 1, data=b"x")
            for mode in (0, 0o1, 0o777, 0o1755, 0o2755, 0o4755, 0o6711, 0o7777)
        ]
        + [folder(f"d{mode:o}", mode=mode, uid=33) for mode in (0, 0o1777, 0o2775, 0o700)]
        + [entry("d2775/inside", uid=1, gid=2)]
    ),
    "times": _of(
        [entry(f"t{number}", mtime=time) for number, time in enumerate((0, 1, 1_600_000_000, 2**31, 2**33 + 5))]
        + [folder("d", mtime=5), entry("d/f", mtime=7), symlink("l", "d", mtime=11)],
        [entry("d/g", mtime=13), folder("e", mtime=17)],
    ),
    "fractions of seconds": lambda: [
        pax((b"mtime", b"1600000000.123456789"), (b"atime", b"1"), (b"ctime", b"1")) + block(b"f") + bytes(1024)
    ],
    "devices and fifos": _of(
        [
            node("null", tarfile.CHRTYPE, 1, 3, mode=0o666),
            node("disk", tarfile.BLKTYPE, 8, 17, mode=0o660, gid=6),
            node("many", tarfile.CHRTYPE, 250, 100_000, mode=0o600),
            node("pipe", tarfile.FIFOTYPE, mode=0o622, uid=9),
        ]
    ),
    "names": _names,
    "formats": _formats,
    "global headers": _global_header,
    "folders of several layers": _of(
        [
            folder("d", mode=0o1777, uid=1, mtime=100),
            folder("d/e", mode=0o700, mtime=200),
            folder("m", mode=0o2750, gid=7, mtime=300),
        ],
        [entry("d/e/new", data=b"2"), entry("m/n/o", data=b"2")],
        [folder("d", mode=0o755, uid=2, mtime=400)],
    ),
    "entries out of order": _of(
        [
            entry("d/e/f", data=b"1"),
            folder("d/e", mode=0o700, mtime=100),
            folder("d", mode=0o711, mtime=200),
            entry("d/g", data=b"1"),
        ],
    ),
    "the same name twice": _of(
        [
            entry("f", data=b"first"),
            entry("f", data=b"2", mode=0o600),
            symlink("l", "f"),
            entry("l", data=b"no link"),
            folder("d"),
            entry("d/x"),
            entry("d", data=b"file"),
            folder("e", mode=0o700),
            folder("e", mode=0o755),
            entry("h", data=b"h"),
            link("i", "h"),
            entry("h", data=b"h2"),
        ],
    ),
    "marks of AUFS": _of(
        _TREE, [entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs"), folder("a/.wh..wh.orph"), entry("a/new", data=b"2")]
    ),
    "deletions of what is not there": _of(
        [entry("a", data=b"1")], [_whiteout_of("never"), _opaque("empty"), _whiteout_of("a"), entry("b")]
    ),
    "deletions where there is no folder": _of([entry("a", data=b"1")], [_whiteout_of("no/folder/x")]),
}

UMOCI, CONTAINERD = "umoci", "containerd"
KNOWN: Mapping[tuple[str, str], str] = {
    (
        "hard links that say other things of their file",
        CONTAINERD,
    ): "gives the file what the link's header says; tar does not",
    ("hard links over layers", CONTAINERD): "cannot unpack it: looks for the file among the layer's own only",
    ("whiteout of a parent", CONTAINERD): "cannot unpack it: looks for the folder behind the whiteout",
    ("opaque and the same again", UMOCI): "leaves the time of unpacking on a folder that it has emptied",
    ("folders of several layers", UMOCI): "leaves the time of unpacking on a folder that it makes a folder in",
    ("deletions of what is not there", UMOCI): "makes no folder for a deletion in it",
    ("deletions where there is no folder", UMOCI): "makes no folder for a deletion in it",
    ("attributes", UMOCI): "leaves out empty attributes, and sets the mode over the access control list",
    ("sparse files of old", UMOCI): "cannot unpack it: knows sparse files of pax only",
    ("sparse files of old", CONTAINERD): "cannot unpack it: knows sparse files of pax only",
    ("global headers", UMOCI): "cannot unpack it: takes the header for an entry",
    ("folders of several layers", CONTAINERD): "makes a folder without its parent's set-group-ID bit",
}
"""What the others do otherwise, by image: then Moorage does what the rest do, and the specification says."""

KNOWN_OVERLAY: Mapping[tuple[str, str], str] = {
    ("hard links over layers", UMOCI): "overlayfs copies one name of a file up, so that its others part from it",
}
"""What overlayfs cannot do, or does otherwise, for containerd as for Moorage."""


def many_files(count: int) -> list[bytes]:
    """So many small files in folders of a thousand, and a layer that removes every tenth folder."""
    members = [entry(f"d{n // 1000:03}/f{n}", data=b"%d" % n, mtime=n, uid=n % 7) for n in range(count)]
    gone = [_whiteout_of(f"d{n:03}") for n in range(0, count // 1000, 10)]
    return [archive(*members, format=tarfile.USTAR_FORMAT), archive(*gone)]
