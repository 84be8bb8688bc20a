"""The documentation: examples are run, references are what the program says, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest

from moorage.templates import write_project
from moorage_api.discovery import discover
from moorage_api.plugin import HookSpecs
from mooraged.config.schema import Config
from support.daemon import Daemon
from support.registry import Registry
from support.transcripts import Step, steps

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
EXECUTED = [page for page in PAGES if steps(page)]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mirrored(registry: Registry, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon to which docker.io is the local registry, so that examples can name images as people do."""
    hosts = tmp_path / "docker.io"
    hosts.mkdir()
    (hosts / "hosts.toml").write_text(f'[host."http://{registry.address}"]\ncapabilities = ["pull", "resolve"]\n')
    config = f'[plugins."io.containerd.transfer.v1.local"]\nconfig_path = "{tmp_path}"\n'
    with Daemon(config) as running:
        yield running


def run_step(daemon: Daemon, step: Step) -> None:
    done = daemon.call("sh", "-c", step.command)
    assert done.returncode == 0, f"{step.command}\n{done.stdout}{done.stderr}"
    if step.output:
        assert done.stdout.splitlines() == list(step.output), step.command


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_the_examples_run(page: Path, mirrored: Daemon) -> None:
    for step in steps(page):
        run_step(mirrored, step)


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL))


def test_the_example_of_a_plugin_passes_its_suite(tmp_path: Path) -> None:
    files = files_of(ROOT / "docs/plugins.md")
    assert {"reflink.py", "test_reflink.py"} <= set(files)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_reflink.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d\d passed", done.stdout), "the suite ran"


@pytest.mark.parametrize("name", ["cri-client.md", "library.md"])
def test_the_examples_of_the_libraries_run(name: str, mirrored: Daemon, tmp_path: Path) -> None:
    page = ROOT / "docs" / name
    outputs = dict(re.findall(r"<!-- output: (\S+) -->\n```text\n(.*?)```", page.read_text(), re.DOTALL))
    assert set(outputs) == set(files_of(page))
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text)
        environment = {**mirrored.environment, "CONTAINER_RUNTIME_ENDPOINT": f"unix://{mirrored.address}"}
        done = subprocess.run(
            [sys.executable, tmp_path / name], env=environment, check=False, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == (outputs[name], "")


def test_the_tutorial_works_at_every_step(tmp_path: Path) -> None:
    write_project("snapshotter", "dedup", tmp_path / "dedup")
    marks = re.compile(r"<!-- (?:file: (\S+) -->\n```python\n(.*?)```|run: (.*?) -->)", re.DOTALL)
    runs = 0
    for name, text, arguments in marks.findall((ROOT / "docs/tutorial.md").read_text()):
        if name:
            (tmp_path / "dedup" / name).write_text(text)
            continue
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(arguments)]
        done = subprocess.run(command, cwd=tmp_path / "dedup", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        assert re.search(r"\d\d passed", done.stdout), "the suite ran"
        runs += 1
    assert runs == 2


def test_the_readme_has_examples() -> None:
    assert ROOT / "README.md" in EXECUTED


@pytest.mark.parametrize("page", ["configuration.md", "commands.md", "contracts.md", "conformance.md", "native-api.md"])
def test_the_reference_pages_are_up_to_date(page: str, reference: ModuleType) -> None:
    pages = reference.pages()
    assert (ROOT / "docs" / page).read_text() == pages[ROOT / "docs" / page], "run ./dev docs"


def undescribed(struct: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        hint: Any = field.type
        described = isinstance(hint, type) and issubclass(hint, msgspec.Struct)
        if described:
            yield from undescribed(hint, f"{path}{field.name}.")
        while get_origin(hint) is Annotated:
            described = described or any(getattr(extra, "description", None) for extra in get_args(hint)[1:])
            hint = get_args(hint)[0]
        if not described:
            yield path + field.name


def test_every_configuration_key_has_a_description() -> None:
    missing = list(undescribed(Config))
    for registration in discover().registrations:
        if registration.config is not None:
            missing += undescribed(registration.config, f"{registration.uri}.")
    assert missing == []


def test_every_hook_is_documented() -> None:
    page = (ROOT / "docs/plugins.md").read_text()
    hooks = [name for name in vars(HookSpecs) if name.startswith("moorage_")]
    assert hooks
    assert [hook for hook in hooks if f"`{hook}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_door_explains_itself() -> None:
    shown = subprocess.run([ROOT / "dev", "help"], check=True, capture_output=True, text=True).stdout
    for command in ("run", "test", "lint", "bench", "docs"):
        assert f"  {command} " in shown
