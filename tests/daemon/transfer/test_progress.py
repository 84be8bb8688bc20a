"""Progress reports: every state, and bytes not too often."""

from __future__ import annotations

from moorage_api.oci import image
from moorage_api.transfer import Progress
from moorage_api.types import Descriptor
from mooraged.transfer.progress import INTERVAL, Reporter

LAYER = Descriptor(image.OCI_LAYER_GZIP, "sha256:" + "ab" * 32, 1000)


def test_bytes_are_told_ten_times_a_second_at_most() -> None:
    told: list[Progress] = []
    now = 0.0
    blob = Reporter("host/a:b", told.append, lambda: now).blob(LAYER)
    for count in range(1000):
        now = count * 0.001
        blob.advance(count)
    blob.state("complete")
    assert len(told) <= 1 + 1 / INTERVAL + 1
    assert told[0] == Progress(
        "downloading", "layer abababababab", LAYER.digest, LAYER.media_type, ("host/a:b",), 0, 1000
    )
    assert (told[-1].event, told[-1].progress, told[-1].total) == ("complete", 1000, 1000)


def test_blobs_do_not_hide_one_another() -> None:
    told: list[Progress] = []
    reporter = Reporter("host/a:b", told.append, lambda: 0.0)
    for descriptor in (LAYER, Descriptor(image.OCI_CONFIG, "sha256:" + "cd" * 32, 5)):
        reporter.blob(descriptor).advance(1)
    assert [step.name for step in told] == ["layer abababababab", "config cdcdcdcdcdcd"]


def test_nobody_listens() -> None:
    reporter = Reporter("host/a:b", None)
    reporter.image("resolving")
    reporter.blob(LAYER).state("complete")
