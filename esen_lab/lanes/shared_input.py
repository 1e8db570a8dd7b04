"""One copy of the input on the GPU for all lanes: one lane brings and lends it, the others borrow it by CUDA IPC.

What happens in a call with number k, which every lane gets with its wake-up:

    lender      1. queues the copy from host memory     2. records the event behind it     3. writes k into the flag
    borrower    1. waits until the flag says k          2. lets its stream wait for the event

The flag is a number in shared host memory. Without it a borrower that is faster could wait for the event of the call
before, which is over: an event that is waited for means its latest record. Nobody overwrites the input while it is
read, because a call ends when the last lane has answered.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

from esen_lab.errors import DeviceError
from esen_lab.lanes.arena import Block

FLAG_BYTES = 64
_LONGEST_WAIT_S = 10.0
_AWAKE_S = 0.002


class ReadyFlag:
    """Which call's input is on its way to the GPU.

    Args:
        block: `FLAG_BYTES` of shared memory, zeros at first.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._number = ctypes.c_uint64.from_buffer(block.memory)

    def open_for(self, number: int) -> None:
        """Say that the event of this call has been recorded."""
        self._number.value = number

    def wait_for(self, number: int, timeout_s: float = _LONGEST_WAIT_S) -> None:
        """Wait until that has been said of this call: awake for a moment, since it takes some microseconds.

        Raises:
            DeviceError: It was not said in time.
        """
        began = time.perf_counter()
        while self._number.value != number:
            waited = time.perf_counter() - began
            if waited > timeout_s:
                raise DeviceError(
                    "The lane that brings the input to the GPU does so at once",
                    given=f"nothing within {timeout_s:g} s",
                    hint="That lane has failed: its own error says how.",
                )
            if waited > _AWAKE_S:
                time.sleep(0.0001)


@dataclass(frozen=True, slots=True)
class Lending:
    """What a lender keeps: the flag, and the event it records for every call."""

    flag: ReadyFlag
    event: Any


@dataclass(frozen=True, slots=True)
class Borrowing:
    """What a borrower keeps: the flag, and the lender's event."""

    flag: ReadyFlag
    event: Any
