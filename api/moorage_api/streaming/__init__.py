"""The protocols over which commands, containers and ports are streamed in Kubernetes, without I/O."""
