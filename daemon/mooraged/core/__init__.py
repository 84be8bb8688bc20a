"""What plugins and services have of the daemon: the implementation of `moorage_api.core`."""
