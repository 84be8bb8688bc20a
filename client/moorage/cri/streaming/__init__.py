"""Streams of commands, containers and ports: the other end of the addresses that Exec, Attach and PortForward give."""
