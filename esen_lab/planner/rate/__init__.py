"""Plans for a rate: how long requests take that come at random and are answered in batches, and what rate is held."""

from __future__ import annotations

from esen_lab.planner.rate.held import HeldRate, most_rate_per_s
from esen_lab.planner.rate.queue import Latencies, latencies
from esen_lab.planner.rate.service import ServiceTimes

__all__ = ["HeldRate", "Latencies", "ServiceTimes", "latencies", "most_rate_per_s"]
