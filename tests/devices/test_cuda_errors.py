"""What people are told to do when CUDA, MPS or the driver refuses: by the words and numbers that these say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cuda_doubles import GPU, MACHINE
from fake_cuda_driver import FakeCudaDriver, FakeNvrtc

from esen_lab.devices.cuda import green, mps
from esen_lab.devices.cuda.cuda_errors import RESTART, advice
from esen_lab.devices.cuda.green_driver import GreenDriver
from esen_lab.errors import DeviceError


@pytest.mark.parametrize(
    ("said", "what_to_do"),
    [
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12080).", "Update the driver"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB", "nvidia-smi lists them"),
        (
            "AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "compute mode is exclusive",
        ),
        ("RuntimeError: No CUDA GPUs are available: no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        ("RuntimeError: Error 802: system not yet initialized", "fabric manager"),
        ("CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server", "cuda:0 mps adopt"),
        ("CUDA error: the MPS server is not ready to accept new MPS client requests", "A client's fault"),
    ],
)
def test_a_lane_in_which_cuda_does_not_start_says_what_to_do_about_that(said: str, what_to_do: str) -> None:
    assert what_to_do in advice(said)


@pytest.mark.parametrize("mode", [mps, green])
def test_a_pytorch_for_a_later_cuda_than_the_driver_speaks_is_missing_something(mode: object) -> None:
    def lacks(torch_cuda: str | None, cuda_driver: str) -> list[str]:
        machine = replace(MACHINE, driver="570.86", torch_cuda=torch_cuda, cuda_driver=cuda_driver)
        return [part for part in mode.missing(machine, GPU) if "PyTorch" in part]  # type: ignore[attr-defined]

    (told,) = lacks("13.0", "12.8")
    assert told.startswith("a driver for CUDA 13, which the installed PyTorch was built for, or a PyTorch for CUDA 12")
    assert "this driver (570.86) speaks 12.8" in told
    assert lacks("12.9", "12.4") == [], "drivers of one major version take all its minor ones"
    assert lacks("12.8", "13.0") == []
    assert lacks(None, "12.8") == []


@pytest.mark.parametrize(("status", "what_to_do"), [(700, RESTART), (719, RESTART), (2, "nvidia-smi lists them")])
def test_a_call_of_the_driver_that_fails_says_what_to_do_about_its_error(status: int, what_to_do: str) -> None:
    cuda = FakeCudaDriver()
    driver = GreenDriver(cuda, FakeNvrtc())
    cuda.__dict__["cuDeviceGet"] = lambda index: (status, None)
    with pytest.raises(DeviceError, match="cuDeviceGet succeeds") as caught:
        driver.device(0)
    assert what_to_do in str(caught.value)
