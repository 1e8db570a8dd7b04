"""ONE LANE ALIVE: worker processes, what is said to them, and the memory they share."""

from __future__ import annotations

from esen_lab.workers.base import RunTimings, Worker
from esen_lab.workers.local import LocalWorker
from esen_lab.workers.nursery import LaneWorker, Nursery
from esen_lab.workers.process import ProcessWorker

__all__ = ["LaneWorker", "LocalWorker", "Nursery", "ProcessWorker", "RunTimings", "Worker"]
