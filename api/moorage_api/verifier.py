"""Image verifiers: whoever may forbid that an image is pulled (`io.containerd.image-verifier.v1`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from moorage_api.types import Descriptor


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a verifier says of an image, and why."""

    ok: bool
    reason: str = ""


@runtime_checkable
class ImageVerifier(Protocol):
    """Asked once a pull, when the registry has said what the reference stands for and before anything is fetched."""

    async def verify(self, name: str, target: Descriptor) -> Judgement:
        """Judge the image `name` (the normalised reference), which is `target`. Any error forbids the pull."""
