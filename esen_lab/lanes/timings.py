"""When the sub-models of one lane ran, as a lane answers a run: packed numbers, `TIMING` once per member.

A run that is told step by step is answered by one `StepTold` for each, and one that says that it is over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from esen_lab.errors import EsenError

TIMING = struct.Struct("<QQB")  # start and end in ns on the system-wide monotonic clock, and whether NaN came out
STEP = struct.Struct("<HQQB")  # which step of the lane, and its timing


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTold:
    """What a lane tells while it works through a run step by step.

    Attributes:
        number: Of the run.
        index: Which step of the lane is done, and its output written; -1 where none is.
        start_ns: When it began, on `time.perf_counter_ns`.
        end_ns: When it ended.
        nan: Whether NaN came out.
        problem: A step that failed; `failed` says which, where that is known.
        failed: The name of the step that failed, or "".
        over: Whether the lane has ended the run, and waits for the next.
    """

    number: int
    index: int = -1
    start_ns: int = 0
    end_ns: int = 0
    nan: bool = False
    problem: EsenError | None = None
    failed: str = ""
    over: bool = False

    @classmethod
    def unpack(cls, number: int, packed: bytes) -> StepTold:
        """Read what a lane packed.

        Raises:
            struct.error: It packed something else.
        """
        index, start, end, nan = STEP.unpack(packed)
        return cls(number=number, index=index, start_ns=start, end_ns=end, nan=bool(nan))


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
