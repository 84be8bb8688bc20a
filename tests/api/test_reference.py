"""References: the ecosystem's normalisation, and errors that name the place."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api.errors import InvalidArgument
from moorage_api.oci.reference import Reference, parse, parse_exact

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("dmcgowan/app", "docker.io/dmcgowan/app:latest", "dmcgowan/app:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("quay.io/coreos/etcd:v3", "quay.io/coreos/etcd:v3", "quay.io/coreos/etcd:v3"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("host:5000/app:1", "host:5000/app:1", "host:5000/app:1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("[2001:db8::1]/a/b:c", "[2001:db8::1]/a/b:c", "[2001:db8::1]/a/b:c"),
        ("Upper/app", "Upper/app:latest", "Upper/app:latest"),
        ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest", "a__b/c---d.e_f:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("docker.io/localhost/app", "docker.io/localhost/app:latest", "docker.io/localhost/app:latest"),
        (f"docker.io/{'a' * 64}", f"docker.io/library/{'a' * 64}:latest", f"{'a' * 64}:latest"),
    ],
)
def test_normalises(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert (reference.canonical, reference.familiar) == (canonical, familiar)
    assert parse(familiar) == reference


def test_keeps_tag_and_digest_together() -> None:
    reference = parse(f"quay.io/a/b:c@{DIGEST}")
    assert reference == Reference("quay.io", "a/b", "c", DIGEST)
    assert reference.object == DIGEST
    assert str(reference) == f"quay.io/a/b:c@{DIGEST}"


def test_exact_adds_no_tag() -> None:
    assert parse_exact("busybox") == Reference("docker.io", "library/busybox")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Busybox", "at character 1 ('B')"),
        ("library/Busybox", "at character 9 ('B')"),
        ("a b", "at character 2 (' ')"),
        ("a//b", "at character 3 ('/')"),
        ("a/", "at character 3 (the end)"),
        ("/a", "at character 1 ('/')"),
        ("a..b", "at character 2 ('.')"),
        ("a:", "at character 3 (the end)"),
        ("a:-x", "at character 3 ('-')"),
        ("a:b:c", "at character 4 (':')"),
        ("a:" + "t" * 129, "at character 131 ('t')"),
        ("a@sha256:12", "at character 3 ('s')"),
        ("a@md5:" + "0" * 32, "at character 3 ('m')"),
        ("host:port/a", "at character 6 ('p')"),
        ("host:65536/a", "at character 6 ('6')"),
        ("host:/a", "at character 6 ('/')"),
        ("http://host/a", "at character 6 ('/')"),
        ("under_score.io/a", "at character 6 ('_')"),
        ("-host.io/a", "at character 1 ('-')"),
        ("[::1/a", "at character 1 ('[')"),
        ("[:::]/a", "at character 2 (':')"),
        ("ünïcode", "at character 1 ('ü')"),
    ],
)
def test_says_where_it_does_not_parse(text: str, place: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(place)):
        parse(text)


@pytest.mark.parametrize("text", ["", "a" * 64, "x" * 1025, "a/" + "b" * 256, "library/" + "b" * 250 + "/x"])
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True)
DOMAIN = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.builds(lambda a, b, port: f"{a}.{b}{port}", LABEL, LABEL, st.sampled_from(["", ":80", ":65535"])),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6).map(str), st.integers(1, 65535)),
).filter(lambda domain: domain != "index.docker.io")
COMPONENT = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
REFERENCES = st.builds(
    Reference,
    DOMAIN,
    st.lists(COMPONENT, min_size=2, max_size=4).map("/".join),
    st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
    st.one_of(st.just(""), st.just(DIGEST)),
)


@given(REFERENCES)
def test_what_is_printed_parses_to_the_same(reference: Reference) -> None:
    assert parse_exact(str(reference)) == reference
    assert parse_exact(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@given(st.one_of(st.text(max_size=60), st.text(alphabet="aB0.:/@_-[] sha256", max_size=60)))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        canonical = parse(text).canonical
        assert parse(canonical).canonical == canonical
