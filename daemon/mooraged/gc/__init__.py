"""Garbage collection: what no root reaches goes, first from the database, then from the backends."""

from mooraged.gc.collector import Collector, Stats
from mooraged.gc.scheduler import Policy, Scheduler

__all__ = ["Collector", "Policy", "Scheduler", "Stats"]
