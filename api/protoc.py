"""Generate the code of `moorage_api/wire/*.proto` beside the files: messages, type stubs, and client stubs for gRPC."""

import sys
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

API = Path(__file__).resolve().parent
# Services that are spoken over ttrpc only: their calls go by descriptor.
TTRPC = {"events_ttrpc", "moorage_shim", "nri", "runtime_sandbox", "shim_v2", "shim_v3"}


def main() -> int:
    """Run protoc over every file; returns its exit status."""
    includes = [
        f"-I{API}",
        f"-I{Path(next(iter(google.rpc.__path__))).parent.parent}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
    ]
    files = sorted((API / "moorage_api/wire").glob("*.proto"))
    messages = [f"--python_out={API}", f"--mypy_out=quiet:{API}"]
    stubs = [f"--grpc_python_out={API}", f"--mypy_grpc_out=quiet:{API}"]
    grpc_files = [f for f in files if f.stem not in TTRPC and "\nservice " in f.read_text()]
    for plugins, sources in ((messages, files), (stubs, grpc_files)):
        status = protoc.main(["protoc", *includes, *plugins, *(str(f) for f in sources)])
        if status:
            return int(status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
