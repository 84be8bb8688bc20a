"""SPDY/3.1 without I/O: bytes in, events out (draft-mbelshe-httpbis-spdy-00, and 3.1's windows)."""
