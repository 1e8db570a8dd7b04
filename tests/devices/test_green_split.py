"""Which lanes can be disjoint together: arithmetic, on any machine."""

from __future__ import annotations

import pytest

from esen_lab.devices.cuda.green_split import layers_of
from esen_lab.errors import UsageError


def test_lanes_that_sum_to_more_than_the_device_are_placed_in_layers() -> None:
    assert layers_of(16, [8, 8]) == ((0, 1),)
    assert layers_of(16, [16, 16]) == ((0,), (1,))
    assert layers_of(16, [10, 8, 6, 4]) == ((0, 2), (1, 3))


@pytest.mark.parametrize("share", [0, 17])
def test_shares_off_the_device_are_refused(share: int) -> None:
    with pytest.raises(UsageError):
        layers_of(16, [share])
