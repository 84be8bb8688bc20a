"""`containerd-shim-moorage-v2`: the shim as a program, for a containerd that starts it (runtime v2, shim authoring)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.wire.bootstrap_pb2 import BootstrapParams, BootstrapResult
from moorage_api.wire.shim_v3_pb2 import DeleteResponse
from moorage_api.wire.types_pb2 import RuntimeInfo
from moorage_shim import crilogger, keeper, oci, options
from moorage_shim.cleanup import clean_up
from moorage_shim.libc import fork, set_name
from moorage_shim.processes import find_program
from moorage_shim.sealed import SCRATCH_VARIABLE
from moorage_shim.shim import ShimConfig, first_state
from moorage_shim.sockets import SCHEME, is_served, listen, socket_path
from moorage_shim.worker import fork_worker
from moorage_shim.zygote import keep, prepare

NAME = "io.containerd.moorage.v2"
VERSION = "0.1.0"

_INPUT_MAX = 10 << 20
_TASK_VERSION = 3
_FEATURES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
_SWITCHES = frozenset({"debug", "v", "version", "info"})
# Containers with the same value of one of these share a shim: a pod's.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


@dataclass
class Arguments:
    """The flags that containerd gives, as Go's flag package reads them: one dash or two, `-k v` or `-k=v`."""

    action: str = ""
    namespace: str = ""
    id: str = ""
    address: str = ""
    bundle: str = ""
    publish_binary: str = ""
    socket: str = ""
    debug: bool = False
    version: bool = False
    info: bool = False


def parse_arguments(words: list[str]) -> Arguments:
    """`InvalidArgument` for a flag that is not known."""
    arguments = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            arguments.action = word
            break
        name, given, value = word.lstrip("-").partition("=")
        field = {"v": "version"}.get(name, name.replace("-", "_"))
        if not hasattr(arguments, field) or field == "action":
            raise InvalidArgument(f"unknown flag {word}")
        if name in _SWITCHES:
            setattr(arguments, field, value.lower() not in ("false", "0") if given else True)
        else:
            setattr(arguments, field, value if given else (rest.pop(0) if rest else ""))
    return arguments


def main() -> int:
    """Returns the exit status; errors go to standard error."""
    try:
        if sys.argv[1:2] == ["cri-log"]:
            return crilogger.run(sys.argv[2])
        return _run(parse_arguments(sys.argv[1:]))
    except (MoorageError, OSError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1


def _run(arguments: Arguments) -> int:
    if arguments.version:
        print(f"containerd-shim-moorage-v2:\n  Version:  {VERSION}")
        return 0
    if arguments.info:
        _write(_info(sys.stdin.buffer.read(_INPUT_MAX)))
        return 0
    if not arguments.namespace:
        raise InvalidArgument("shim namespace cannot be empty")
    if arguments.action == "start":
        _start(arguments)
    elif arguments.action == "delete":
        _write(_delete(arguments))
    else:
        raise InvalidArgument(f"unknown action {arguments.action!r}: expected start or delete")
    return 0


def _start(arguments: Arguments) -> None:
    """Fork a shim, or find the one of the same pod; print where it listens."""
    params = _bootstrap_params(arguments)
    bundle = os.getcwd()
    folder = params.socket_dir if params is not None else ""
    group = _group(bundle) or arguments.id
    path = socket_path(folder or _socket_folder(bundle), arguments.address, arguments.namespace, group)
    if not is_served(path):
        ttrpc_address = params.containerd_ttrpc_address if params is not None else ""
        config = ShimConfig(
            id=group,
            namespace=arguments.namespace,
            bundle=bundle,
            socket=path,
            ttrpc_address=ttrpc_address or os.environ.get("TTRPC_ADDRESS") or f"{arguments.address}.ttrpc",
        )
        with listen(path) as listener:
            if fork() == 0:
                os.setsid()
                os.environ.setdefault(SCRATCH_VARIABLE, os.path.dirname(path))
                prepare()
                held = [(listener.fileno(), listener.fileno(), select.POLLIN)]
                set_name(keeper.NAME)
                keep(keeper.Keeper([fork_worker], first_state(config, listener.fileno()), held, []))
    _remember(bundle, SCHEME + path)
    _write(_started(SCHEME + path, bootstrap=params is not None))


def _remember(bundle: str, address: str) -> None:
    """Write the address into the bundle: containerd before 1.7 does not, and finds the shim by it when it is started anew."""
    draft = os.path.join(bundle, ".address")
    with open(draft, "w", encoding="ascii") as file:
        file.write(address)
    os.replace(draft, os.path.join(bundle, "address"))


def _started(address: str, *, bootstrap: bool) -> bytes:
    """The answer to `start`: a message since containerd 2.3, JSON since 1.7, before that the bare address."""
    if bootstrap:
        result = BootstrapResult(version=_TASK_VERSION, address=address, protocol="ttrpc")
        return result.SerializeToString()
    limit = os.environ.get("MAX_SHIM_VERSION", "")
    if not limit.isdigit():
        return address.encode()
    answer = {"version": min(_TASK_VERSION, int(limit)), "address": address, "protocol": "ttrpc"}
    return json.dumps(answer).encode()


def _bootstrap_params(arguments: Arguments) -> BootstrapParams | None:
    """What containerd 2.3 writes to standard input. Before, runtime options stood there, which may parse as well:
    only the identity tells them apart."""
    with suppress(DecodeError):
        params = BootstrapParams.FromString(sys.stdin.buffer.read(_INPUT_MAX))
        if (params.instance_id, params.namespace) == (arguments.id, arguments.namespace):
            return params
    return None


def _delete(arguments: Arguments) -> bytes:
    bundle = arguments.bundle or str(Path.cwd().parent / arguments.id)
    ended = clean_up(bundle, arguments.namespace, arguments.id)
    answer = DeleteResponse(pid=ended.pid, exit_status=ended.status)
    answer.exited_at.FromNanoseconds(ended.at)
    return answer.SerializeToString()


def _info(data: bytes) -> bytes:
    """What this runtime is; `data` is an Any with options, or nothing."""
    info = RuntimeInfo(name=NAME)
    info.version.version = VERSION
    binary = ""
    if data:
        given = AnyMessage.FromString(data)
        binary = options.parse_options(given).binary_name
        info.options.CopyFrom(given)
    runtime = find_program(binary or oci.default_binary())
    info.annotations["moorage.io/oci-runtime"] = runtime
    if features := _features(runtime):
        info.features.type_url = _FEATURES_TYPE
        info.features.value = features
    return info.SerializeToString()


def _features(runtime: str) -> bytes:
    """What the OCI runtime can do, in its own words (OCI runtime specification, features.md); empty for a runtime that is
    too old to say."""
    said = subprocess.run([runtime, "features"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return said.stdout if said.returncode == 0 else b""


def _group(bundle: str) -> str:
    """The pod that a bundle belongs to, from the annotations of its configuration."""
    with suppress(OSError, ValueError), open(os.path.join(bundle, "config.json"), "rb") as file:
        annotations = json.load(file).get("annotations") or {}
        return next((str(annotations[key]) for key in _GROUPS if key in annotations), "")
    return ""


def _socket_folder(bundle: str) -> str:
    """Beside the bundles of the containerd that calls: `<state>/s`."""
    tasks = os.path.dirname(os.path.dirname(bundle))
    return os.path.join(os.path.dirname(tasks), "s")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
