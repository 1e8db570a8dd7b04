"""Test doubles: a driver, a `torch.cuda` and lanes under MPS that no GPU is behind. Lanes compute on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esen_lab.devices.cuda.gpus import Gpu, Machine
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.devices.cuda.mps import MpsPlacement
from esen_lab.devices.cuda.mps_control import CONTROL, SERVER, MpsPrograms, find_programs

SCRIPTED = Path(__file__).with_name("scripted_mps_control.py")
UUID = "GPU-00000000-1111-2222-3333-444444444444"
GPU = Gpu(
    index=0,
    name="double of an H200",
    uuid=UUID,
    sms=132,
    capability="9.0",
    memory_bytes=10**9,
    gpm=True,
    grain=Grain(sms=8, groups=16),
    fine_grain=Grain(sms=2, groups=66),
)
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


class StreamDouble:
    def __init__(self, cuda: CudaDouble) -> None:
        self.cuda = cuda

    def synchronize(self) -> None:
        self.cuda.said.append("wait")
        if self.cuda.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def query(self) -> bool:
        if self.cuda.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return not self.cuda.hangs

    def wait_event(self, event: Any) -> None:
        self.cuda.said.append("wait for event")


class EventDouble:
    def __init__(self) -> None:
        self.at = 0.0

    def ipc_handle(self) -> bytes:
        return b"event"

    @classmethod
    def from_ipc_handle(cls, device: Any, handle: bytes) -> EventDouble:
        assert handle == b"event"
        return cls()

    def record(self, stream: StreamDouble) -> None:
        stream.cuda.said.append("mark")
        self.at = time.perf_counter()

    def elapsed_time(self, other: EventDouble) -> float:
        return (other.at - self.at) * 1000


class _Event:
    """`torch.cuda.Event` is called, and has a class method."""

    from_ipc_handle = EventDouble.from_ipc_handle

    def __call__(self, enable_timing: bool = False, interprocess: bool = False, external: bool = False) -> EventDouble:
        assert not (enable_timing and interprocess), "an event for another process has no timing"
        return EventDouble()


def _take(pid: int, fd: int, size: int, dtype: torch.dtype, shape: tuple[int, ...], stride: Any) -> torch.Tensor:
    own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    storage = torch.UntypedStorage._new_shared_fd_cpu(own, size)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, stride)


class CudaDouble:
    """The part of `torch.cuda` that `Compute` uses. Keeps what happened in `said`, and what is pinned."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pinned: dict[int, int] = {}
        self.refuses_to_pin = False
        self.refuses_ipc = False
        self.scripted_folder: Path | None = None
        self.broken = False
        self.hangs = False
        self.held = 1000

    def Stream(self, device: Any = None) -> StreamDouble:  # noqa: N802  torch's own names
        return StreamDouble(self)

    @contextlib.contextmanager
    def stream(self, stream: StreamDouble) -> Iterator[None]:
        self.said.append("enter")
        yield
        self.said.append("leave")

    Event = _Event()

    def export(self, tensor: torch.Tensor) -> Any:
        """A tensor of the CPU for another process: its memory is made shared, and found through this process."""
        if self.refuses_ipc or (self.scripted_folder is not None and (self.scripted_folder / "no_ipc").exists()):
            raise RuntimeError("CUDA error: operation not supported")
        tensor.share_memory_()
        fd, size = tensor.untyped_storage()._share_fd_cpu_()
        return _take, (os.getpid(), fd, size, tensor.dtype, tuple(tensor.shape), tensor.stride())

    def synchronize(self, device: Any = None) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def get_rng_state(self, device: Any) -> torch.Tensor:
        return torch.get_rng_state()  # where lanes compute there are no generators but the CPU's

    def set_rng_state(self, state: torch.Tensor, device: Any) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, number: int) -> None:
        torch.default_generator.manual_seed(number)

    def memory_allocated(self, device: Any) -> int:
        return self.held

    def max_memory_allocated(self, device: Any) -> int:
        return self.held + 500

    def reset_peak_memory_stats(self, device: Any) -> None:
        self.said.append("new peak")

    def empty_cache(self) -> None:
        self.said.append("give back")

    def cudart(self) -> Any:
        def register(address: int, size: int, flags: int) -> int:
            assert flags == 1
            assert address not in self.pinned
            if self.refuses_to_pin:
                return 801
            self.pinned[address] = size
            return 0

        def unregister(address: int) -> int:
            del self.pinned[address]
            return 0

        return SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=unregister)


class RecordedGraph:
    """Stands for a CUDA graph: replaying does all recorded steps again and writes to the same tensors."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.breaks = ""

    def replay(self) -> None:
        if self.breaks:
            raise RuntimeError(self.breaks)
        self.replays += 1
        for step, args, kwargs, before in self.steps:
            again = step(*args, **kwargs)
            if isinstance(before, torch.Tensor) and again is not before:
                before.copy_(again)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func in (aten._local_scalar_dense.default, aten.item.default, aten.equal.default):  # they look at values
            raise RuntimeError("operation not permitted when stream is capturing")
        made = func(*args, **(kwargs or {}))
        self.graph.steps.append((func, args, kwargs or {}, made))
        return made


class GraphingCuda(CudaDouble):
    """A double of `torch.cuda` that captures: what is done inside `graph` is recorded, with the tensors it made."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[RecordedGraph] = []

    def CUDAGraph(self) -> RecordedGraph:  # noqa: N802  torch's own name
        made = RecordedGraph()
        self.graphs.append(made)
        return made

    def current_stream(self) -> StreamDouble:
        return StreamDouble(self)

    @contextlib.contextmanager
    def graph(self, graph: RecordedGraph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert isinstance(stream, StreamDouble)
        try:
            with _Recorder(graph):
                yield
        except BaseException:  # as torch's own does, see tests/lanes/test_capturing.py
            raise RuntimeError("operation failed due to a previous error during capture") from None


class DoubleOfCuda(CudaDouble):
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
        self.scripted = scripted
        super().__init__()
        self.scripted_folder = scripted
        self.sms = sms
        self.started = started
        self.breaks = breaks
        self.obeys = obeys

    def is_initialized(self) -> bool:
        return self.started

    def init(self) -> None:
        if self.breaks:
            raise RuntimeError(self.breaks)
        self.started = True

    def synchronize(self, device: Any = None) -> None:
        super().synchronize(device)
        if self.scripted is not None and str(os.getpid()) not in self._connected():
            with (self.scripted / "connected").open("a") as connected:
                connected.write(f"{os.getpid()}\n")

    def _connected(self) -> list[str]:
        path = (self.scripted or Path()) / "connected"
        return path.read_text().split() if path.exists() else []

    @property
    def broken(self) -> bool:
        """A fault of the GPU, for as long as a file says so; it stays with the process."""
        if self.scripted is not None and (self.scripted / "faulty").exists():
            self._broken = True
        return self._broken

    @broken.setter
    def broken(self, value: bool) -> None:
        self._broken = value

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
        return "cpu:0"  # the CPU, but under a name that takes the way of GPUs


@dataclass(frozen=True, kw_only=True)
class DoubleOutsideMps(DoubleOfMpsPlacement):
    """The silent fallback: CUDA starts, but reaches no daemon."""

    def cuda(self) -> Any:
        return DoubleOfCuda(self.sms)


class DoubleOfLibcuda:
    """The part of the driver's C interface that `cuda_probe` calls, with one GPU."""

    def __init__(self, *, name: str = "double of an H200", refuses: int = 0, needs_context: bool = False) -> None:
        self.needs_context = needs_context
        self.contexts = 0
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

    def cuDeviceGetDevResource(self, device: Any, resource: Any, kind: int) -> int:  # noqa: N802
        assert kind == 1
        if self.needs_context and not self.contexts:
            return 201
        resource._obj[96] = 132
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        self.contexts += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def cuDevSmResourceSplitByCount(  # noqa: N802
        self, result: Any, groups: Any, whole: Any, rest: Any, flags: int, least: int
    ) -> int:
        size = -(-least // (2 if flags else 8)) * (2 if flags else 8)
        if result is None:
            _set(groups, ctypes.c_uint(whole._obj[96] // size))
        else:
            result._obj[96] = size
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        _set(value, ctypes.c_int({16: 132, 75: 9, 76: 0}[number]))
        return 0


def _set(reference: Any, value: Any) -> None:
    reference._obj.value = value.value
