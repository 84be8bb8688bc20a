"""The calls that make, show and take down pods."""
