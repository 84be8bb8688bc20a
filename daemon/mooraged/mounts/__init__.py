"""Mounts that the daemon performs for clients: the implementation of `moorage_api.mounts.MountManager`."""
