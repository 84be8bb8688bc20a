"""The contracts of Moorage.

One module a noun: a `Protocol`, frozen dataclasses and the errors that may be raised. Nothing here does I/O except
`moorage_api.testing` and the helpers that say so. Plugins import this package and nothing else of Moorage.

Conventions that hold in every contract:

- times are Unix times in nanoseconds (`int`), sizes are bytes, durations are seconds (`float`);
- digests are `algorithm:hex` strings, as the OCI image specification writes them;
- an empty string or mapping means "not given", as it does on the wire (proto3);
- stores and backends are synchronous and thread-safe; what waits for a process or for the network is `async`;
- failures are the classes of `moorage_api.errors`, and nothing else.
"""
