"""The calls that make, run, show and remove containers."""
