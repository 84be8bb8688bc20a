"""Streaming: Exec, Attach and PortForward, over a server of the plugin's own (SPDY/3.1 and WebSocket)."""
