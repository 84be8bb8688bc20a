"""The gRPC services: a module each, which converts, calls, converts."""
