"""Standard streams: from a container's pipes and terminals to where the client wants them."""
