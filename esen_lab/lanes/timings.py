"""When the sub-models of one lane ran, as a lane answers a run: packed numbers, `TIMING` once per member."""

from __future__ import annotations

import struct
from dataclasses import dataclass

TIMING = struct.Struct("<QQB")  # start and end in ns on the system-wide monotonic clock, and whether NaN came out


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimings:
    """When each sub-model of one lane ran, on `time.perf_counter_ns` of every process of this machine."""

    start_ns: tuple[int, ...]
    end_ns: tuple[int, ...]
    nan: tuple[bool, ...]

    @classmethod
    def unpack(cls, packed: bytes) -> RunTimings:
        """Read what a worker packed."""
        rows = list(TIMING.iter_unpack(packed))
        return cls(
            start_ns=tuple(row[0] for row in rows),
            end_ns=tuple(row[1] for row in rows),
            nan=tuple(bool(row[2]) for row in rows),
        )
