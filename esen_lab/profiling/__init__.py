"""MEASURE: how long each sub-model takes at each share of the device.

    records.py         Point, Failure, Profile: the nouns, plain data
    timing.py          `measure`: one point, inside the worker whose share is in force
    steady.py          what a GPU's own counters say while one sub-model runs, over and over
    memory.py          how much a process grows while a sub-model runs
    store.py           finished points on disk, shared by several processes
    machine_lock.py    one process at a time on this machine
    stored.py          what the store knows already, without measuring
    order.py           which shares to measure, and in which order
    progress.py        what a job looks like from outside at one moment
    job.py             `start_profile`: the background job that joins them

Each public name is imported on first use: `records` is read by parts that must stay light, and a worker needs `timing`
alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esen_lab.profiling.job import ProfileJob, start_profile
    from esen_lab.profiling.order import default_shares
    from esen_lab.profiling.progress import JobState, ProfileProgress
    from esen_lab.profiling.records import Failure, Point, Profile
    from esen_lab.profiling.store import ProfileStore, default_store_path
    from esen_lab.profiling.stored import stored_curves, stored_profile

__all__ = [
    "Failure",
    "JobState",
    "Point",
    "Profile",
    "ProfileJob",
    "ProfileProgress",
    "ProfileStore",
    "default_shares",
    "default_store_path",
    "start_profile",
    "stored_curves",
    "stored_profile",
]

_HOME = {
    "Failure": "records",
    "JobState": "progress",
    "Point": "records",
    "Profile": "records",
    "ProfileJob": "job",
    "ProfileProgress": "progress",
    "ProfileStore": "store",
    "default_shares": "order",
    "default_store_path": "store",
    "start_profile": "job",
    "stored_curves": "stored",
    "stored_profile": "stored",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"esen_lab.profiling.{_HOME[name]}"), name)
    raise AttributeError(f"module 'esen_lab.profiling' has no attribute {name!r}")
