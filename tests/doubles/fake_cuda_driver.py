# ruff: noqa: N802  the methods are called as the driver's are
"""A fake of `cuda.bindings.driver` and `.nvrtc`, for machines without a GPU: a test double, no simulation of speed.

It keeps sets of SM numbers, notes every call, refuses what the real driver refuses (a group that is not a multiple of
the grain, a destroyed handle, a wrong order of releases), and fails on request.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from typing import Any


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NOT_SUPPORTED = 801
    CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION = 915


class Attributes(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class ResourceType(enum.IntEnum):
    CU_DEV_RESOURCE_TYPE_SM = 1


class GreenFlags(enum.IntEnum):
    CU_GREEN_CTX_DEFAULT_STREAM = 1


class StreamFlags(enum.IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class Sms:
    """A resource: `.sm.smCount`, and in this fake which SMs they are and which division they come from."""

    def __init__(self, numbers: tuple[int, ...], division: int = 0) -> None:
        self.numbers = numbers
        self.division = division
        self.sm = self
        self.smCount = len(numbers)  # the driver's own name


class FakeCudaDriver:
    """Stands where the module `cuda.bindings.driver` would.

    Args:
        sms: SMs of the device.
        version: What `cuDriverGetVersion` says.
        overlapping: Lets groups share an SM, as a broken split would.
        refuses_sets: Makes no context of several groups, but cuts again what a cut left over.
        fails: {call: which time (from 1)} that is answered with CUDA_ERROR_OUT_OF_MEMORY.
    """

    CUresult = Result
    CUdevice_attribute = Attributes
    CUdevResourceType = ResourceType
    CUgreenCtxCreate_flags = GreenFlags
    CUstream_flags = StreamFlags

    def __init__(
        self,
        sms: int = 132,
        *,
        version: int = 13_000,
        overlapping: bool = False,
        refuses_sets: bool = False,
        fails: dict[str, int] | None = None,
    ) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.alive: dict[int, tuple[str, Any]] = {}
        self.current: list[int] = []
        self.retained = 0
        self._sms = sms
        self._version = version
        self._overlapping = overlapping
        self._refuses_sets = refuses_sets
        self._divisions = 0
        self._fails = dict(fails or {})
        self._next = 100

    @property
    def names(self) -> list[str]:
        """The calls so far, by name."""
        return [name for name, _ in self.calls]

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        method = getattr(type(self), f"_{name}", None)
        if method is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if self._fails.get(name) == self.names.count(name):
                return (Result.CUDA_ERROR_OUT_OF_MEMORY, *([None] * 3))[:2]
            try:
                answer = method(self, *arguments)
            except _Refused as refused:
                return (refused.status, None)
            return (Result.CUDA_SUCCESS, *(answer if isinstance(answer, tuple) else (answer,) * (answer is not None)))

        return call

    def _new(self, kind: str, what: Any = None) -> int:
        self._next += 1
        self.alive[self._next] = (kind, what)
        return self._next

    def _get(self, kind: str, handle: int) -> Any:
        found = self.alive.get(handle)
        if found is None or found[0] != kind:
            raise _Refused(Result.CUDA_ERROR_INVALID_VALUE)
        return found[1]

    def _end(self, kind: str, handle: int) -> None:
        self._get(kind, handle)
        del self.alive[handle]

    def _cuInit(self, flags: int) -> None:
        assert flags == 0

    def _cuDriverGetVersion(self) -> int:
        return self._version

    def _cuDeviceGet(self, index: int) -> Any:
        return (("device", index),)  # type: ignore[return-value]

    def _cuDevicePrimaryCtxRetain(self, device: Any) -> Any:
        self.retained += 1
        return ("primary",)

    def _cuDevicePrimaryCtxRelease(self, device: Any) -> None:
        if any(kind == "green" for kind, _ in self.alive.values()):
            raise _Refused(Result.CUDA_ERROR_INVALID_CONTEXT)  # stricter than the real one: our order is a promise
        self.retained -= 1

    def _cuDeviceGetAttribute(self, which: int, device: Any) -> int:
        return 9 if which == Attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR else 0

    def _cuDeviceGetDevResource(self, device: Any, kind: int) -> Any:
        assert kind == ResourceType.CU_DEV_RESOURCE_TYPE_SM
        assert self.retained
        return Sms(tuple(range(self._sms)))

    def _cuDevSmResourceSplitByCount(self, groups: int, resource: Sms, flags: int, least: int) -> Any:
        assert isinstance(flags, int)
        if resource.division and not self._refuses_sets:
            raise _Refused(Result.CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)
        grain = 2 if flags else 8
        size = -(-least // grain) * grain  # the driver rounds up
        if size > resource.smCount:
            raise _Refused(Result.CUDA_ERROR_INVALID_VALUE)
        self._divisions += 1
        made = min(groups, resource.smCount // size)
        at = [0 if self._overlapping else n * size for n in range(made)]
        cut = [Sms(resource.numbers[a : a + size], self._divisions) for a in at]
        return cut, made, Sms(resource.numbers[made * size :], self._divisions)

    def _cuDevResourceGenerateDesc(self, resources: list[Sms], number: int) -> Any:
        assert len(resources) == number
        if number > 1 and (self._refuses_sets or len({resource.division for resource in resources}) > 1):
            raise _Refused(Result.CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)
        return (("description", Sms(tuple(n for resource in resources for n in resource.numbers))),)

    def _cuGreenCtxCreate(self, description: Any, device: Any, flags: int) -> int:
        assert flags == GreenFlags.CU_GREEN_CTX_DEFAULT_STREAM
        assert self.retained
        return self._new("green", description[1])

    def _cuGreenCtxGetDevResource(self, context: int, kind: int) -> Any:
        return self._get("green", context)

    def _cuGreenCtxStreamCreate(self, context: int, flags: int, priority: int) -> int:
        assert flags == StreamFlags.CU_STREAM_NON_BLOCKING
        self._get("green", context)
        return self._new("stream", context)

    def _needs_current(self) -> None:
        if not self.current:  # the thread that asks has no context
            raise _Refused(Result.CUDA_ERROR_INVALID_CONTEXT)

    def _cuStreamSynchronize(self, stream: int) -> None:
        self._needs_current()
        self._get("stream", stream)

    def _cuStreamDestroy(self, stream: int) -> None:
        self._needs_current()
        self._end("stream", stream)

    def _cuGreenCtxDestroy(self, context: int) -> None:
        if any(found == ("stream", context) for found in self.alive.values()):
            raise _Refused(Result.CUDA_ERROR_INVALID_CONTEXT)
        self._end("green", context)

    def _cuCtxFromGreenCtx(self, context: int) -> int:
        self._get("green", context)
        return context

    def _cuCtxPushCurrent(self, context: int) -> None:
        self.current.append(context)

    def _cuCtxPopCurrent(self) -> int:
        return self.current.pop()

    def _cuModuleLoadData(self, image: bytes) -> int:
        assert self.current
        assert image.startswith(b"ELF of tests")
        return self._new("module")

    def _cuModuleGetFunction(self, module: int, name: bytes) -> int:
        self._get("module", module)
        assert name == b"where_am_i"
        return module

    def _cuModuleUnload(self, module: int) -> None:
        self._end("module", module)

    def _cuMemAlloc(self, size: int) -> int:
        self._needs_current()
        return self._new("memory", bytearray(size))

    def _cuMemFree(self, memory: int) -> None:
        self._end("memory", memory)

    def _cuLaunchKernel(self, kernel: int, *arguments: Any) -> None:
        *_, stream, given, extra = arguments
        (memory, clocks), kinds = given
        assert kinds == (ctypes.c_void_p, ctypes.c_longlong)
        assert clocks > 0
        assert extra == 0
        context = self._get("stream", stream)
        assert self.current[-1] == context  # the module was loaded there
        numbers = self._get("green", context).numbers
        block = (ctypes.c_uint32 * arguments[0])(*(numbers[i % len(numbers)] for i in range(arguments[0])))
        self._get("memory", memory)[:] = bytes(block)

    def _cuMemcpyDtoH(self, target: int, memory: int, size: int) -> None:
        ctypes.memmove(target, bytes(self._get("memory", memory)), size)


class _Refused(Exception):  # noqa: N818  an answer, not a fault
    def __init__(self, status: Result) -> None:
        super().__init__(status)
        self.status = status


class FakeNvrtc:
    """Stands where the module `cuda.bindings.nvrtc` would: compiles nothing, notes the options."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.options: list[bytes] = []
        self.open = 0
        self._refuses = refuses

    def nvrtcCreateProgram(self, source: bytes, name: bytes, count: int, headers: list[Any], names: list[Any]) -> Any:
        assert b"%%smid" in source
        self.open += 1
        return (0, "program")

    def nvrtcCompileProgram(self, program: str, count: int, options: list[bytes]) -> Any:
        assert count == len(options)
        self.options += options
        return (6 if self._refuses else 0,)

    def nvrtcGetProgramLogSize(self, program: str) -> Any:
        return (0, 8)

    def nvrtcGetProgramLog(self, program: str, log: bytes) -> Any:
        ctypes.memmove(log, b"a reason", 8)
        return (0,)

    def nvrtcGetCUBINSize(self, program: str) -> Any:
        return (0, 12)

    def nvrtcGetCUBIN(self, program: str, image: bytes) -> Any:
        ctypes.memmove(image, b"ELF of tests\0", 12)
        return (0,)

    def nvrtcDestroyProgram(self, program: str) -> Any:
        self.open -= 1
        return (0,)
