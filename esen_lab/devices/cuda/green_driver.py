"""The CUDA driver's calls for green contexts, through `cuda.bindings`; nothing else here imports that package.

Every call's status is checked and becomes a `DeviceError` that names the call. Handles are opaque to the callers.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from esen_lab.devices.cuda.cuda_errors import advice_on
from esen_lab.errors import DeviceError

# Each block notes the SM it runs on, and stays for a while so that the next ones must go elsewhere.
_WHERE = rb"""
extern "C" __global__ void where_am_i(unsigned int* seen, long long clocks) {
    unsigned int sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    long long began = clock64();
    while (clock64() - began < clocks) { }
    if (threadIdx.x == 0) { seen[blockIdx.x] = sm; }
}
"""
_STAY_CLOCKS = 200_000  # about 0.1 ms
_FIRST_CUDA = 12_040
_FINE = 1  # CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING; the enum's name differs between versions of the package
_INVALID_CONFIGURATION = 915  # CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION


class RefusedSetError(DeviceError):
    """The driver makes no such set of SMs: there may be another way to the same."""


class Way(Protocol):
    """Finds disjoint SMs for lanes."""

    def __call__(self, device: Any, sizes: Sequence[int], grain: int, *, fine: bool) -> list[list[Any]]:
        """Groups for each lane.

        Args:
            device: What `GreenDriver.device` gave.
            sizes: SMs per lane, multiples of the grain, together at most the device's.
            grain: SMs of the smallest group.
            fine: Whether co-scheduling is ignored.
        """


class GreenDriver:
    """One process's way to the CUDA driver.

    Args:
        cuda: `cuda.bindings.driver`; None imports it. Tests give a fake one.
        nvrtc: `cuda.bindings.nvrtc`, imported when a kernel is compiled; tests give a fake one.

    Raises:
        DeviceError: The package or the driver is missing, or the driver is too old.
    """

    def __init__(self, cuda: Any = None, nvrtc: Any = None) -> None:
        if cuda is None:
            try:
                from cuda.bindings import driver
            except ImportError as problem:
                raise DeviceError(
                    "Green contexts are reached through the package cuda-bindings",
                    given=str(problem),
                    hint="Install it: pip install cuda-bindings. A torch built for CUDA brings it along.",
                ) from problem
            cuda = driver
        self._cuda: Any = cuda
        self._nvrtc = nvrtc
        self._images: dict[str, bytes] = {}
        try:
            self._ask("cuInit", 0)
        except RuntimeError as problem:  # what cuda.bindings raises where there is no libcuda at all
            raise DeviceError(
                "Green contexts need the NVIDIA driver", given=str(problem), hint="Choose another device."
            ) from problem
        version = self._ask("cuDriverGetVersion")
        if int(version) < _FIRST_CUDA:
            raise DeviceError(
                "Green contexts need a driver for CUDA 12.4 or later",
                given=f"CUDA {int(version) // 1000}.{int(version) % 1000 // 10}",
                hint="Update the driver, or share the GPU by NVIDIA MPS.",
            )

    # --- the device ----------------------------------------------------------------------------------------------

    def device(self, index: int) -> Any:
        """The device that torch calls "cuda:index"; its primary context, which torch uses too, is held from now on."""
        device = self._ask("cuDeviceGet", index)
        # Held before the first green context and until after the last: making it anew each time is slow.
        self._ask("cuDevicePrimaryCtxRetain", device)
        return device

    def release(self, device: Any) -> None:
        """Let go of the primary context."""
        self._ask("cuDevicePrimaryCtxRelease", device)

    def count(self, resource: Any) -> int:
        """How many SMs a set has."""
        return int(resource.sm.smCount)

    @property
    def ways(self) -> tuple[Way, ...]:
        """How to find disjoint SMs, the best way first; later ones are for drivers that refuse earlier ones."""
        return (self._deal, self._chain)

    def _deal(self, device: Any, sizes: Sequence[int], grain: int, *, fine: bool) -> list[list[Any]]:
        """One division of the whole device into its smallest groups, dealt out: as documented, in any combination."""
        wanted = sum(sizes) // grain
        whole = self._whole(device)
        groups, number, _ = self._ask("cuDevSmResourceSplitByCount", wanted, whole, _FINE if fine else 0, grain)
        if int(number) < wanted:
            raise DeviceError(f"The driver cuts {wanted} groups of {grain} SMs", given=f"{int(number)} groups")
        left = iter([_of_size(group, self.count(group), grain) for group in groups])
        return [list(itertools.islice(left, size // grain)) for size in sizes]

    def _chain(self, device: Any, sizes: Sequence[int], grain: int, *, fine: bool) -> list[list[Any]]:  # noqa: ARG002
        """Each group cut from what the last one left over: documented as discouraged, and done by others."""
        rest, found = self._whole(device), []
        for size in sizes:
            groups, _, rest = self._ask("cuDevSmResourceSplitByCount", 1, rest, _FINE if fine else 0, size)
            found.append([_of_size(group, self.count(group), size) for group in groups[:1]])
        return found

    def _whole(self, device: Any) -> Any:
        return self._ask("cuDeviceGetDevResource", device, self._cuda.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM)

    # --- one lane ------------------------------------------------------------------------------------------------

    def context(self, groups: Sequence[Any], device: Any) -> Any:
        """A green context that has just the SMs of these groups.

        Raises:
            RefusedSetError: The driver makes none of such a set of groups.
            DeviceError: It makes none for another reason.
        """
        description = self._ask("cuDevResourceGenerateDesc", list(groups), len(groups))
        flags = self._cuda.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        return self._ask("cuGreenCtxCreate", description, device, int(flags))

    def sms_of(self, context: Any) -> int:
        """How many SMs a green context really has."""
        kind = self._cuda.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
        return self.count(self._ask("cuGreenCtxGetDevResource", context, kind))

    def stream(self, context: Any) -> Any:
        """A stream in a green context; `address` of it is what torch takes."""
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self._ask("cuGreenCtxStreamCreate", context, int(flags), 0)

    def address(self, stream: Any) -> int:
        """What torch takes a stream as."""
        return int(stream)

    def drop_stream(self, stream: Any, context: Any) -> None:
        """Wait for a stream of a green context and destroy it, from whatever thread."""
        with self._current(context):  # the thread that closes a device may have no context of its own
            try:
                self._ask("cuStreamSynchronize", stream)
            finally:
                self._ask("cuStreamDestroy", stream)

    def drop_context(self, context: Any) -> None:
        """Destroy a green context whose streams are gone."""
        self._ask("cuGreenCtxDestroy", context)

    # --- the proof -----------------------------------------------------------------------------------------------

    def seen_sms(self, context: Any, stream: Any, capability: str, blocks: int) -> frozenset[int]:
        """Run a small kernel and return the numbers of the SMs that its blocks ran on (register %smid)."""
        image = self._compiled(capability)
        with self._current(context):
            module = self._ask("cuModuleLoadData", image)
            try:
                kernel = self._ask("cuModuleGetFunction", module, b"where_am_i")
                memory = self._ask("cuMemAlloc", 4 * blocks)
                try:
                    arguments = ((int(memory), _STAY_CLOCKS), (ctypes.c_void_p, ctypes.c_longlong))
                    self._ask("cuLaunchKernel", kernel, blocks, 1, 1, 32, 1, 1, 0, stream, arguments, 0)
                    self._ask("cuStreamSynchronize", stream)
                    seen = (ctypes.c_uint32 * blocks)()
                    self._ask("cuMemcpyDtoH", ctypes.addressof(seen), memory, 4 * blocks)
                finally:
                    self._ask("cuMemFree", memory)
            finally:
                self._ask("cuModuleUnload", module)
        return frozenset(seen)

    @contextmanager
    def _current(self, context: Any) -> Iterator[None]:
        self._ask("cuCtxPushCurrent", self._ask("cuCtxFromGreenCtx", context))
        try:
            yield
        finally:
            self._ask("cuCtxPopCurrent")

    def _compiled(self, capability: str) -> bytes:
        if capability not in self._images:
            self._images[capability] = self._compile(f"sm_{capability.replace('.', '')}")
        return self._images[capability]

    def _compile(self, architecture: str) -> bytes:
        if self._nvrtc is None:
            from cuda.bindings import nvrtc

            self._nvrtc = nvrtc
        rtc = self._nvrtc
        try:
            program = self._ask_compiler("nvrtcCreateProgram", _WHERE, b"where_am_i.cu", 0, [], [])
        except RuntimeError as problem:  # cuda.bindings found no libnvrtc
            raise DeviceError(
                "Disjoint SMs are proven by a kernel that is compiled at run time, which needs NVRTC",
                given=str(problem),
                hint="Install it: pip install nvidia-cuda-nvrtc. A torch built for CUDA brings it along.",
            ) from problem
        try:
            options = [f"--gpu-architecture={architecture}".encode()]
            status = rtc.nvrtcCompileProgram(program, len(options), options)[0]
            if int(status) != 0:
                log = b" " * int(self._ask_compiler("nvrtcGetProgramLogSize", program))
                self._ask_compiler("nvrtcGetProgramLog", program, log)
                raise DeviceError("The kernel that reads SM numbers compiles", given=log.decode(errors="replace"))
            # Machine code and not PTX: a driver older than NVRTC would refuse PTX of a later version.
            image = b" " * int(self._ask_compiler("nvrtcGetCUBINSize", program))
            self._ask_compiler("nvrtcGetCUBIN", program, image)
            return image
        finally:
            self._ask_compiler("nvrtcDestroyProgram", program)

    def _ask_compiler(self, call: str, *arguments: Any) -> Any:
        return _checked(call, getattr(self._nvrtc, call)(*arguments))

    def _ask(self, call: str, *arguments: Any) -> Any:
        function = getattr(self._cuda, call, None)
        if function is None:
            raise DeviceError(
                f"The installed cuda-bindings know {call}",
                given="they do not",
                hint="Install cuda-bindings 12.4 or later.",
            )
        return _checked(call, function(*arguments))


def _checked(call: str, answer: tuple[Any, ...]) -> Any:
    """What a call returned beside its status: nothing, one value, or several."""
    status, *values = answer
    if int(status) != 0:
        refusal = RefusedSetError if int(status) == _INVALID_CONFIGURATION else DeviceError
        raise refusal(f"The CUDA call {call} succeeds", given=_name_of(status), hint=advice_on(int(status)))
    return values[0] if len(values) == 1 else tuple(values) or None


def _of_size(group: Any, sms: int, wanted: int) -> Any:
    if sms != wanted:
        raise DeviceError(
            f"The driver cuts a group of {wanted} SMs",
            given=f"one of {sms}",
            hint="The grain of this GPU is another one: please report its name and driver.",
        )
    return group


def _name_of(status: Any) -> str:
    name = getattr(status, "name", None)
    return f"status {int(status)}" if name is None else f"{name} ({int(status)})"
