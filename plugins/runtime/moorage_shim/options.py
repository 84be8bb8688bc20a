"""The options that a client hands to the shim inside an Any (`containerd.runc.v1`)."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from moorage_api.errors import InvalidArgument
from moorage_api.wire.runc_options_pb2 import CheckpointOptions, Options

# Options by reference to a file of another shim's; they hold nothing for this one.
_OTHER = "runtimeoptions.v1.Options"


def parse_options(value: AnyMessage) -> Options:
    """The options of `Create`; defaults without any. `InvalidArgument` for a type that is not known."""
    name = value.type_url.rpartition("/")[2]
    if not name or name == _OTHER:
        return Options()
    if name != Options.DESCRIPTOR.full_name:
        raise InvalidArgument(f"options of type {name!r}: expected {Options.DESCRIPTOR.full_name}")
    try:
        return Options.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"options are no {name}") from error


def create_flags(options: Options) -> list[str]:
    """The OCI runtime's flags for `create` and `restore`."""
    flags = []
    if options.no_pivot_root:
        flags.append("--no-pivot")
    if options.no_new_keyring:
        flags.append("--no-new-keyring")
    return flags


def restore_flags(image_path: str, work_path: str) -> list[str]:
    """The OCI runtime's flags for `restore`; none without a checkpoint."""
    return ["--image-path", image_path, "--work-path", work_path] if image_path else []


def checkpoint_flags(value: AnyMessage, image_path: str, work_path: str) -> list[str]:
    """The OCI runtime's flags for `checkpoint`."""
    try:
        options = CheckpointOptions.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument("checkpoint options are no containerd.runc.v1.CheckpointOptions") from error
    flags = ["--image-path", image_path, "--work-path", options.work_path or work_path]
    switches = (
        (not options.exit, "--leave-running"),
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.terminal, "--shell-job"),
        (options.file_locks, "--file-locks"),
    )
    flags += [flag for wanted, flag in switches if wanted]
    for namespace in options.empty_namespaces:
        flags += ["--empty-ns", namespace]
    if options.parent_path:
        flags += ["--parent-path", options.parent_path]
    return flags
