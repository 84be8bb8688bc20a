"""The names of images in archives and in the store, as pure functions.

Source: the behaviour of containerd's archive importer and of its image store (`core/images/archive`,
`core/transfer/image`); image-spec, annotations, `org.opencontainers.image.ref.name`.
"""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.errors import InvalidArgument
from moorage_api.oci.reference import parse, parse_exact
from moorage_api.transfer import NameRule
from moorage_api.types import Descriptor, Labels

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


def annotations_for(name: str) -> dict[str, str]:
    """What an archive says of an image stored as `name`: its full name, and its tag alone as OCI wants it."""
    return {FULL_NAME: name, REF_NAME: _tag_of(name) or name}


def names_for(child: Descriptor, rules: Sequence[NameRule]) -> list[str]:
    """The names that the rules give to one image of an archive, without doubles."""
    names = []
    for rule in rules:
        if not rule.is_prefix:
            continue
        name = _name_under(child.annotations, rule)
        if name:
            names.append(name)
        if rule.add_digest and not (name and rule.skip_named_digest):
            names.append(f"{rule.name}@{child.digest}")
    return list(dict.fromkeys(names))


def index_names(index_name: str, rules: Sequence[NameRule], digest: str) -> list[str]:
    """The names of an archive's index as a whole."""
    names = [index_name] if index_name else []
    for rule in rules:
        if not rule.is_prefix:
            names.append(rule.name)
        elif index_name and rule.add_digest:
            names.append(f"{rule.name}@{digest}")
    return list(dict.fromkeys(names))


def docker_tag(name: str) -> str:
    """A name as `docker save` writes it (`busybox:latest`); empty for one that has no tag, or is no reference."""
    try:
        reference = parse_exact(name)
    except InvalidArgument:
        return ""
    return reference.familiar if reference.tag and not reference.digest else ""


def from_docker_tag(tag: str) -> str:
    """The full name of an entry of `RepoTags`. `InvalidArgument`."""
    return str(parse(tag))


def _tag_of(name: str) -> str:
    try:
        reference = parse_exact(name)
    except InvalidArgument:
        return ""
    return "" if reference.digest else reference.tag


def _name_under(annotations: Labels, rule: NameRule) -> str:
    """A full name counts as it is, where the rule accepts it; a tag alone is put behind the rule's own name."""
    full = annotations.get(FULL_NAME, "")
    if full:
        return full if _is_full(full) and _accepts(rule, full) else ""
    name = annotations.get(REF_NAME, "")
    if not name:
        return ""
    if _is_full(name):
        return name if _accepts(rule, name) else ""
    return f"{rule.name}:{name}"


def _is_full(name: str) -> bool:
    return any(mark in name for mark in "/:@")


def _accepts(rule: NameRule, name: str) -> bool:
    if rule.allow_overwrite:
        return True
    return name.startswith(rule.name) and name[len(rule.name) :][:1] in ("", "/", ":", "@")
