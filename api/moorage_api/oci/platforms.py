"""Platforms: what an image is for, what a machine runs, and which of several an image index offers fits best.

Source of the rules: containerd's platforms package (https://pkg.go.dev/github.com/containerd/platforms), `Normalize`,
`Only` and `Parse`; image-spec, image-index, `platform`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from moorage_api.errors import InvalidArgument
from moorage_api.types import Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
}
_ARCHITECTURES = {
    "i386": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
}
_OPERATING_SYSTEMS = frozenset({"darwin", "freebsd", "linux", "wasip1", "windows"})
_VARIANTS = {
    ("386", "i386"): "",
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm64", "v8.0"): "",
    ("arm64", "9"): "v9",
    ("arm64", "9.0"): "v9",
    ("arm64", "v9.0"): "v9",
    ("arm", ""): "v7",
    ("arm", "5"): "v5",
    ("arm", "6"): "v6",
    ("arm", "7"): "v7",
    ("arm", "8"): "v8",
}
_IMPLIED_VARIANTS = {"armhf": "v7", "armel": "v6", "i386": ""}
_ARM64_MINOR_MAX = 9
_PLATFORM = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:/[A-Za-z0-9_.-]{1,64}){0,2}")


def normalise(platform: Platform) -> Platform:
    """The one spelling of each platform: `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`."""
    spelt, variant = platform.architecture.lower(), platform.variant.lower()
    architecture = _ARCHITECTURES.get(spelt, spelt)
    variant = _IMPLIED_VARIANTS.get(spelt, _VARIANTS.get((architecture, variant), variant))
    system = platform.os.lower() or "linux"
    return replace(
        platform,
        os="darwin" if system == "macos" else system,
        architecture=architecture,
        variant=variant,
        os_features=tuple(sorted(platform.os_features)),
    )


@functools.cache
def default_platform() -> Platform:
    """This machine's."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """`os/architecture[/variant]`, or only an operating system or an architecture (the rest is this machine's).

    `InvalidArgument` for any other form.
    """
    if _PLATFORM.fullmatch(text) is None:
        raise InvalidArgument(f"invalid platform {text[:64]!r}: expected os/architecture, perhaps with /variant")
    first, architecture, variant = [*text.split("/"), "", ""][:3]
    if architecture:
        return normalise(Platform(first, architecture, variant))
    if first.lower() in _OPERATING_SYSTEMS:
        return replace(default_platform(), os=first.lower())
    return normalise(Platform("linux", first))


def format_platform(platform: Platform) -> str:
    """`os/architecture[/variant]`; `unknown` where the image does not say."""
    parts = (platform.os, platform.architecture, platform.variant)
    return "/".join(part for part in parts if part) or "unknown"


@dataclass(frozen=True)
class PlatformMatcher:
    """Platforms that are acceptable, the best first."""

    order: tuple[Platform, ...]

    def rank(self, platform: Platform) -> int | None:
        """Zero for the best match; None where it does not match."""
        offered = normalise(platform)
        return next((i for i, wanted in enumerate(self.order) if _fits(wanted, offered)), None)

    def matches(self, platform: Platform) -> bool:
        return self.rank(platform) is not None


def only(platform: Platform) -> PlatformMatcher:
    """What runs on `platform`: itself first, then its earlier variants, then the 32-bit forms."""
    return PlatformMatcher(tuple(_compatible(normalise(platform))))


def any_of(platforms: Sequence[Platform]) -> PlatformMatcher:
    """These platforms and no lesser variants, in the order given."""
    return PlatformMatcher(tuple(map(normalise, platforms)))


def _fits(wanted: Platform, offered: Platform) -> bool:
    return (
        wanted.os == offered.os
        and wanted.architecture == offered.architecture
        and wanted.variant == offered.variant
        and set(offered.os_features) <= set(wanted.os_features)
    )


def _compatible(platform: Platform) -> Iterable[Platform]:
    match platform.architecture:
        case "amd64":
            yield from _lower(platform, "amd64", 1)
            yield replace(platform, architecture="386", variant="")
        case "arm":
            yield from _lower(platform, "arm", 5)
        case "arm64":
            yield from _arm64(platform)
            yield from _lower(replace(platform, architecture="arm", variant="v8"), "arm", 5)
        case _:
            yield platform


def _lower(platform: Platform, architecture: str, least: int) -> Iterable[Platform]:
    """`platform` and its variants down to `least`; a variant that is not `vN` stands alone."""
    yield platform
    number = platform.variant.removeprefix("v")
    if number.isdecimal():
        for version in range(int(number[:3]) - 1, least - 1, -1):
            yield normalise(replace(platform, architecture=architecture, variant=f"v{version}"))


def _arm64(platform: Platform) -> Iterable[Platform]:
    """v9.N runs v9.0 to v9.N and v8.0 to v8.(N+5); v8.N runs v8.0 to v8.N (Arm Architecture Reference Manual)."""
    major, _, minor = (platform.variant or "v8").removeprefix("v").partition(".")
    if major not in ("8", "9") or not (minor or "0").isdecimal():
        yield platform
        return
    number = min(int((minor or "0")[:2]), _ARM64_MINOR_MAX)
    steps = [(major, number)]
    if major == "9":
        steps.append(("8", min(number + 5, _ARM64_MINOR_MAX)))
    for series, newest in steps:
        for step in range(newest, -1, -1):
            yield normalise(replace(platform, variant=f"v{series}.{step}" if step else f"v{series}"))
