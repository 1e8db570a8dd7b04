"""A GPU under NVIDIA MPS, against a scripted control program and a double of CUDA: no GPU is involved."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cuda_doubles import GPU, MACHINE, UUID, DoubleOfCuda, DoubleOfMpsPlacement, scripted_programs

from esen_lab.devices.cuda import mps as cuda_mps
from esen_lab.devices.cuda.gpus import Gpu, Machine
from esen_lab.devices.cuda.mps import CudaMpsDevice, MpsPlacement, check_limit, missing, most_sms, open_mps
from esen_lab.devices.cuda.mps_control import MpsDaemon, daemon_state
from esen_lab.devices.cuda.mps_trial import try_lane
from esen_lab.errors import DeviceError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA MPS exists on Linux only")
Open = Callable[..., CudaMpsDevice]


def gpu(**different: Any) -> Gpu:
    from dataclasses import replace

    return replace(GPU, **different)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Open]:
    """Devices whose daemon is the scripted one, following the given script."""
    opened: list[CudaMpsDevice] = []

    def start(uuid: str, *, programs: Any = None) -> MpsDaemon:
        return MpsDaemon.start(uuid, programs=programs, parent=Path("/tmp"), timeout_s=10)

    def open_(*, adopt: Path | None = None, holds: bool = False, **script: object) -> CudaMpsDevice:
        programs = scripted_programs(tmp_path / "bin", **script)
        made = CudaMpsDevice(
            GPU,
            MACHINE,
            adopt=adopt,
            programs=programs,
            start=start,
            holds_context=lambda uuid: holds,
            placement=DoubleOfMpsPlacement,
        )
        opened.append(made)
        return made

    yield open_
    for made in opened:
        made.close()


@pytest.mark.parametrize(
    ("percentage", "most"), [(1, 8), (6, 8), (10, 16), (25, 40), (50, 72), (75, 104), (90, 120), (95, 128), (100, 132)]
)
def test_a_limit_allows_its_share_rounded_up_to_a_group_of_sms(percentage: int, most: int) -> None:
    assert most_sms(percentage, 132) == most


def test_a_lane_with_all_sms_under_a_limit_is_refused() -> None:
    check_limit(66, 50, 132)
    check_limit(132, 100, 132)
    with pytest.raises(DeviceError, match=r"50 % of 132 SMs has at most 72.*CUDA reports 132.*runs outside MPS"):
        check_limit(132, 50, 132)
    with pytest.raises(DeviceError, match="CUDA reports 0"):
        check_limit(0, 50, 132)


def test_a_lane_whose_share_is_halved_by_another_limit_is_refused() -> None:
    check_limit(58, 50, 132)
    with pytest.raises(DeviceError, match=r"50 % of 132 SMs has at least 58.*CUDA reports 33.*Another limit"):
        check_limit(33, 50, 132)
    check_limit(2, 1, 132)


def test_its_identity_names_the_hardware_and_not_the_piece(device: Open) -> None:
    identity = device().identity
    assert (identity.kind, identity.name, identity.units, identity.unit) == ("cuda mps", GPU.name, 100, "%")
    assert UUID not in str(identity.to_dict())
    assert identity.details["driver"] == "580.159"
    assert identity.details["sms"] == "132"


def test_nothing_runs_before_the_first_place_and_nothing_after_close(device: Open) -> None:
    made = device()
    assert made.daemon is None
    made.place([30])
    folder = made.daemon.folder if made.daemon else Path()
    assert folder.is_dir()
    made.close()
    assert not folder.exists()
    assert made.place([30])[0].folder != str(folder), "it may be used again"


def test_lanes_may_ask_for_more_than_the_gpu_together_but_not_each(device: Open) -> None:
    made = device()
    places = made.place([60, 60, 60])
    assert [place.units for place in places] == [60, 60, 60]
    assert places[0].environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "60"
    assert places[0].environment["CUDA_VISIBLE_DEVICES"] == UUID
    (whole,) = made.place([100])
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in whole.environment, "MPS's default is a variable that is not set"
    with pytest.raises(UsageError):
        made.place([101])
    with pytest.raises(UsageError, match="49 lanes"):
        made.place([1] * 49)
    assert places[0].grace_s > 0


def test_a_trial_that_hangs_is_given_up(device: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "doubles"))
    (place,) = device().place([50])
    with pytest.raises(DeviceError, match=r"no answer within 0\.01 s"):
        try_lane(place, timeout_s=0.01)


def test_devices_of_one_process_share_a_gpus_daemon(device: Open) -> None:
    first, second = device(), device()
    first.place([10])
    second.place([10])
    assert first.daemon is second.daemon
    first.close()
    assert second.daemon is not None
    assert second.daemon.alive, "the other one still needs it"
    second.close()


def test_an_adopted_daemon_stays(device: Open) -> None:
    owner = device()
    owner.place([10])
    assert owner.daemon is not None
    guest = device(adopt=owner.daemon.folder)
    assert guest.place([20])[0].folder == str(owner.daemon.folder)
    guest.close()
    assert owner.daemon.servers() == (4242,)
    assert "server 4242 ACTIVE, 0 clients" in daemon_state(owner.daemon.folder, programs=owner.daemon.programs)


def test_after_a_fault_the_next_place_makes_the_daemon_take_clients_again(device: Open) -> None:
    made = device(clients=[101], fault_until_clients_gone=True)
    assert made.place([50])
    assert made.daemon is not None
    assert not made.daemon.faulted()


def test_a_daemon_that_died_is_replaced(device: Open) -> None:
    made = device()
    made.place([50])
    first = made.daemon
    assert first is not None
    first.stop()
    made.place([50])
    assert made.daemon is not first


def test_a_lane_becomes_a_client_and_proves_its_limit(device: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", str(Path(__file__).parents[1] / "doubles")
    )  # where the trial's process finds the double
    (place,) = device().place([50])
    assert pickle.loads(pickle.dumps(place)) == place
    assert cuda_mps.MPS.test(device()).startswith("66 of 132 SMs")
    assert try_lane(place) == "66 of 132 SMs, listed by the MPS daemon, a product right"


@pytest.mark.parametrize(
    ("cuda", "message"),
    [
        (lambda scripted: DoubleOfCuda(132), "is not among no clients"),
        (lambda scripted: DoubleOfCuda(132, scripted), "CUDA reports 132"),
        (lambda scripted: DoubleOfCuda(66, scripted, started=True), "CUDA was started already"),
        (lambda scripted: DoubleOfCuda(66, breaks="MPS server is not ready"), "RuntimeError: MPS server is not ready"),
    ],
    ids=["silent fallback", "limit not in force", "too late", "cannot start"],
)
def test_a_lane_without_its_limit_refuses_and_says_why(
    cuda: Callable[[Path], DoubleOfCuda], message: str, device: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("CUDA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (place,) = device().place([50])
    scripted = place.programs.control.parent
    monkeypatch.setattr(DoubleOfMpsPlacement, "cuda", lambda self: cuda(scripted))
    import torch

    threads = torch.get_num_threads()
    try:
        with pytest.raises(DeviceError, match=message):
            place.apply()
    finally:
        torch.set_num_threads(threads)


def test_this_process_is_warned_about_its_own_context(device: Open) -> None:
    assert device().notes == ()
    (note,) = device(holds=True).notes
    assert "leave_gpu()" in note
    assert not cuda_mps.holds_context_here(UUID), "this process has started no CUDA"


def test_what_mps_cannot_share_is_named() -> None:
    found = missing(Machine(gpus=(), driver="580", torch_cuda=""), gpu(mig=True, capability="6.1"))
    assert [part.split(":")[0] for part in found] == [
        "a whole GPU",
        "a GPU of compute capability 7.0 or more for limits; this one has 6.1",
        "a PyTorch that was built for CUDA",
        "the programs of MPS",
    ]
    with pytest.raises(DeviceError, match="in MIG mode"):
        CudaMpsDevice(gpu(mig=True))


def test_a_name_may_ask_to_adopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/run/theirs")
    assert open_mps(MACHINE, GPU, "adopt")._adopt == Path("/run/theirs")
    assert open_mps(MACHINE, GPU, "adopt /else where")._adopt == Path("/else where")
    assert open_mps(MACHINE, GPU, "")._adopt is None
    with pytest.raises(UsageError, match="cuda:0 mps adopt"):
        open_mps(MACHINE, GPU, "borrow")


def test_a_place_of_the_real_kind_uses_the_real_cuda() -> None:
    import torch

    place = MpsPlacement(percentage=1, sms=132, gpu=UUID, environment={}, folder="/", programs=None)  # type: ignore[arg-type]
    assert place.cuda() is torch.cuda
    assert place.torch_device == "cuda:0"
