"""ONE LANE ALIVE: workers, what is said to them, and the memory they share."""

from __future__ import annotations

from esen_lab.lanes.fork_server import ForkServer
from esen_lab.lanes.process_worker import ProcessWorker
from esen_lab.lanes.thread_worker import ThreadWorker
from esen_lab.lanes.timings import RunTimings, StepTold
from esen_lab.lanes.worker import Worker

__all__ = ["ForkServer", "ProcessWorker", "RunTimings", "StepTold", "ThreadWorker", "Worker"]
