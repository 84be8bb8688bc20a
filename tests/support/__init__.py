"""What the tests, the demonstration and the benchmarks share: a real registry, images for it, a daemon on private roots."""
