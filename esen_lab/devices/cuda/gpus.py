"""Which NVIDIA GPUs this machine has, without starting CUDA in this process.

A context in the notebook's process would be time-sliced against every lane, so nothing here makes one: the driver's
monitoring library (NVML) and a short child (`probe.py`) are asked. The child sees the GPUs as torch would in this
process's environment, in the same order; that is what "cuda:0" means. Both are matched by the GPU's UUID.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.children import child_environment
from esen_lab.common.packages import torch_versions
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.devices.cuda.mps_protocol import without_mps
from esen_lab.devices.cuda.nvml import NvmlFacts, nvml_facts

PROBE_S = 30.0
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: As torch counts in this process's environment: 0 is "cuda:0".
        name: The hardware's own name.
        uuid: "GPU-..."; "MIG-..." for a part of a GPU in MIG mode.
        sms: Its streaming multiprocessors.
        capability: Compute capability ("9.0").
        memory_bytes: All of its memory.
        mig: Whether it is in MIG mode, or a part of one that is.
        gpm: Whether SM activity can be read from it (GPM), or why not; None where nobody could ask.
        compute_mode: "default", "exclusive process", ...; "" where nobody could ask.
        processes: How many processes computed on it when it was looked for; None where nobody could ask.
        used_bytes: How much of its memory was in use then.
        grain: In which groups of SMs the driver divides it for green contexts; None where it does not say.
        fine_grain: The same without co-scheduling.
    """

    index: int
    name: str
    uuid: str
    sms: int
    capability: str
    memory_bytes: int
    mig: bool = False
    gpm: bool | str | None = None
    compute_mode: str = ""
    processes: int | None = None
    used_bytes: int | None = None
    grain: Grain | None = None
    fine_grain: Grain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The GPUs of this machine, as far as this process may see them.

    Attributes:
        gpus: In the order of torch.
        why_no_gpu: Why there are none; "" where there are.
        driver: The driver's version ("580.159"), or "".
        cuda_driver: The CUDA version that the driver speaks ("13.0"), or "".
        torch_cuda: The CUDA version that the installed torch was built for; "" for a build without CUDA, None where
            nobody knows.
    """

    gpus: tuple[Gpu, ...] = ()
    why_no_gpu: str = ""
    driver: str = ""
    cuda_driver: str = ""
    torch_cuda: str | None = None


def look_at_machine(
    *,
    nvml: Callable[[], NvmlFacts] = nvml_facts,
    probe: Callable[[], Mapping[str, Any]] | None = None,
    driver_file: Path = _DRIVER_FILE,
    torch_cuda: Callable[[], str | None] | None = None,
) -> Machine:
    """Look once. Costs a process of some tens of milliseconds where there is a driver, next to nothing elsewhere.

    Args:
        nvml: Asks NVML.
        probe: Asks the CUDA driver; None starts the child.
        driver_file: Where the driver's kernel module describes itself.
        torch_cuda: What torch was built for; None reads it from the installed package without importing it.
    """
    facts = nvml()
    driver = facts.driver or _driver_of(driver_file)
    built_for = (torch_cuda or _torch_cuda)()
    if not driver:
        why = "this machine has no NVIDIA driver" if sys.platform != "darwin" else "NVIDIA GPUs do not exist on macOS"
        return Machine(why_no_gpu=why, torch_cuda=built_for)
    found = (probe or _run_probe)()
    problem = str(found.get("problem", ""))
    gpus = tuple(_gpu(index, entry, facts) for index, entry in enumerate(found.get("gpus", ())))
    if not gpus and not problem:
        problem = "the driver shows no GPU to this process"
    if not gpus and (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        problem += f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    return Machine(
        gpus=gpus,
        why_no_gpu="" if gpus else problem,
        driver=driver,
        cuda_driver=str(found.get("cuda_driver", "")),
        torch_cuda=built_for,
    )


def torch_too_new(machine: Machine) -> str:
    """What this machine lacks for its PyTorch, in words; "" where nothing. Of one major version, any driver does."""
    built_for = (machine.torch_cuda or "").partition(".")[0]
    spoken = machine.cuda_driver.partition(".")[0]
    if not (built_for.isdigit() and spoken.isdigit()) or int(built_for) <= int(spoken):
        return ""
    return (
        f"a driver for CUDA {built_for}, which the installed PyTorch was built for, or a PyTorch for CUDA {spoken}; "
        f"this driver ({machine.driver}) speaks {machine.cuda_driver}"
    )


def _gpu(index: int, entry: Mapping[str, Any], facts: NvmlFacts) -> Gpu:
    more = facts.gpus.get(entry["uuid"], {})
    return Gpu(
        index=index,
        name=entry["name"],
        uuid=entry["uuid"],
        sms=entry["sms"],
        capability=entry["capability"],
        memory_bytes=entry["memory_bytes"],
        mig=bool(more.get("mig")) or entry["uuid"].startswith("MIG-"),
        gpm=more.get("gpm", facts.why_nothing or None),
        compute_mode=more.get("compute_mode", ""),
        processes=more.get("processes"),
        used_bytes=more.get("used_bytes"),
        grain=_grain(entry.get("grain")),
        fine_grain=_grain(entry.get("fine_grain")),
    )


def _grain(found: Sequence[int] | None) -> Grain | None:
    return None if found is None else Grain(sms=found[0], groups=found[1])


def _run_probe() -> Mapping[str, Any]:
    # Without whatever MPS this process was told of: a limit there would show in the number of SMs.
    environment = child_environment(without_mps(os.environ) | {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"})
    command = [sys.executable, "-P", "-m", "esen_lab.devices.cuda.probe"]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        answer: Mapping[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"problem": f"the CUDA driver did not answer within {PROBE_S:g} s"}
    except (OSError, ValueError) as problem:
        return {"problem": f"the CUDA driver could not be asked: {problem}"}
    return answer


def _driver_of(path: Path) -> str:
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", path.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1] if found else "unknown"


def _torch_cuda() -> str | None:
    found = re.search(r"^cuda\b[^=\n]*=\s*(None|'([^']*)'|\"([^\"]*)\")", torch_versions(), re.MULTILINE)
    return (found[2] or found[3] or "") if found else None
