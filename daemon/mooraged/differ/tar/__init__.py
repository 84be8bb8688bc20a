"""The tar format without I/O: bytes in, events out, and entries in, bytes out.

Formats: POSIX.1-1988 ustar, POSIX.1-2001 pax (with `SCHILY.xattr.*`), GNU (long names, base-256 numbers, sparse files),
and v7. Where the formats leave a choice, it is the one of Go's archive/tar, which most builders and runtimes use.
"""
