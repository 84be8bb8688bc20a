"""The compiled descriptors against the tables of the public interfaces: every package, message, field, enum and method."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from moorage_api import wire

TABLES = sorted((Path(__file__).parent / "wire").glob("*.json"))
SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_") and name not in {"TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP"}
}
# Beside the tables: our own, and that of gRPC itself.
OTHER_PACKAGES = {
    "moorage.gc.v1",
    "moorage.services.tasks.v1",
    "moorage.shim.v1",
    "moorage.transfer.v1",
    "grpc.health.v1",
}


def packages() -> list[tuple[str, dict[str, Any]]]:
    tables = [package for table in TABLES for package in json.loads(table.read_text())]
    return [(table["package"], table) for table in tables]


def compiled() -> dict[str, FileDescriptor]:
    """Our files by package; each package is one file."""
    files: dict[str, FileDescriptor] = {}
    for source in sorted(Path(next(iter(wire.__path__))).glob("*.proto")):
        module = importlib.import_module(f"moorage_api.wire.{source.stem}_pb2")
        files[module.DESCRIPTOR.package] = module.DESCRIPTOR
    return files


def messages_of(parent: FileDescriptor | Descriptor) -> Iterator[Descriptor]:
    nested = parent.message_types_by_name if isinstance(parent, FileDescriptor) else parent.nested_types_by_name
    for message in nested.values():
        if not message.GetOptions().map_entry:
            yield message
            yield from messages_of(message)


def enums_of(file: FileDescriptor) -> Iterator[EnumDescriptor]:
    yield from file.enum_types_by_name.values()
    for message in messages_of(file):
        yield from message.enum_types


def short(full_name: str, package: str) -> str:
    return full_name.removeprefix(f"{package}.")


def type_name(field: FieldDescriptor, package: str) -> str:
    if field.message_type is not None:
        return short(field.message_type.full_name, package)
    if field.enum_type is not None:
        return short(field.enum_type.full_name, package)
    return SCALARS[field.type]


def describe_field(field: FieldDescriptor, package: str) -> str:
    kind = type_name(field, package)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        kind = f"map<{type_name(key, package)},{type_name(value, package)}>"
    elif field.is_repeated:
        kind = f"repeated {kind}"
    elif field.containing_oneof is not None:
        optional = field.containing_oneof.name == f"_{field.name}"
        kind = f"optional {kind}" if optional else f"oneof({field.containing_oneof.name}) {kind}"
    return f"{field.number} {field.name}: {kind}"


def describe_method(service: ServiceDescriptor, name: str, package: str) -> str:
    method = service.methods_by_name[name]
    sides = []
    for message, streams in (
        (method.input_type, method.client_streaming),
        (method.output_type, method.server_streaming),
    ):
        sides.append(("stream " if streams else "") + short(message.full_name, package))
    return " -> ".join(sides)


@pytest.fixture(scope="module")
def files() -> dict[str, FileDescriptor]:
    return compiled()


def test_every_package_is_there_and_no_other(files: dict[str, FileDescriptor]) -> None:
    assert set(files) - OTHER_PACKAGES == {name for name, _ in packages()}


@pytest.mark.parametrize(("package", "table"), packages(), ids=[name for name, _ in packages()])
def test_messages_and_fields(package: str, table: dict[str, Any], files: dict[str, FileDescriptor]) -> None:
    ours = {
        short(message.full_name, package): sorted(describe_field(field, package) for field in message.fields)
        for message in messages_of(files[package])
    }
    theirs = {
        name: sorted(field for field in fields if not field.startswith("reserved"))
        for name, fields in table["messages"].items()
    }
    assert ours == theirs


@pytest.mark.parametrize(("package", "table"), packages(), ids=[name for name, _ in packages()])
def test_reserved_numbers(package: str, table: dict[str, Any], files: dict[str, FileDescriptor]) -> None:
    proto = FileDescriptorProto()
    files[package].CopyToProto(proto)
    ours = {m.name: {n for r in m.reserved_range for n in range(r.start, r.end)} for m in proto.message_type}
    for name, fields in table["messages"].items():
        wanted = {int(field.split()[1]) for field in fields if field.startswith("reserved")}
        assert "." in name or ours[name] == wanted


@pytest.mark.parametrize(("package", "table"), packages(), ids=[name for name, _ in packages()])
def test_enums(package: str, table: dict[str, Any], files: dict[str, FileDescriptor]) -> None:
    ours = {
        short(enum.full_name, package): sorted(f"{value.number} {value.name}" for value in enum.values)
        for enum in enums_of(files[package])
    }
    assert ours == {name: sorted(values) for name, values in table["enums"].items()}


@pytest.mark.parametrize(("package", "table"), packages(), ids=[name for name, _ in packages()])
def test_services_and_methods(package: str, table: dict[str, Any], files: dict[str, FileDescriptor]) -> None:
    ours = {
        name: {method: describe_method(service, method, package) for method in service.methods_by_name}
        for name, service in files[package].services_by_name.items()
    }
    assert ours == table["services"]


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """protoc writes the names for JSON, which follow from the fields' names, into its set, but not into the code."""
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages.extend(message.nested_type)
        for member in message.field:
            member.ClearField("json_name")
    return file


def test_the_generated_code_is_that_of_the_sources(tmp_path: Path) -> None:
    """Compile the sources anew: what is committed must say the same."""
    import google.rpc
    import grpc_tools
    from grpc_tools import protoc

    folder = Path(next(iter(wire.__path__)))
    target = tmp_path / "all.pb"
    status = protoc.main(
        [
            "protoc",
            f"-I{folder.parent.parent}",
            f"-I{Path(next(iter(google.rpc.__path__))).parent.parent}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_imports",
            f"--descriptor_set_out={target}",
            *(str(source) for source in sorted(folder.glob("*.proto"))),
        ]
    )
    assert status == 0
    fresh = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(target.read_bytes()).file:
        fresh.Add(without_json_names(file))
    for source in folder.glob("*.proto"):
        name = f"moorage_api/wire/{source.name}"
        ours, theirs = FileDescriptorProto(), FileDescriptorProto()
        importlib.import_module(f"moorage_api.wire.{source.stem}_pb2").DESCRIPTOR.CopyToProto(ours)
        fresh.FindFileByName(name).CopyToProto(theirs)
        assert ours == theirs, f"{name} was changed after its code was generated: run ./dev proto"
