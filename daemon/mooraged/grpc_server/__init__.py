"""gRPC over HTTP/2, the server's side: what every client of the daemon waits for.

Bytes in, bytes out: `frames` cuts what arrives, `headers` reads and writes header blocks, `messages` puts gRPC's messages
together, `connection` keeps HTTP/2's state, `stream` that of one call. Only `protocol` knows of sockets, and `mooraged.server`
of services.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), and "gRPC over HTTP2" (PROTOCOL-HTTP2.md).
"""
