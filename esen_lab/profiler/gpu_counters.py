"""What a GPU's own counters say while one sub-model runs, over and over.

GPM counts between two samples that must be more than 100 ms apart, of the whole GPU. So a step is repeated for a
quarter of a second and a few times at least, with nothing else under way on the GPU: the profile sees to that. The loop
is under way before the first sample is taken, which takes a while itself: else the idle time before it would count too.
Each reading is a number or the reason why there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.devices.cuda.nvml import GpmWindow

STEADY_S = 0.25
FEWEST_STEPS = 3
KEYS = {
    "sm": "sm_percent",
    "occupancy": "occupancy_percent",
    "tensor": "tensor_percent",
    "dram": "dram_percent",
}


def read_while(
    step: Callable[[], object],
    gpu: str,
    *,
    open_window: Callable[[str], Any] = GpmWindow.open,
    clock: Callable[[], float] = time.perf_counter,
) -> Mapping[str, float | str]:
    """Readings around a steady loop of `step`.

    Args:
        step: Runs the sub-model once and waits for it.
        gpu: The GPU's UUID; "" where nobody knows which one it is.
        open_window: Begins a reading of that GPU, or says why not.
        clock: Seconds that only go forward.
    """
    window = open_window(gpu) if gpu else "it is not known which GPU this is"
    if isinstance(window, str):
        return dict.fromkeys(KEYS.values(), window)
    try:
        step()
        window.begin()
        began = clock()
        steps = 0
        while steps < FEWEST_STEPS or clock() - began < STEADY_S:
            step()
            steps += 1
        return {KEYS[key]: value for key, value in window.read().items()}
    finally:
        window.close()
