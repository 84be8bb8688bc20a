"""Conformance suites of the contracts, for the authors of plugins."""
