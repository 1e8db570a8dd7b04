"""Interrupts, restarts and sudden deaths of a real kernel that runs an ensemble."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import leaks
import psutil
import pytest
from real_kernel import Kernel

SLOW = """
import os, time, torch
from torch import nn
class Slow(nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0.3")))
        return x
x = torch.ones(4)
slow, other = Slow(), Slow()
%load_ext esen_lab
%esen register slow --example x
%esen register other
_ = %esen run x
"""
GONE_WITHIN_S = 60.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Kernel]:
    """A kernel whose lanes are warm."""
    with Kernel(tmp_path) as kernel:
        yield kernel.prepare(SLOW)


def family(kernel: Kernel) -> list[psutil.Process]:
    ran = kernel.run("print(os.getpid())")
    pid = int(ran.streams)
    found = psutil.Process(pid).children(recursive=True)
    assert len(found) >= 2  # the helper and at least one lane
    return found


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return leaks.still_alive(processes, GONE_WITHIN_S)


@pytest.mark.parametrize("verb", ["run x", "compare x --rounds 1000"])
def test_an_interrupt_stops_a_run_or_a_comparison_and_the_lab_goes_on(running: Kernel, verb: str) -> None:
    ran = running.run(f"print('begun', flush=True)\nfor _ in range(1000):\n    %esen {verb}", interrupt_when="begun")
    assert ran.status == "error"
    assert "Interrupted" in ran.error or "KeyboardInterrupt" in ran.error
    again = running.run("y = %esen run x\nprint(y.tolist())")
    assert again.status == "ok", again.error
    assert "[1.0, 1.0, 1.0, 1.0]" in again.streams


def test_a_restart_leaves_no_process_of_the_old_kernel(running: Kernel) -> None:
    old = family(running)
    running.manager.restart_kernel(now=False)
    running.client.wait_for_ready(timeout=180)
    assert left_of(old) == []


def test_a_kernel_killed_in_the_middle_of_a_run_leaves_no_process(running: Kernel) -> None:
    processes = family(running)
    pid = int(running.run("print(os.getpid())").streams)
    running.client.execute("_ = %esen run x")
    os.kill(pid, signal.SIGKILL)
    assert left_of(processes) == []
