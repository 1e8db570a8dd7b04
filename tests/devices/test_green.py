"""Green contexts against a fake driver: the calls, their order, what fails, and that everything is let go."""

from __future__ import annotations

import pytest
from fake_cuda_driver import FakeCudaDriver, FakeNvrtc

from esen_lab.devices.cuda.green import GreenDevice, self_test
from esen_lab.devices.cuda.green_driver import GreenDriver
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.errors import DeviceError, UsageError


def green(cuda: FakeCudaDriver, nvrtc: FakeNvrtc | None = None, *, fine: bool = False) -> GreenDevice:
    return GreenDevice(
        name="fake GPU of the tests",
        sms=132,
        capability="9.0",
        grain=Grain(sms=2, groups=66) if fine else Grain(sms=8, groups=16),
        fine=fine,
        driver=lambda: GreenDriver(cuda, nvrtc or FakeNvrtc()),
    )


def test_nothing_is_asked_of_the_driver_before_a_lane_is_opened() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda)
    assert (device.units, device.grain, device.identity.unit) == (16, 8, "group of 8 SMs")
    device.place([8, 8])
    device.close()
    assert cuda.calls == []


def test_lanes_come_of_one_division_and_are_let_go_streams_first() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda)
    small, large = device.place([4, 12])
    assert small.apply().description == "32 SMs, green context"
    assert large.apply().description == "96 SMs, green context"
    assert large.apply().torch_device == "cuda:0"
    a_lane = ["cuDevResourceGenerateDesc", "cuGreenCtxCreate", "cuGreenCtxGetDevResource", "cuGreenCtxStreamCreate"]
    opening = ["cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuDeviceGetDevResource"]
    assert cuda.names == [*opening, "cuDevSmResourceSplitByCount", *a_lane, *a_lane]
    cuts = [arguments for name, arguments in cuda.calls if name == "cuDevSmResourceSplitByCount"]
    assert [(n, resource.smCount, flags, least) for n, resource, flags, least in cuts] == [
        (16, 132, 0, 8),
    ]
    dealt = [arguments[1] for name, arguments in cuda.calls if name == "cuDevResourceGenerateDesc"]
    assert dealt == [12, 4], "the largest first"
    cuda.calls.clear()
    small.release()
    assert cuda.calls == []  # contexts of one division go together
    large.release()
    large.release()
    device.close()
    device.close()
    # The thread that ends them may have no context of its own.
    current = ["cuCtxFromGreenCtx", "cuCtxPushCurrent", "cuStreamSynchronize", "cuStreamDestroy", "cuCtxPopCurrent"]
    end = current * 2 + ["cuGreenCtxDestroy"] * 2 + ["cuDevicePrimaryCtxRelease"]
    assert cuda.names == end
    assert cuda.alive == {}
    assert cuda.retained == 0


def test_where_the_driver_makes_no_context_of_several_groups_lanes_are_cut_by_a_chain() -> None:
    cuda = FakeCudaDriver(refuses_sets=True)
    device = green(cuda)
    assert self_test(device) == "disjoint: 96 of 96 SMs seen, 32 of 32 SMs seen"
    cuts = [arguments for name, arguments in cuda.calls if name == "cuDevSmResourceSplitByCount"]
    assert [(n, resource.smCount, flags, least) for n, resource, flags, least in cuts] == [
        (16, 132, 0, 8),
        (1, 132, 0, 96),
        (1, 36, 0, 32),  # the second cut is on what the first left
    ]
    assert cuda.alive == {}
    assert cuda.retained == 0


def test_shares_that_do_not_fit_together_are_not_proven_disjoint() -> None:
    device = green(FakeCudaDriver())
    with pytest.raises(UsageError, match="at most 16 units of 8 SMs"):
        device.prove([12, 5])


def test_further_streams_of_a_lane_are_of_its_own_context_and_let_go_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda address, device: (address, str(device)))
    cuda = FakeCudaDriver()
    device = green(cuda)
    small, large = device.place([4, 12])
    whole, _ = device.place([16, 16])
    small.apply()
    (address, where), context = small.another_stream(), small._group.open()[0].context
    assert cuda.alive[address] == ("stream", context)
    assert (where, small.stream != (address, where)) == ("cuda:0", True)
    assert whole.another_stream() is None, "a plain stream has every SM"
    small.release()
    large.release()
    assert {kind for kind, _ in cuda.alive.values()} == set()
    device.close()
    assert cuda.retained == 0


def test_a_lane_says_on_which_gpu_it_is_so_that_its_counters_can_be_read() -> None:
    device = GreenDevice(name="x", sms=132, capability="9.0", grain=Grain(sms=8, groups=16), uuid="GPU-1")
    assert device.place([4])[0].gpu_uuid == "GPU-1"


def test_closing_the_device_lets_go_of_lanes_that_are_still_open() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda)
    places = device.place([5, 5, 6])
    places[1].apply()
    device.close()
    assert cuda.alive == {}
    assert cuda.retained == 0
    with pytest.raises(DeviceError, match="released"):
        places[0].apply()


def test_fine_groups_ignore_co_scheduling() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda, fine=True)
    assert device.units == 66
    place, _ = device.place([5, 61])
    assert place.apply().description == "10 SMs, green context"
    assert [arguments[2] for name, arguments in cuda.calls if name == "cuDevSmResourceSplitByCount"] == [1]
    device.close()


def test_a_lane_with_the_whole_device_has_every_sm_and_no_green_context() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda)
    places = device.place([16, 16])
    assert [place.apply().description for place in places] == ["132 SMs, whole GPU, no green context"] * 2
    assert places[0].stream is None
    assert "cuGreenCtxCreate" not in cuda.names
    device.close()
    assert cuda.retained == 0


def test_lanes_that_exceed_the_device_are_cut_from_all_of_it_again() -> None:
    cuda = FakeCudaDriver()
    device = green(cuda)
    places = device.place([12, 12])
    assert [place.apply().units for place in places] == [12, 12]
    assert cuda.names.count("cuDeviceGetDevResource") == 2
    device.close()


def test_two_lanes_are_proven_disjoint_by_where_their_blocks_ran() -> None:
    cuda, nvrtc = FakeCudaDriver(), FakeNvrtc()
    device = green(cuda, nvrtc)
    assert self_test(device) == "disjoint: 96 of 96 SMs seen, 32 of 32 SMs seen"
    assert nvrtc.options == [b"--gpu-architecture=sm_90"]
    assert nvrtc.open == 0
    assert cuda.alive == {}
    assert cuda.retained == 0
    assert cuda.current == []


def test_groups_that_share_an_sm_fail_the_proof_and_are_let_go() -> None:
    cuda = FakeCudaDriver(overlapping=True)
    device = green(cuda)
    with pytest.raises(DeviceError, match="NOT disjoint"):
        self_test(device)
    assert cuda.alive == {}
    assert cuda.retained == 0


def test_only_lanes_smaller_than_the_device_can_be_proven_disjoint() -> None:
    device = green(FakeCudaDriver())
    with pytest.raises(UsageError, match="smaller than the device"):
        device.prove([16])


@pytest.mark.parametrize(
    ("call", "time"),
    [
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuDevSmResourceSplitByCount", 1),
        ("cuDevResourceGenerateDesc", 1),
        ("cuGreenCtxCreate", 2),
        ("cuGreenCtxGetDevResource", 1),
        ("cuGreenCtxStreamCreate", 2),
        ("cuModuleLoadData", 1),
        ("cuMemAlloc", 2),
        ("cuLaunchKernel", 1),
        ("cuStreamDestroy", 1),
    ],
)
def test_a_call_that_fails_is_named_and_the_rest_is_let_go(call: str, time: int) -> None:
    cuda = FakeCudaDriver(fails={call: time})
    device = green(cuda)
    with pytest.raises(DeviceError, match=rf"{call}.*CUDA_ERROR_OUT_OF_MEMORY"):
        self_test(device)
    # A stream that could not be destroyed keeps its context; nothing else stays.
    stays = {"stream", "green"} if call == "cuStreamDestroy" else set()
    assert {kind for kind, _ in cuda.alive.values()} == stays
    assert cuda.current == []


def test_an_old_driver_and_a_missing_one_say_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"12\.4 or later.*CUDA 12\.2.*MPS"):
        GreenDriver(FakeCudaDriver(version=12_020))

    class NoLibcuda:
        def cuInit(self, flags: int) -> None:  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(DeviceError, match="NVIDIA driver"):
        GreenDriver(NoLibcuda())


def test_a_kernel_that_does_not_compile_says_why() -> None:
    cuda, nvrtc = FakeCudaDriver(), FakeNvrtc(refuses=True)
    with pytest.raises(DeviceError, match="a reason"):
        self_test(green(cuda, nvrtc))
    assert nvrtc.open == 0
    assert cuda.alive == {}
