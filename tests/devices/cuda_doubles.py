"""Test doubles: a driver, a `torch.cuda` and lanes under MPS that no GPU is behind. Lanes compute on the CPU."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from esen_lab.devices.cuda_mps import MpsPlacement
from esen_lab.devices.gpus import Gpu, Machine
from esen_lab.devices.mps_control import CONTROL, SERVER, MpsPrograms, find_programs

SCRIPTED = Path(__file__).with_name("scripted_mps_control.py")
UUID = "GPU-00000000-1111-2222-3333-444444444444"
GPU = Gpu(index=0, name="double of an H200", uuid=UUID, sms=132, capability="9.0", memory_bytes=10**9, gpm=True)
MACHINE = Machine(gpus=(GPU,), driver="580.159", cuda_driver="13.0", torch_cuda="13.0")


def scripted_programs(folder: Path, **script: object) -> MpsPrograms:
    """The scripted control program under the real one's name, beside a server program that is never run."""
    folder.mkdir(exist_ok=True)
    for name in (CONTROL, SERVER):
        text = SCRIPTED.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "script.json").write_text(json.dumps(script))
    return find_programs([folder])


class DoubleOfCuda:
    """The part of `torch.cuda` that a lane starts with. Starting it makes this process a client of the scripted daemon.

    Args:
        sms: What it reports.
        scripted: The folder of the scripted control program; None: it reaches no daemon, as in the silent fallback.
        started: Whether it was started before.
        breaks: What starting it raises.
        obeys: Whether it reports the SMs that its percentage leaves, in pairs.
    """

    def __init__(
        self, sms: int, scripted: Path | None = None, *, started: bool = False, breaks: str = "", obeys: bool = False
    ) -> None:
        self.sms = sms
        self.scripted = scripted
        self.started = started
        self.breaks = breaks
        self.obeys = obeys

    def is_initialized(self) -> bool:
        return self.started

    def init(self) -> None:
        if self.breaks:
            raise RuntimeError(self.breaks)
        self.started = True

    def synchronize(self) -> None:
        if self.scripted is not None:
            with (self.scripted / "connected").open("a") as connected:
                connected.write(f"{os.getpid()}\n")

    def get_device_properties(self, index: int) -> Any:
        assert index == 0
        share = int(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100")) if self.obeys else 100
        return SimpleNamespace(multi_processor_count=max(2, self.sms * share // 100 // 2 * 2))


@dataclass(frozen=True, kw_only=True)
class DoubleOfMpsPlacement(MpsPlacement):
    """A lane whose CUDA is a double that obeys its percentage, and whose sub-models run on the CPU."""

    def cuda(self) -> Any:
        return DoubleOfCuda(self.sms, self.programs.control.parent, obeys=True)

    @property
    def torch_device(self) -> str:
        return "cpu"


class DoubleOfLibcuda:
    """The part of the driver's C interface that `cuda_probe` calls, with one GPU."""

    def __init__(self, *, name: str = "double of an H200", refuses: int = 0) -> None:
        self.name = name
        self.refuses = refuses

    def cuInit(self, flags: int) -> int:  # noqa: N802  the driver's own names
        return self.refuses

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
        _set(text, ctypes.c_char_p(b"no CUDA-capable device is detected"))
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        _set(version, ctypes.c_int(13000))
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        _set(count, ctypes.c_int(1))
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        _set(device, ctypes.c_int(index))
        return 0

    def cuDeviceGetName(self, buffer: Any, size: int, device: Any) -> int:  # noqa: N802
        buffer.value = self.name.encode()[: size - 1]
        return 0

    def cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> int:  # noqa: N802
        for position in range(16):
            raw._obj[position] = position
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        _set(memory, ctypes.c_size_t(141 << 30))
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        _set(value, ctypes.c_int({16: 132, 75: 9, 76: 0}[number]))
        return 0


def _set(reference: Any, value: Any) -> None:
    reference._obj.value = value.value
