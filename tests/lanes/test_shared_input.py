"""The flag between the lane that brings an input and those that borrow it."""

from __future__ import annotations

import threading
import time

import pytest

from esen_lab.errors import DeviceError
from esen_lab.lanes.arena import Block
from esen_lab.lanes.shared_input import FLAG_BYTES, ReadyFlag


def test_a_borrower_waits_for_this_call_and_not_for_the_one_before() -> None:
    block = Block.create(FLAG_BYTES)
    lender, borrower = ReadyFlag(block), ReadyFlag(block)
    lender.open_for(6)
    came: list[float] = []

    def borrow() -> None:
        borrower.wait_for(7)
        came.append(time.perf_counter())

    thread = threading.Thread(target=borrow)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    opened = time.perf_counter()
    lender.open_for(7)
    thread.join(60)
    assert came[0] >= opened
    borrower.wait_for(7)


def test_a_lender_that_never_brings_anything_is_not_waited_for_for_ever() -> None:
    with pytest.raises(DeviceError, match=r"nothing within 0.01 s"):
        ReadyFlag(Block.create(FLAG_BYTES)).wait_for(1, timeout_s=0.01)
