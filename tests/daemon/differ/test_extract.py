"""Extraction: what archives make, and what hostile ones do not."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooraged.differ.extract import Extractor
from mooraged.differ.limits import Limits
from mooraged.differ.tar.events import LimitError, TarError
from mooraged.differ.tar.reader import Reader
from mooraged.differ.whiteouts import NothingBelow, OverlayWhiteouts, PlainWhiteouts
from support.descriptors import none_left
from support.tars import archive, entry, folder, link, symlink


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("untouched")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def outside(root: Path) -> Iterator[None]:
    """Whatever a test extracts, nothing outside the root may change."""
    beside = root.parent / "outside"
    before = beside.stat().st_mode
    yield
    assert {path.name: path.read_text() for path in beside.iterdir()} == {"secret": "untouched"}
    assert beside.stat().st_mode == before
    assert {path.name for path in root.parent.iterdir()} == {"outside", "root"}


def extract(
    root: Path,
    *entries: tuple[tarfile.TarInfo, bytes],
    data: bytes = b"",
    overlay: bool = False,
    lower: tuple[str, ...] = (),
    limits: Limits = Limits(),
) -> None:
    """Extract entries, or the archive `data`, into `root`."""
    whiteouts = OverlayWhiteouts() if overlay else PlainWhiteouts()
    feed(Extractor(str(root), whiteouts, limits, lower), data or archive(*entries))


def feed(extractor: Extractor, data: bytes) -> None:
    reader = Reader(whole=1000)
    try:
        for event in reader.receive(data):
            extractor.take(event)
        reader.finish()
        extractor.finish()
    finally:
        extractor.close()


def test_a_first_layer_has_nothing_to_delete(root: Path) -> None:
    """In a folder that was empty it comes to the same whether deletions are looked into or not."""
    entries = [
        entry("d/own", data=b"own"),
        folder("d/e"),
        entry("d/e/own"),
        symlink("link", "d"),
        *(entry(name) for name in ("d/.wh.own", "d/.wh.e", "d/.wh.absent", ".wh.link", "n/.wh.absent")),
        *(entry(name) for name in (".wh..wh..opq", "d/.wh..wh..opq", "d/e/.wh..wh..opq", "link/.wh..wh..opq")),
        entry("link/again", data=b"through the link"),
    ]
    found = []
    for name, whiteouts in (("plain", PlainWhiteouts()), ("nothing", NothingBelow())):
        place = root / name
        place.mkdir()
        feed(Extractor(str(place), whiteouts, Limits()), archive(*entries))
        found.append(listing(place))
    assert found[0] == found[1]
    assert {"d/own", "d/e/own", "d/again", "link", "n"} <= found[0].keys()


def listing(root: Path) -> dict[str, str]:
    """What is in `root`: file contents, link targets, kinds."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        text = stat.filemode(status.st_mode)[0]
        if path.is_symlink():
            text = f"-> {os.readlink(path)}"
        elif path.is_file():
            text = path.read_text()
        found[str(path.relative_to(root))] = text
    return found


# Ordinary archives


def test_same_tree_as_gnu_tar(root: Path) -> None:
    source, reference = root / "source", root / "reference"
    source.mkdir()
    make_nasty_tree(source)
    data = subprocess.run(
        ["tar", "-C", source, "--xattrs", "--xattrs-include=*", "--format=posix", "-cS", "."],
        check=True,
        capture_output=True,
    ).stdout
    reference.mkdir()
    command = ["tar", "-C", reference, "--xattrs", "--xattrs-include=*", "-xp", "--numeric-owner"]
    subprocess.run(command, input=data, check=True)
    target = root / "target"
    target.mkdir()
    extract(target, data=data)
    assert describe(target) == describe(reference)
    assert len(describe(target)) > 20


def make_nasty_tree(root: Path) -> None:
    """Every kind of entry, long and odd names, all attributes."""
    deep = root / ("long-" * 30) / ("name-" * 40) / "end"
    deep.mkdir(parents=True)
    for name in ("plain", "sp ace", "new\nline", "n\u00e4me", "\udcfe\udcff", "-rf", "*", "a" * 255):
        (deep / name).write_text(name, errors="surrogateescape")
    for mode in (0o0, 0o4755, 0o2755, 0o1777, 0o6711):
        path = root / f"mode-{mode:o}"
        path.write_text("x")
        os.chown(path, 1234, 56789)
        path.chmod(mode)
    (root / "sticky").mkdir()
    os.chown(root / "sticky", 5, 6)
    (root / "sticky").chmod(0o3777)
    (root / "sticky/inside").write_text("the group is not that of the folder")
    (root / "hard").hardlink_to(root / "mode-4755")
    (root / "soft").symlink_to("/absolute/" + "target/" * 30)
    os.lchown(root / "soft", 7, 8)
    (root / "hard-soft").hardlink_to(root / "soft")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.setxattr(root / "mode-4755", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(root / "sticky", "user.note", b"\0\xff")
    with open(root / "hole", "wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
        file.truncate(9_000_000)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_600_000_000_000_000_000 + number * 1_000_000_007), follow_symlinks=False)


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that an archive can say of the files below `root`, and how many blocks they take."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(root))] = (
            stat.filemode(status.st_mode),
            (status.st_uid, status.st_gid, status.st_nlink, status.st_rdev),
            0 if stat.S_ISDIR(status.st_mode) else status.st_blocks,
            status.st_mtime_ns,
            os.readlink(path) if path.is_symlink() else content,
            {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("security.selinux")
            },
        )
    return found


def test_names_are_cleaned(root: Path) -> None:
    extract(
        root, entry("/absolute", data=b"1"), entry("./a//b/./c", data=b"2"), entry("x/../y", data=b"3"), folder("./")
    )
    assert listing(root) == {"absolute": "1", "a": "d", "a/b": "d", "a/b/c": "2", "y": "3"}


def test_missing_parents_look_as_in_the_layers_below(root: Path) -> None:
    lower, upper = root / "lower", root / "upper"
    (lower / "a/b").mkdir(parents=True)
    upper.mkdir()
    os.chown(lower / "a", 1, 2)
    (lower / "a").chmod(0o1777)
    os.setxattr(lower / "a", "user.note", b"kept")
    os.utime(lower / "a", ns=(0, 123_000_000_456))
    extract(upper, entry("a/b/c", data=b"x"), overlay=True, lower=(str(lower),))
    found = (upper / "a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o1777, 1, 2)
    assert found.st_mtime_ns == 123_000_000_456
    assert os.getxattr(upper / "a", "user.note") == b"kept"


def test_folders_of_layers_below_keep_their_time(root: Path) -> None:
    extract(root, folder("d", mtime=1000), entry("d/s/a"), entry("d/gone"), folder("e", mtime=2000), entry("e/a"))
    os.utime(root / "d/s", (1500, 1500))
    extract(root, entry("d/s/b/c"), entry("d/.wh.gone"), folder("e", mtime=3000), link("e/b", "d/s/a"))
    assert [(root / name).stat().st_mtime for name in ("d", "d/s", "e")] == [1000, 1500, 3000]


def test_hard_links_to_files_of_layers_below(root: Path) -> None:
    """Each file is copied up once, as overlayfs does, with all that it has; what is hidden there is not."""
    middle, bottom, upper = root / "middle", root / "bottom", root / "upper"
    for made in (middle, bottom, upper):
        made.mkdir()
    headers = {"SCHILY.xattr.user.note": "kept"}
    files = [entry("d/file", data=b"1", uid=7, mode=0o4755, mtime=1000, pax_headers=headers), symlink("d/link", "file")]
    extract(bottom, *files, entry("gone", data=b"2"), entry("o/hidden", data=b"3"))
    extract(middle, entry(".wh.gone"), entry("o/.wh..wh..opq"), overlay=True)
    lower = (str(middle), str(bottom))
    extract(upper, link("x", "d/file"), link("y", "d/file"), link("l", "d/link"), overlay=True, lower=lower)
    found = (upper / "x").stat()
    assert (found.st_nlink, found.st_uid, stat.S_IMODE(found.st_mode), found.st_mtime) == (3, 7, 0o4755, 1000)
    assert found.st_ino == (upper / "d/file").stat().st_ino
    assert (os.getxattr(upper / "x", "user.note"), os.readlink(upper / "l")) == (b"kept", "file")
    for target in ("gone", "o/hidden", "nothing"):
        with pytest.raises(TarError, match="is not there"):
            extract(upper, link("z", target), overlay=True, lower=lower)
    with pytest.raises(LimitError, match="may be copied"):
        extract(root, link("z", "d/file"), overlay=True, lower=lower, limits=Limits(max_size=0))


def test_a_hard_link_apart_from_its_layers_is_left_to_later(root: Path) -> None:
    extractor = Extractor(str(root), OverlayWhiteouts(), Limits(), apart=True)
    for event in Reader().receive(archive(link("x", "file"))):
        extractor.take(event)
    extractor.finish()
    extractor.close()
    assert (extractor.incomplete, listing(root)) == (True, {})


def test_later_entries_replace_earlier_ones(root: Path) -> None:
    extract(
        root,
        entry("a/b", data=b"1"),
        entry("a", data=b"file"),
        folder("a"),
        symlink("a", "c"),
        entry("l", data=b"2"),
        symlink("l", "a"),
        entry("l", data=b"3"),
    )
    assert listing(root) == {"a": "-> c", "l": "3"}


def test_folder_of_an_earlier_layer_is_kept(root: Path) -> None:
    extract(root, entry("d/a", data=b"1"))
    extract(root, folder("d", mode=0o700), entry("d/b", data=b"2"))
    assert listing(root) == {"d": "d", "d/a": "1", "d/b": "2"}
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700


def test_links_on_the_way_are_followed_within_the_root(root: Path) -> None:
    extract(root, folder("run"), folder("var"), symlink("var/run", "/run"), entry("var/run/pid", data=b"1"))
    extract(root, symlink("missing", "../not/here"), entry("missing/file", data=b"2"))
    assert (root / "run/pid").read_text() == "1"
    assert (root / "not/here/file").read_text() == "2"


def test_time_of_a_folder_is_its_own(root: Path) -> None:
    extract(root, folder("d", mtime=1000), entry("d/file"), folder("e", mtime=2000), entry("e"))
    assert (root / "d").stat().st_mtime == 1000


def owned(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_files_have_their_own_group_in_a_folder_that_gives_its_group(root: Path) -> None:
    extract(
        root,
        folder("a", gid=7, mode=0o755),
        entry("a/before", mode=0o640),
        symlink("alias", "a"),
        folder("a", gid=7, mode=0o2755),
        entry("a/after", mode=0o604),
        entry("alias/through", mode=0o755),
        folder("a/inner"),
        entry("a/inner/file"),
        entry("a/special", mode=0o4711),
        entry("a/other", uid=5, gid=6),
    )
    assert owned(root / "a") == (0, 7, 0o2755)
    assert owned(root / "a/inner") == (0, 0, 0o755)
    modes = {"before": 0o640, "after": 0o604, "through": 0o755, "inner/file": 0o644, "special": 0o4711}
    assert {name: owned(root / "a" / name) for name in modes} == {name: (0, 0, mode) for name, mode in modes.items()}
    assert owned(root / "a/other") == (5, 6, 0o644)


@pytest.mark.parametrize("inherited", [True, False])
def test_files_have_their_own_mode_below_an_access_control_list(root: Path, inherited: bool) -> None:
    """A default list of a folder restricts what is made in it (acl, 5): version 2, and read for all three classes."""
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 4, 0xFFFFFFFF) for tag in (1, 4, 0x20))
    if inherited:
        os.setxattr(root, "system.posix_acl_default", acl)
    header = {"SCHILY.xattr.system.posix_acl_default": os.fsdecode(acl)} if not inherited else {}
    extract(
        root,
        entry("first", mode=0o666),
        folder("a", pax_headers=header),
        entry("a/second", mode=0o777),
        entry("a/third", mode=0o666),
    )
    names = {"first": 0o666, "a/second": 0o777, "a/third": 0o666}
    assert {name: owned(root / name)[2] for name in names} == names


def test_attributes_that_are_no_layers_to_set(root: Path) -> None:
    headers = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.user.ok": "1",
    }
    extract(root, folder("d", pax_headers=headers))
    assert os.listxattr(root / "d") == ["user.ok"]


def test_user_attribute_of_a_link_is_left_out(root: Path) -> None:
    extract(root, entry("l", tarfile.SYMTYPE, linkname="x", pax_headers={"SCHILY.xattr.user.a": "1"}))
    assert listing(root) == {"l": "-> x"}
    assert os.listxattr(root / "l", follow_symlinks=False) == []


# Whiteouts


def lower_tree(root: Path) -> None:
    extract(
        root, entry("keep", data=b"0"), entry("d/a", data=b"0"), entry("d/s/b", data=b"0"), entry("gone", data=b"0")
    )


def test_whiteouts_in_a_plain_folder(root: Path) -> None:
    lower_tree(root)
    extract(root, entry(".wh.gone"), entry("d/.wh.s"), entry("d/.wh.never-there"), entry("d/new", data=b"1"))
    assert listing(root) == {"keep": "0", "d": "d", "d/a": "0", "d/new": "1"}


@pytest.mark.parametrize("first", [True, False])
def test_opaque_marker_in_a_plain_folder_whatever_its_place(root: Path, first: bool) -> None:
    lower_tree(root)
    marker, own = [entry("d/.wh..wh..opq")], [entry("d/a", data=b"1"), entry("d/s/t/new", data=b"1")]
    extract(root, *(marker + own if first else own + marker))
    assert listing(root) == {"keep": "0", "gone": "0", "d": "d", "d/a": "1", "d/s": "d", "d/s/t": "d", "d/s/t/new": "1"}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("overlay", [True, False])
def test_whiteout_and_entry_of_one_name(root: Path, overlay: bool, first: bool) -> None:
    """A whiteout is about the layers below; the layer's own entry stays, and hides all of what was there."""
    below, target = root / "below", root / "target"
    below.mkdir()
    target.mkdir()
    extract(below, entry("x/old", data=b"0"))
    if not overlay:
        extract(target, entry("x/old", data=b"0"))
    whiteout, own = [entry(".wh.x")], [folder("x"), entry("x/new", data=b"1")]
    extract(
        target, *(whiteout + own if first else own + whiteout), overlay=overlay, lower=(str(below),) if overlay else ()
    )
    assert listing(target) == {"x": "d", "x/new": "1"}
    if overlay:
        assert os.getxattr(target / "x", "trusted.overlay.opaque") == b"y"


def test_whiteouts_for_overlayfs(root: Path) -> None:
    extract(root, entry("d/.wh.file", uid=5, gid=6), entry("o/.wh..wh..opq"), entry("o/new", data=b"1"), overlay=True)
    device = (root / "d/file").lstat()
    assert stat.S_ISCHR(device.st_mode)
    assert (device.st_rdev, device.st_uid, device.st_gid) == (0, 5, 6)
    assert os.getxattr(root / "o", "trusted.overlay.opaque") == b"y"
    assert (root / "o/new").read_text() == "1"


def test_folder_in_place_of_a_file_hides_what_is_below(root: Path) -> None:
    extract(root, entry("x", data=b"1"), folder("x"), overlay=True)
    assert os.getxattr(root / "x", "trusted.overlay.opaque") == b"y"


def test_other_bookkeeping_of_aufs_is_left_out(root: Path) -> None:
    extract(root, entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs"), folder("d"))
    assert "d" in listing(root)
    assert ".wh..wh.aufs" not in listing(root)


# Hostile archives

REFUSED = {
    "climbs": [entry("../outside/secret", data=b"evil")],
    "climbs later": [entry("a/../../outside/secret", data=b"evil")],
    "absolute and climbs": [entry("/../outside/secret", data=b"evil")],
    "folder that climbs": [folder("..", mode=0o700)],
    "link to what is outside": [link("x", "../outside/secret")],
    "link to nothing": [link("x", "nothing")],
    "link to itself": [entry("x", data=b"1"), link("./x", "x")],
    "link to a folder": [folder("d"), link("x", "d")],
    "link to the root": [link("x", "/")],
    "link through a link": [symlink("l", "../outside"), link("x", "l/secret")],
    "file as a folder": [entry("a", data=b"1"), entry("a/b", data=b"2")],
    "whiteout of nothing": [entry("a/.wh.")],
    "whiteout of dot": [entry("a/.wh..")],
    "whiteout of dot dot": [entry("a/.wh...")],
    "links in a ring": [symlink("a", "b"), symlink("b", "a"), entry("a/x", data=b"1")],
    "name too long": [entry("n" * 256, data=b"1")],
    "path too deep": [entry("d/" * 300 + "x")],
    "path too long": [entry(("n" * 200 + "/") * 30 + "x")],
    "link to an empty name": [symlink("l", "")],
    "owner out of range": [entry("x", uid=1 << 32)],
    "negative owner": [entry("x", pax_headers={"uid": "-1"})],
}


@pytest.mark.parametrize("overlay", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_hostile_archives_are_refused_with_the_entry(root: Path, name: str, overlay: bool) -> None:
    info = REFUSED[name][-1][0]
    with pytest.raises(TarError) as caught:
        extract(root, *REFUSED[name], overlay=overlay)
    assert repr(info.name[:50])[1:-1] in str(caught.value)


CONFINED = {
    "link out, then through it": ([symlink("l", "../outside"), entry("l/secret", data=b"evil")], "outside/secret"),
    "absolute link": ([symlink("l", "/outside"), entry("l/secret", data=b"evil")], "outside/secret"),
    "many dots": ([symlink("l", "../" * 40 + "outside"), entry("l/secret", data=b"evil")], "outside/secret"),
    "link of a link": (
        [symlink("a", ".."), symlink("b", "a/../../outside"), entry("b/secret", data=b"evil")],
        "outside/secret",
    ),
    "link in place of a folder": (
        [folder("d"), entry("d/x", data=b"1"), symlink("d", "../outside"), entry("d/secret", data=b"evil")],
        "outside/secret",
    ),
    "folder entry on a link": ([symlink("l", "../outside"), folder("l/sub", mode=0o700)], "outside/sub"),
}


@pytest.mark.parametrize("name", CONFINED)
def test_links_lead_nowhere_outside(root: Path, name: str) -> None:
    entries, inside = CONFINED[name]
    extract(root, *entries)
    assert (root / inside).exists()


def test_a_file_replaces_a_link_and_is_not_written_through_it(root: Path) -> None:
    extract(root, symlink("l", str(root.parent / "outside/secret")), entry("l", data=b"evil"))
    assert listing(root) == {"l": "evil"}


def test_a_folder_entry_does_not_follow_a_link(root: Path) -> None:
    extract(root, symlink("l", "../outside"), folder("l", mode=0o700))
    assert listing(root) == {"l": "d"}


def test_hard_link_to_a_link_is_that_link(root: Path) -> None:
    extract(root, symlink("l", str(root.parent / "outside/secret")), link("h", "l"))
    assert os.readlink(root / "h") == os.readlink(root / "l")


def test_a_whiteout_of_a_link_removes_the_link(root: Path) -> None:
    extract(root, symlink("l", str(root.parent / "outside")))
    extract(root, entry(".wh.l"))
    assert listing(root) == {}


def test_opaque_marker_does_not_reach_through_a_link(root: Path) -> None:
    extract(root, symlink("d/l", str(root.parent / "outside")))
    extract(root, entry("d/.wh..wh..opq"))
    assert listing(root) == {"d": "d"}


def test_limit_of_entries(root: Path) -> None:
    with pytest.raises(LimitError, match="more than 3"):
        extract(root, *[entry(f"file-{number}") for number in range(4)], limits=Limits(max_entries=3))


def test_limit_of_a_sparse_file(root: Path) -> None:
    headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": ""}
    with pytest.raises(LimitError):
        extract(root, entry("huge", pax_headers=headers), limits=Limits(max_size=1 << 30))


def test_many_opaque_markers_cost_no_more_than_their_number(root: Path) -> None:
    """A marker for each of many folders on one path, over and over: each folder is looked through once."""
    extract(root, *[entry(f"d/file-{number}") for number in range(500)])
    markers = [entry("d/.wh..wh..opq") for _ in range(2000)]
    own = [entry(f"d/own-{number}") for number in range(500)]
    extract(root, *own, *markers)
    assert len(listing(root)) == 501


def test_no_descriptor_is_left_open(root: Path) -> None:
    with none_left():
        extract(root, *[entry(f"{number}/a/b/c", data=b"x") for number in range(400)])
        with pytest.raises(TarError):
            extract(root, *[entry(f"{number}/a/b/c", data=b"x") for number in range(4)], link("x", "nothing"))
