"""How much two lanes take of each other by using the same memory channels: measured once on a machine, then kept.

    alone       one lane copies arrays much larger than it may keep in a cache, by all its cores
    together    two lanes do so side by side; the figure is that of one of them

    factor  =  together / alone, 1 where they do not disturb each other, 0.5 where one had it all

The lanes are the halves of the cores of one node. A profile measures sub-models alone, so where weights come from
memory, lanes side by side may take up to 1 / factor times as long as predicted. That is what `run/drift.py` says.

Each thread is pinned to its core and writes its arrays first, so that they lie next to it. Rounds alternate between the
two ways, and medians count: what else the machine does meets both.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from esen_lab.common.units import now
from esen_lab.devices.cpu.contention import busy_part
from esen_lab.errors import EsenError
from esen_lab.files import Kind, Text, converted, decode_json, read_bytes, write_file
from esen_lab.files.schemas import Count, plain
from esen_lab.files.user_folder import user_folder

_ROUNDS = 3
_ROUND_S = 0.1
_SETTLE_S = 0.02  # before it: clocks rise, and the other threads begin
_BUSY = 0.2  # of the cores' time, from which on the figures would be those of other programs
_MOST_THREADS = 32  # of a lane: fewer than this use up the memory channels of any node
_LANE_BYTES = 1 << 28  # of arrays at least, if memory allows; two are copied to and fro
_MOST_LANE_BYTES = 1 << 29  # to write more first would take seconds
_LEAST_BYTES = 1 << 25
_CHUNK_BYTES = 1 << 22  # of a copy, between two looks at the clock
_SIGNIFICANT = 0.9
_MOST_FILE_BYTES = 1 << 20
_MOST_MACHINES = 64

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Rate = Annotated[float, Meta(gt=0, le=1e6)]

INTERFERENCE_FILE = Kind(
    what="a file of measured memory bandwidths",
    is_one=lambda head: head.lstrip().startswith(b"{") and b'"memory_bandwidth"' in head,
    example="memory.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """What two lanes on one node take of each other's memory bandwidth.

    Attributes:
        alone_gb_s: What one lane copies while the other does nothing: gigabytes read and written per second.
        together_gb_s: What each copies while both do, on the mean.
        cores: How many cores each lane had.
        array_bytes: How much each lane went through.
        measured_at: When, as UTC ISO 8601.
    """

    alone_gb_s: Rate
    together_gb_s: Rate
    cores: Annotated[int, Meta(ge=1, le=1 << 16)]
    array_bytes: Count
    measured_at: Text

    @property
    def factor(self) -> float:
        """What is left to a lane of its bandwidth beside another one, in (0, 1]."""
        return min(1.0, self.together_gb_s / self.alone_gb_s)

    @property
    def significant(self) -> bool:
        """Whether they disturb each other by more than measuring is off."""
        return self.factor < _SIGNIFICANT

    def describe(self) -> str:
        """In words."""
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        verdict = "they take it from each other" if self.significant else "they do not disturb each other"
        return (
            f"a lane of {cores} copies {self.alone_gb_s:.3g} GB/s alone, {self.together_gb_s:.3g} GB/s beside another "
            f"one: {verdict}"
        )


def known_interference(machine: str, path: Path | None = None) -> Interference | None:
    """What was measured on this machine before; None: nothing that can be read.

    Args:
        machine: Its identity (`machine_key`).
        path: The file; None: in the `user_folder`.
    """
    try:
        return _read(_default(path)).get(machine)
    except EsenError:
        return None


def keep_interference(machine: str, found: Interference, path: Path | None = None) -> None:
    """Keep what was measured. Where it cannot be written, it is measured again some time."""
    with contextlib.suppress(EsenError, OSError):
        file = _default(path)
        known = _read(file) if file.exists() else {}
        known.pop(machine, None)
        kept = dict([*known.items(), (machine, found)][-_MOST_MACHINES:])
        file.parent.mkdir(parents=True, exist_ok=True)
        data = {"memory_bandwidth": {key: plain(one) for key, one in kept.items()}}
        write_file(file, json.dumps(data, indent=1).encode() + b"\n", INTERFERENCE_FILE)


def machine_key(device_key: str) -> str:
    """What a measurement holds for: this machine, and these cores of it. Home folders may be shared by machines."""
    return f"{platform.node()} {device_key}"


def measure_interference(
    one: Sequence[int], other: Sequence[int], *, cache_bytes: int = 0, free_bytes: int | None = None
) -> Interference | None:
    """Measure two lanes, alone and side by side; takes about a second.

    Args:
        one: The logical CPUs of one lane, one for each of its cores.
        other: Those of another one; as many.
        cache_bytes: What both lanes' caches of level 3 hold together: each lane goes through as much, and does not fit.
        free_bytes: Memory that may be used at most, of which a quarter is; None: not known.

    Returns:
        None where it cannot be measured: a CPU is in both, threads cannot be pinned or started, memory does not
        suffice, or other programs use these cores.
    """
    if not one or set(one) & set(other) or not hasattr(os, "sched_setaffinity"):
        return None
    lane_bytes = min(max(_LANE_BYTES, cache_bytes), _MOST_LANE_BYTES)
    lane_bytes = lane_bytes if free_bytes is None else min(lane_bytes, free_bytes // 8)
    if lane_bytes < _LEAST_BYTES:
        return None
    busy = busy_part([*one, *other], for_s=0.05)
    if busy is not None and busy > _BUSY:
        return None
    try:
        lanes = _Lanes(one[:_MOST_THREADS], other[:_MOST_THREADS], lane_bytes)
    except (MemoryError, RuntimeError, _Failed):
        return None
    try:
        alone, together = [], []
        for _ in range(_ROUNDS):
            alone.append(lanes.rates((True, False))[0])
            together.append(statistics.fmean(lanes.rates((True, True))))
    except _Failed:
        return None
    finally:
        lanes.close()
    if min(*alone, *together) <= 0:
        return None
    return Interference(
        alone_gb_s=statistics.median(alone),
        together_gb_s=statistics.median(together),
        cores=len(one),
        array_bytes=lanes.lane_bytes,
        measured_at=now(),
    )


class _Failed(Exception):  # noqa: N818  what happened
    """A thread could not be pinned, or had no memory."""


class _Lanes:
    """Threads of two lanes, each on a core of its own, that copy when they are told to."""

    def __init__(self, one: Sequence[int], other: Sequence[int], lane_bytes: int) -> None:
        each = max(_CHUNK_BYTES, lane_bytes // (2 * len(one)) // _CHUNK_BYTES * _CHUNK_BYTES)
        self.lane_bytes = 2 * each * len(one)
        self._count = len(one) + len(other)
        self._gate = threading.Barrier(self._count + 1)
        self._active = (False, False)
        self._ended = False
        self._failed = False
        self._rates = [0.0] * self._count
        self._threads = [
            threading.Thread(target=self._copy, args=(number, cpu, int(number >= len(one)), each), daemon=True)
            for number, cpu in enumerate((*one, *other))
        ]
        self._split = len(one)
        started = 0
        try:
            for thread in self._threads:
                thread.start()
                started += 1
            self._wait()
        except BaseException:
            self._threads = self._threads[:started]
            self.close()
            raise

    def rates(self, active: tuple[bool, bool]) -> tuple[float, float]:
        """One round: GB/s of each lane; 0 for one that does nothing."""
        self._active = active
        self._wait()  # begin
        self._wait()  # all have stopped
        if self._failed:
            raise _Failed
        return sum(self._rates[: self._split]), sum(self._rates[self._split :])

    def _wait(self) -> None:
        try:
            self._gate.wait(timeout=10.0)
        except threading.BrokenBarrierError:
            raise _Failed from None

    def close(self) -> None:
        """End the threads and free their memory."""
        self._ended = True
        self._gate.abort()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _copy(self, number: int, cpu: int, lane: int, size: int) -> None:
        import numpy as np

        try:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
            source, target = (np.ones(size, np.uint8), np.ones(size, np.uint8))
        except (OSError, MemoryError):
            self._failed = True
        try:
            self._gate.wait(timeout=10.0)
            while not self._ended:
                self._gate.wait(timeout=10.0)
                self._rates[number] = 0.0
                if self._active[lane] and not self._failed:
                    self._rates[number] = _rate(source, target)
                    source, target = target, source
                self._gate.wait(timeout=10.0)
        except threading.BrokenBarrierError:
            return


def _rate(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """GB/s that the calling thread copies, after a moment in which all others have begun."""
    import numpy as np

    at = 0

    def copy_for(seconds: float) -> float:
        """Bytes read and written per second."""
        nonlocal at
        begun_s, copied, lasted_s = time.perf_counter(), 0, 0.0
        while lasted_s < seconds:
            np.copyto(target[at : at + _CHUNK_BYTES], source[at : at + _CHUNK_BYTES])
            at = (at + _CHUNK_BYTES) % len(source)
            copied += 2 * _CHUNK_BYTES
            lasted_s = time.perf_counter() - begun_s
        return copied / lasted_s

    copy_for(_SETTLE_S)
    return copy_for(_ROUND_S) / 1e9


def _default(path: Path | None) -> Path:
    return user_folder() / "memory.json" if path is None else path


def _read(path: Path) -> dict[str, Interference]:
    data = decode_json(read_bytes(path, most=_MOST_FILE_BYTES))
    found = data.get("memory_bandwidth") if isinstance(data, dict) else None
    return converted(found, dict[str, Interference], "the file of measured memory bandwidths")
