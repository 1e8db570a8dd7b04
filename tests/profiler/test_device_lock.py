"""Which measurements exclude each other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from profiling_fakes import FakeDevice

from esen_lab.devices import CpuDevice, Device
from esen_lab.devices.cuda.green import GreenDevice
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.errors import Cancelled
from esen_lab.profiler.device_lock import measuring_locks

NEVER = threading.Event()


def gpu(uuid: str, index: int = 0) -> GreenDevice:
    return GreenDevice(index=index, uuid=uuid, name="A GPU", sms=16, capability="8.0", grain=Grain(sms=2, groups=8))


def exclude(first: Device, second: Device, stores: tuple[str, str] = ("a", "b")) -> bool:
    """Whether the second cannot be measured while the first is."""
    cancelled = threading.Event()
    one, other = (
        measuring_locks(device, Path("/nowhere") / store / "points.sqlite")
        for device, store in zip((first, second), stores, strict=True)
    )
    with one.held(NEVER):
        try:
            with other.held(cancelled, cancelled.set):
                assert (one.note, other.note) == ("", "")
                return False
        except Cancelled:
            return True


def test_two_labs_with_stores_in_two_folders_do_not_measure_a_cpu_at_once() -> None:
    assert exclude(CpuDevice(), CpuDevice())


def test_two_labs_on_other_cores_share_the_machines_memory_and_its_lock() -> None:
    assert exclude(CpuDevice(cores=[(0,)]), CpuDevice(cores=[(1,), (2,)]))


def test_a_gpu_is_the_same_under_any_index_and_in_any_case_by_itself() -> None:
    assert exclude(gpu("GPU-1", index=0), gpu("GPU-1", index=3))
    assert not exclude(gpu("GPU-1"), gpu("GPU-2"))


def test_a_cpu_is_measured_alone_since_gpus_need_it_too() -> None:
    assert exclude(CpuDevice(), gpu("GPU-1"))
    assert exclude(gpu("GPU-1"), CpuDevice())


def test_what_is_simulated_disturbs_only_its_own_store(tmp_path: Path) -> None:
    device: Device = FakeDevice()  # type: ignore[assignment]
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert not exclude(device, device, (a, b))
    assert not exclude(CpuDevice(), device, (a, b))
    assert exclude(device, device, (a, a))


@pytest.mark.parametrize("uuid", ["../../etc/passwd", "MIG-1/2", ""])
def test_a_strange_name_of_a_gpu_stays_in_the_folder(uuid: str) -> None:
    assert exclude(gpu(uuid), gpu(uuid))
