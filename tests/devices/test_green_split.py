"""Cutting SMs into groups: arithmetic, on any machine."""

from __future__ import annotations

import itertools

import pytest

from esen_lab.devices.green_split import chain_of, grain_of, layers_of, units_of
from esen_lab.errors import DeviceError, UsageError


@pytest.mark.parametrize(
    ("capability", "fine", "grain"),
    [("9.0", False, 8), ("9.0", True, 2), ("10.0", False, 8), ("8.0", False, 4), ("7.5", False, 2), ("6.1", True, 1)],
)
def test_the_grain_depends_on_the_compute_capability(capability: str, fine: bool, grain: int) -> None:
    assert grain_of(capability, fine=fine) == grain


def test_a_capability_without_green_contexts_and_one_that_is_none_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"6\.0"):
        grain_of("5.2")
    with pytest.raises(UsageError, match="two numbers"):
        grain_of("sm_90")


def test_an_h200_has_sixteen_units_and_four_sms_over() -> None:
    assert units_of(132, 8) == 16
    chain = chain_of(132, 8, [9, 5, 2])
    assert [(cut.lane, cut.sms, cut.left) for cut in chain.cuts] == [(0, 72, 60), (1, 40, 20), (2, 16, 4)]
    assert chain.left_over == 4


def test_the_largest_group_is_cut_first_and_equal_ones_in_order() -> None:
    assert [cut.lane for cut in chain_of(132, 8, [1, 4, 2, 4]).cuts] == [1, 3, 2, 0]


@pytest.mark.parametrize("shares", [s for n in (1, 2, 3) for s in itertools.product(range(1, 9), repeat=n)][::7])
def test_every_chain_that_fits_adds_up(shares: tuple[int, ...]) -> None:
    if sum(shares) > 8:
        with pytest.raises(UsageError, match="at most 8 units"):
            chain_of(66, 8, shares)
        return
    chain = chain_of(66, 8, shares)
    assert sorted((cut.lane, cut.sms) for cut in chain.cuts) == [(i, 8 * share) for i, share in enumerate(shares)]
    assert chain.left_over == 66 - 8 * sum(shares)


def test_shares_off_the_device_and_devices_smaller_than_a_group_are_refused() -> None:
    with pytest.raises(UsageError):
        chain_of(132, 8, [17])
    with pytest.raises(UsageError):
        chain_of(132, 8, [0])
    with pytest.raises(DeviceError, match="whole group"):
        units_of(6, 8)


def test_lanes_that_sum_to_more_than_the_device_are_cut_in_layers() -> None:
    assert layers_of(16, [8, 8]) == ((0, 1),)
    assert layers_of(16, [16, 16]) == ((0,), (1,))
    assert layers_of(16, [10, 8, 6, 4]) == ((0, 2), (1, 3))
