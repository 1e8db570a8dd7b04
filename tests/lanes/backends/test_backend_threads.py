"""Threads of engines: as many as the lane has, on its cores, asleep between calls. In real lanes."""

from __future__ import annotations

import sys

import pytest
import torch
from backend_nets import Wide, lacking
from models import payload

from esen_lab.devices import CpuDevice
from esen_lab.lanes import ForkServer
from esen_lab.lanes.backends import wrapped

if sys.platform != "linux":
    pytest.skip("threads are read from /proc", allow_module_level=True)

NAMES = [pytest.param(name, marks=lacking(name)) for name in ("openvino", "onnxruntime", "inductor")]
QUIET_S = 0.0005  # of processor time per pause, by all threads but the lane's own
CORES = CpuDevice().units


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_threads_of_an_engine_are_the_lanes_and_sleep_between_calls(
    name: str, units: int, fork_server: ForkServer
) -> None:
    if units > CORES:
        pytest.skip(f"needs {units} cores")
    place = CpuDevice().place([units])[0]
    worker = fork_server.worker(place, label="lane 1")
    try:
        worker.load("a", wrapped(payload(Wide()), name), torch.randn(256, 256))
        found = worker.call("threads_seen:between_calls", "a", timeout_s=60.0)
    finally:
        worker.close()
    logical = sorted({cpu for core in place.cores for cpu in core})  # type: ignore[attr-defined]
    assert found["allowed"] == [logical]
    assert found["taken_s"] < QUIET_S
