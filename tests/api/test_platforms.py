"""Platforms: one spelling, what runs on what, and in which order."""

from __future__ import annotations

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.oci.platforms import any_of, default_platform, format_platform, normalise, only, parse_platform
from moorage_api.types import Platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_has_one_spelling(text: str, normal: str) -> None:
    assert format_platform(parse_platform(text)) == normal
    assert normalise(parse_platform(text)) == parse_platform(text)


def test_an_operating_system_alone_means_this_machine() -> None:
    assert parse_platform("linux") == default_platform()
    assert default_platform().architecture


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux amd64", "x" * 65, "linux/amd64\n"])
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="os/architecture"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("machine", "runs"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64/v8.1", ["linux/arm64/v8.1", "linux/arm64", "linux/arm/v8"]),
        ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64/v8.4"]),
        ("linux/s390x", ["linux/s390x"]),
    ],
)
def test_what_a_machine_runs_best_first(machine: str, runs: list[str]) -> None:
    order = [format_platform(platform) for platform in only(parse_platform(machine)).order]
    assert order[: len(runs)] == runs
    ranks = [only(parse_platform(machine)).rank(parse_platform(text)) for text in runs]
    assert ranks == list(range(len(runs)))


def test_what_a_machine_does_not_run() -> None:
    amd64 = only(Platform("linux", "amd64"))
    assert not amd64.matches(Platform("linux", "arm64"))
    assert not amd64.matches(Platform("windows", "amd64"))
    assert not amd64.matches(Platform("linux", "amd64", "v2"))
    assert not amd64.matches(Platform("linux", "amd64", os_features=("erofs",)))
    assert not amd64.matches(Platform("unknown", "unknown"))
    assert amd64.matches(Platform("linux", "x86_64"))


def test_any_of_takes_no_lesser_variant() -> None:
    matcher = any_of([Platform("linux", "arm", "v7"), Platform("linux", "amd64")])
    assert matcher.rank(Platform("linux", "amd64")) == 1
    assert matcher.rank(Platform("linux", "arm")) == 0
    assert not matcher.matches(Platform("linux", "arm", "v6"))


def test_a_huge_variant_costs_nothing() -> None:
    assert len(only(Platform("linux", "arm", "v" + "9" * 60)).order) < 1000
