"""Looking for GPUs: NVML, the driver's C interface and the files of the driver are doubles here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_doubles import DoubleOfLibcuda

from esen_lab.devices.cuda import probe as cuda_probe
from esen_lab.devices.cuda.gpus import look_at_machine
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.devices.cuda.nvml import NvmlFacts, nvml_facts

UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


def no_nvml() -> NvmlFacts:
    return NvmlFacts(why_nothing="NVML Shared Library Not Found")


def look(tmp_path: Path, **known: Any) -> Any:
    known = {"nvml": no_nvml, "driver_file": tmp_path / "version", "torch_cuda": lambda: "13.0", **known}
    return look_at_machine(**known)


def test_a_machine_without_a_driver_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("no child is needed")

    machine = look(tmp_path, probe=never)
    assert machine.gpus == ()
    assert machine.why_no_gpu == "this machine has no NVIDIA driver"


def test_the_driver_is_asked_through_its_c_interface() -> None:
    found = cuda_probe.probe(DoubleOfLibcuda())
    assert found == {
        "cuda_driver": "13.0",
        "gpus": [
            {
                "name": "double of an H200",
                "uuid": UUID,
                "sms": 132,
                "capability": "9.0",
                "memory_bytes": 141 << 30,
                "grain": [8, 16],
                "fine_grain": [2, 66],
            }
        ],
    }


def test_the_grain_of_green_contexts_is_asked_of_the_driver_with_a_context_where_it_wants_one(tmp_path: Path) -> None:
    cuda = DoubleOfLibcuda(needs_context=True)
    found = cuda_probe.probe(cuda)
    assert (found["gpus"][0]["grain"], cuda.contexts) == ([8, 16], 0)
    (gpu,) = look(tmp_path, nvml=lambda: NvmlFacts(driver="580"), probe=lambda: found).gpus
    assert gpu.grain == Grain(sms=8, groups=16)
    assert gpu.fine_grain == Grain(sms=2, groups=66)


def test_an_old_driver_that_knows_no_green_contexts_says_no_grain(tmp_path: Path) -> None:
    class Old(DoubleOfLibcuda):
        cuDeviceGetDevResource = None  # noqa: N815

    (gpu,) = look(tmp_path, nvml=lambda: NvmlFacts(driver="530"), probe=lambda: cuda_probe.probe(Old())).gpus
    assert gpu.grain is None


def test_a_part_of_a_gpu_is_known_by_its_name(tmp_path: Path) -> None:
    machine = look(
        tmp_path,
        nvml=lambda: NvmlFacts(driver="580.159"),
        probe=lambda: cuda_probe.probe(DoubleOfLibcuda(name="NVIDIA H200 MIG 1g.18gb")),
    )
    assert machine.gpus[0].mig
    assert machine.gpus[0].uuid.startswith("MIG-")


def test_what_the_driver_refuses_is_said_in_its_words() -> None:
    with pytest.raises(cuda_probe._Refused, match=r"cuInit: no CUDA-capable device is detected \(CUDA error 100\)"):
        cuda_probe.probe(DoubleOfLibcuda(refuses=100))


def test_the_child_says_that_there_is_no_driver_library(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        import ctypes

        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert cuda_probe.main() == 0
        assert "cannot be loaded" in capfd.readouterr().out
    else:
        pytest.skip("this machine has a driver")


def test_nvml_and_the_driver_are_matched_by_uuid(tmp_path: Path) -> None:
    facts = NvmlFacts(
        driver="580.159",
        gpus={"GPU-other": {"gpm": "no"}, UUID: {"mig": True, "gpm": True, "compute_mode": "default"}},
    )
    machine = look(tmp_path, nvml=lambda: facts, probe=lambda: cuda_probe.probe(DoubleOfLibcuda()))
    (gpu,) = machine.gpus
    assert (gpu.index, gpu.sms, gpu.mig, gpu.gpm, gpu.compute_mode) == (0, 132, True, True, "default")
    assert (machine.driver, machine.cuda_driver, machine.torch_cuda) == ("580.159", "13.0", "13.0")


def test_without_nvml_the_drivers_own_file_names_its_version(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.03  Tue\nGCC 13\n")
    machine = look(tmp_path, probe=lambda: cuda_probe.probe(DoubleOfLibcuda()))
    assert machine.driver == "580.159.03"
    assert machine.gpus[0].gpm == "NVML Shared Library Not Found"


def test_hidden_gpus_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = look(tmp_path, nvml=lambda: NvmlFacts(driver="580"), probe=lambda: {"cuda_driver": "13.0", "gpus": []})
    assert machine.why_no_gpu == "the driver shows no GPU to this process (CUDA_VISIBLE_DEVICES is '')"


def test_what_torch_was_built_for_is_read_without_importing_it(tmp_path: Path) -> None:
    import torch

    machine = look_at_machine(nvml=no_nvml, driver_file=tmp_path / "version")
    assert machine.torch_cuda == (torch.version.cuda or "")


class NvmlError(Exception):
    pass


class FactsOnlyNvml:
    """A double of `pynvml` for what is asked once."""

    NVMLError = NvmlError

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def answer(*args: Any) -> Any:
            self.calls.append(name)
            if name == "nvmlDeviceGetMigMode":
                raise NvmlError("Not Supported")
            return {
                "nvmlDeviceGetCount": 1,
                "nvmlDeviceGetHandleByIndex": "gpu0",
                "nvmlSystemGetDriverVersion": b"580.159",
                "nvmlDeviceGetUUID": UUID,
                "nvmlDeviceGetComputeMode": 3,
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=20 * 10**9),
                "nvmlDeviceGetComputeRunningProcesses": ["somebody's", "another's"],
                "nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=0),
            }.get(name)

        return answer


def test_nvml_is_asked_once_and_let_go() -> None:
    nvml = FactsOnlyNvml()
    facts = nvml_facts(nvml)
    assert facts.driver == "580.159"
    assert facts.gpus[UUID] == {
        "gpm": "this GPU has no GPM (Hopper and newer have)",
        "compute_mode": "exclusive process",
        "processes": 2,
        "used_bytes": 20 * 10**9,
    }
    assert nvml.calls[-1] == "nvmlShutdown"
