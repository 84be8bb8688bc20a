"""Networks of containers, through CNI: their definitions, and what each container has of them.

A container's network is made and taken down by hooks of its OCI specification (`moorage.network.hook`), which the OCI
runtime calls whoever starts the container: this client, another one, or the daemon's restart monitor.
"""
