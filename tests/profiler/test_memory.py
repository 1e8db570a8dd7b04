"""The growth of this very process, as the kernel tells it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from esen_lab.profiler.memory import GrowthMeter, give_back_free_heap

MB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the counters of the Linux kernel")


def touch(size: int) -> None:
    """Use `size` bytes of fresh memory and give them back."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


@on_linux
@pytest.mark.parametrize("size", [16 * MB, 64 * MB])
def test_memory_that_a_step_used_and_gave_back_is_seen(size: int) -> None:
    meter = GrowthMeter()
    meter.start()
    touch(size)
    assert meter.stop() == pytest.approx(size, abs=6 * MB)


@on_linux
def test_an_earlier_peak_does_not_count() -> None:
    touch(128 * MB)
    meter = GrowthMeter()
    meter.start()
    touch(8 * MB)
    growth = meter.stop()
    assert growth is not None
    assert growth < 32 * MB


@on_linux
def test_memory_that_the_heap_kept_from_an_earlier_step_counts_again() -> None:
    def step() -> None:
        blocks = [bytearray(50_000) for _ in range(600)]
        del blocks

    step()
    meter = GrowthMeter()
    meter.start()
    step()
    assert meter.stop() == pytest.approx(30 * MB, abs=8 * MB)


def test_a_system_without_such_files_tells_nothing(tmp_path: Path) -> None:
    meter = GrowthMeter(tmp_path / "missing")
    meter.start()
    assert meter.stop() is None


def test_a_status_without_the_line_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 100 kB\n")
    meter = GrowthMeter(tmp_path)
    meter.start()
    assert meter.stop() is None


def test_growth_is_the_peak_above_the_resident_size_before(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmHWM:\t     900 kB\nVmRSS:\t 100 kB\n")
    meter = GrowthMeter(tmp_path)
    meter.start()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert meter.stop() == 800 * 1024


def test_giving_back_the_heap_is_harmless_everywhere() -> None:
    give_back_free_heap()
