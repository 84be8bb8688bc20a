"""`moorage_api.oci.user`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted
from moorage_api.oci.user import Accounts, User

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:,,,:/home/app:/bin/sh\nbad:x:zz:0::/:\n#no:x:5:5::/:\n"
GROUP = b"root:x:0:\nstaff:x:50:app,other\napp:x:1001:\nbroken\nhuge:x:99999999999:app\nwheel:x:10:root\n"
ACCOUNTS = Accounts.parse(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        ("", "", User(0, 0, (0, 10), "root", "/root")),
        ("app", "", User(1000, 1001, (50, 1001), "app", "/home/app")),
        ("1000", "", User(1000, 1001, (50, 1001), "app", "/home/app")),
        ("app:staff", "", User(1000, 50, (50,), "app", "/home/app")),
        ("app:7", "", User(1000, 7, (7, 50), "app", "/home/app")),
        ("app", "9", User(1000, 9, (9, 50), "app", "/home/app")),
        ("2000", "", User(2000, 0, (0,), "", "/")),
        ("2000:2001", "", User(2000, 2001, (2001,), "", "/")),
    ],
)
def test_names_and_numbers(user: str, group: str, expected: User) -> None:
    assert ACCOUNTS.resolve(user, group) == expected


@pytest.mark.parametrize("user", ["nobody", "bad", "#no", "app:nogroup", "root:huge"])
def test_an_unknown_name_is_an_error(user: str) -> None:
    with pytest.raises(NotFound):
        ACCOUNTS.resolve(user)


@pytest.mark.parametrize("user", ["-1", "2147483648", "0:99999999999999999999999", "4294967296"])
def test_a_number_out_of_range_is_an_error(user: str) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        ACCOUNTS.resolve(user)


def test_the_files_of_a_root_file_system(root: Path, root_fd: int) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_bytes(PASSWD)
    assert Accounts.read(root_fd).resolve("app").uid == 1000
    assert Accounts.read(root_fd).groups == ()


def test_missing_files_are_empty_ones(root_fd: int) -> None:
    assert Accounts.read(root_fd) == Accounts()


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../../../../../../etc/passwd"])
def test_a_link_does_not_lead_out_of_the_root(root: Path, root_fd: int, link: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").symlink_to(link)
    assert Accounts.read(root_fd) == Accounts()
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/inside")
    (root / "inside").write_bytes(PASSWD)
    assert Accounts.read(root_fd).resolve("app").uid == 1000


def test_a_fifo_does_not_hold_up_its_reader(root: Path, root_fd: int) -> None:
    (root / "etc").mkdir()
    os.mkfifo(root / "etc/passwd")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        Accounts.read(root_fd)


def test_a_huge_file_is_refused(root: Path, root_fd: int) -> None:
    (root / "etc").mkdir()
    with (root / "etc/group").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(ResourceExhausted):
        Accounts.read(root_fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
