"""How much this process grows while a sub-model runs, read from the kernel's own counters.

    growth  =  highest resident size during a step  -  resident size just before it

Measured around a step that is not the first one: a first step also pages in library code, which is no cost of the
sub-model. Before it the C heap gives its free pages back; otherwise the step would grow into memory that an earlier one
freed, and look free itself. Repeated readings differ by a few megabytes where a library chooses its buffers anew.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

_PROCESS = Path("/proc/self")


class GrowthMeter:
    """Measures one growth: `start`, the steps, `stop`.

    Args:
        process: The folder in which the kernel describes this process; one that is missing or refuses makes `stop`
            return None.
    """

    def __init__(self, process: Path = _PROCESS) -> None:
        self._process = process
        self._before: int | None = None

    def start(self) -> None:
        """Note the resident size, and start a new peak."""
        give_back_free_heap()
        self._before = None
        try:
            # "5" sets the peak ("high water mark") back to the present resident size: proc(5), since Linux 4.0.
            (self._process / "clear_refs").write_text("5")
        except OSError:
            return
        self._before = self._read("VmRSS")

    def stop(self) -> int | None:
        """The growth in bytes since `start`, or None where the system does not tell it."""
        peak = self._read("VmHWM")
        if peak is None or self._before is None:
            return None
        return max(0, peak - self._before)

    def _read(self, key: str) -> int | None:
        try:
            text = (self._process / "status").read_text()
        except OSError:
            return None
        for line in text.splitlines():
            name, _, value = line.partition(":")
            number, _, unit = value.strip().partition(" ")
            if name == key and unit == "kB" and number.isdigit():
                return int(number) * 1024
        return None


def give_back_free_heap() -> None:
    """Let the C library return its free pages to the system, where it knows how (glibc)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(ctypes.c_size_t(0))
