"""When the sub-models of one lane ran, as a lane answers a run: packed numbers, `TIMING` once per member.

A run that is told step by step is answered by one `StepTold` for each, and one that says that it is over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from esen_lab.errors import EsenError

TIMING = struct.Struct("<QQB")  # start and end in ns on the system-wide monotonic clock, and `NAN`, `DREW`
STEP = struct.Struct("<HQQB")  # which step of the lane, and its timing
NAN, DREW = 1, 2  # NaN came out; it draws random numbers, which its example did not show


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTold:
    """What a lane tells while it works through a run step by step.

    Attributes:
        number: Of the run.
        index: Which step of the lane is done, and its output written; -1 where none is.
        start_ns: When it began, on `time.perf_counter_ns`.
        end_ns: When it ended.
        nan: Whether NaN came out.
        drew: Whether it was seen to draw random numbers, which its example did not show.
        problem: A step that failed; `failed` says which, where that is known.
        failed: The name of the step that failed, or "".
        over: Whether the lane has ended the run, and waits for the next.
    """

    number: int
    index: int = -1
    start_ns: int = 0
    end_ns: int = 0
    nan: bool = False
    drew: bool = False
    problem: EsenError | None = None
    failed: str = ""
    over: bool = False

    @classmethod
    def unpack(cls, number: int, packed: bytes) -> StepTold:
        """Read what a lane packed.

        Raises:
            struct.error: It packed something else.
        """
        index, start, end, seen = STEP.unpack(packed)
        return cls(number=number, index=index, start_ns=start, end_ns=end, nan=bool(seen & NAN), drew=bool(seen & DREW))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimings:
    """When each sub-model of one lane ran, on `time.perf_counter_ns` of every process of this machine."""

    start_ns: tuple[int, ...]
    end_ns: tuple[int, ...]
    nan: tuple[bool, ...]
    drew: tuple[bool, ...]

    @classmethod
    def unpack(cls, packed: bytes) -> RunTimings:
        """Read what a worker packed."""
        starts, ends, seen = zip(*TIMING.iter_unpack(packed), strict=True) if packed else ((), (), ())
        nan, drew = (tuple(bool(one & bit) for one in seen) for bit in (NAN, DREW))
        return cls(start_ns=starts, end_ns=ends, nan=nan, drew=drew)
