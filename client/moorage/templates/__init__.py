"""Projects for new plugins: each kind's files, with `$name` and the like where names go."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from moorage_api.errors import AlreadyExists, InvalidArgument
from moorage_api.types import check_identifier

KINDS = ("snapshotter", "content", "differ")

_FILES = {
    "pyproject.toml": "common/pyproject.toml",
    ".gitignore": "common/gitignore",
    ".github/workflows/test.yml": "common/ci.yml",
    "README.md": "{kind}/README.md",
    "src/{package}/__init__.py": "common/init.py",
    "src/{package}/plugin.py": "{kind}/plugin.py",
    "tests/test_{package}.py": "{kind}/test.py",
}
# Of one kind alone.
_MORE = {"differ": {"src/{package}/extract.py": "differ/extract.py"}}


def write_project(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the project of a plugin `name` into `folder`, which must be empty or not be there; returns its files.

    `AlreadyExists`, `InvalidArgument` for a name that is no plugin's or no distribution's.
    """
    check_identifier(name, "plugin name")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise InvalidArgument(f"invalid plugin name {name!r}: expected small letters, digits and '-', a letter first")
    if folder.exists() and any(folder.iterdir()):
        raise AlreadyExists(f"{folder} is there already, and not empty")
    words = name.split("-")
    package = f"moorage_{'_'.join(words)}"
    names = {
        "name": name,
        "kind": {"content": "content store"}.get(kind, kind),
        "package": package,
        "title": " ".join(words).capitalize(),
        "class": "".join(word.capitalize() for word in words),
    }
    return [
        _write(folder / place.format(package=package), source.format(kind=kind), names)
        for place, source in {**_FILES, **_MORE.get(kind, {})}.items()
    ]


def _write(path: Path, source: str, names: dict[str, str]) -> Path:
    text = files(__package__).joinpath(f"{source}.tmpl").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(names), encoding="utf-8")
    return path
