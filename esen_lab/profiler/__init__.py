"""MEASURE: how long each sub-model takes at each share of the device.

    records.py         Point, Failure, Profile: the nouns, plain data
    timing.py          `measure`: one point, inside the worker whose share is in force
    gpu_counters.py    what a GPU's own counters say while one sub-model runs, over and over
    memory.py          how much a process grows while a sub-model runs
    store.py           finished points on disk, shared by several processes
    device_lock.py     the locks under which a device is measured
    from_store.py      what the store knows already, without measuring
    share_order.py     which shares to measure, and in which order
    progress.py        what a job looks like from outside at one moment
    point_bench.py     where a point is taken: a worker, with nothing else at work
    given_up.py        which shares are not tried after a failure
    backend_phase.py   other backends, share by share, after the eager points
    job.py             `start_profile`: the background job that joins them

Each public name is imported on first use: `records` is read by parts that must stay light, and a worker needs `timing`
alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esen_lab.common.jobs import JobState
    from esen_lab.profiler.from_store import stored_curves, stored_profile
    from esen_lab.profiler.job import ProfileJob, start_profile
    from esen_lab.profiler.progress import ProfileProgress
    from esen_lab.profiler.records import Failure, Point, Profile
    from esen_lab.profiler.share_order import default_shares
    from esen_lab.profiler.store import ProfileStore, default_store_path

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
    "default_shares": "share_order",
    "default_store_path": "store",
    "start_profile": "job",
    "stored_curves": "from_store",
    "stored_profile": "from_store",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"esen_lab.profiler.{_HOME[name]}"), name)
    raise AttributeError(f"module 'esen_lab.profiler' has no attribute {name!r}")
