"""The daemon's configuration: one TOML file in containerd's shape, flags over it, and every error at once."""

from mooraged.config.load import Loaded, Overrides, load
from mooraged.config.problems import ConfigError, Problem
from mooraged.config.render import render
from mooraged.config.schema import DEFAULT_PATH, Config

__all__ = ["DEFAULT_PATH", "Config", "ConfigError", "Loaded", "Overrides", "Problem", "load", "render"]
