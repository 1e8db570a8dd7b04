"""What a device and a place are where they do not say otherwise, and which ones do."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from esen_lab.devices import CpuDevice, Device, DeviceIdentity, FakeDevice, InForce, Placement
from esen_lab.devices.cuda.green import GreenDevice, GreenPlacement
from esen_lab.devices.cuda.mps import CudaMpsDevice, MpsPlacement


class Plain(Device):
    identity = DeviceIdentity(kind="plain", name="of the tests", units=3, unit="part")

    def place(self, shares: Sequence[int]) -> tuple[Placement, ...]:
        return tuple(PlainPlacement() for _ in shares)


class PlainPlacement(Placement):
    units = 1

    def apply(self) -> InForce:
        return InForce(units=1, description="no limit")

    def use(self, active_units: int) -> None:
        """Nothing to switch."""


def test_a_device_that_says_nothing_special_is_whole_always_there_and_for_any_number_of_lanes() -> None:
    device = Plain()
    assert (device.units, device.notes, device.hardware, device.cores) == (3, (), "", ())
    assert (device.most_lanes, device.free_bytes(), device.lost()) == (None, None, "")
    device.close()


def test_a_place_that_says_nothing_special_is_a_process_that_may_be_killed_at_once() -> None:
    (place,) = Plain().place([1])
    assert (place.in_process, place.grace_s, place.paced) == (False, 0.0, False)
    assert (place.gpu_uuid, place.stream) == ("", None)
    place.knows("any name")
    place.retire(os.getpid())
    place.release()


def test_each_kind_of_place_declares_what_is_special_about_it() -> None:
    (simulated,) = FakeDevice({"a": {1: 0.01}}, units=1).place([1])
    (cores,) = CpuDevice(cores=[(0,)]).place([1])
    assert [(place.in_process, place.grace_s > 0, place.paced) for place in (cores, simulated)] == [
        (False, False, False),
        (False, False, True),
    ]
    assert (GreenPlacement.in_process, GreenPlacement.grace_s) == (True, 0.0)
    assert (MpsPlacement.in_process, MpsPlacement.grace_s > 0) == (False, True)


def test_the_kinds_of_device_are_devices() -> None:
    assert all(issubclass(kind, Device) for kind in (CpuDevice, FakeDevice, GreenDevice, CudaMpsDevice))


def test_what_every_device_must_say_has_no_default() -> None:
    with pytest.raises(TypeError, match="identity"):
        Device()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="apply"):
        Placement()  # type: ignore[abstract]
