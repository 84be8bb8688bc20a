"""The runtime: shims, the tasks and sandboxes in them, and what survives a restart of the daemon."""
