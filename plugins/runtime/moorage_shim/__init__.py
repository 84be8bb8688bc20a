"""The shim, and the zygote that forks it."""
