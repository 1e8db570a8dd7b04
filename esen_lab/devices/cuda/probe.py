"""Asks the CUDA driver which GPUs a process of this environment would see.

A program of its own, so that the one who asks starts no CUDA: `python -m esen_lab.devices.cuda.probe` prints one JSON
object and ends. Only calls that need no context are made where the driver can answer so, through the driver's C
interface (`libcuda`): neither torch nor memory of the GPU is needed. Attributes are numbered as `CUdevice_attribute` in
`cuda.h`.

    {"cuda_driver": "13.0", "gpus": [{"name", "uuid", "sms", "capability", "memory_bytes", "grain", "fine_grain"}]}
    {"problem": "..."}

"grain" is the fewest SMs of a green context and how many such groups there are, [8, 16]; "fine_grain" the same without
co-scheduling. They are absent where the driver does not say (before CUDA 12.4).
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_SMS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_OF_SMS = 1  # CU_DEV_RESOURCE_TYPE_SM
_FINE = 1  # CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING
# CUdevResource has 144 bytes, the number of SMs behind the first 96; more room than it needs costs nothing.
_RESOURCE_BYTES, _COUNT_AT = 1024, 96


class _Refused(Exception):  # noqa: N818  the driver's answer, never seen outside
    """The driver answered a call with an error."""


def main() -> int:
    """Print what is there."""
    try:
        found = probe(ctypes.CDLL("libcuda.so.1"))
    except OSError as problem:
        found = {"problem": f"the CUDA driver library cannot be loaded: {problem}"}
    except _Refused as problem:
        found = {"problem": str(problem)}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def probe(cuda: Any) -> dict[str, Any]:
    """What `libcuda` says.

    Args:
        cuda: The loaded library, or a double of it in tests.
    """
    _check(cuda, cuda.cuInit(0), "cuInit")
    version, count = ctypes.c_int(), ctypes.c_int()
    _check(cuda, cuda.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    return {
        "cuda_driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "gpus": [_gpu(cuda, index) for index in range(count.value)],
    }


def _gpu(cuda: Any, index: int) -> dict[str, Any]:
    device = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _check(cuda, cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    label = name.value.decode(errors="replace")
    raw = (ctypes.c_ubyte * 16)()
    # The second version gives a MIG instance its own identity instead of its GPU's.
    ask = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    _check(cuda, ask(ctypes.byref(raw), device), "cuDeviceGetUuid")
    memory = ctypes.c_size_t()
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem")
    digits = bytes(raw).hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return {
        "name": label,
        "uuid": ("MIG-" if " MIG " in f"{label} " else "GPU-") + "-".join(parts),
        "sms": _attribute(cuda, device, _SMS),
        "capability": f"{_attribute(cuda, device, _MAJOR)}.{_attribute(cuda, device, _MINOR)}",
        "memory_bytes": memory.value,
        **_grains(cuda, device),
    }


def _grains(cuda: Any, device: ctypes.c_int) -> dict[str, list[int]]:
    """In which groups of SMs the driver divides this GPU."""
    if not (getattr(cuda, "cuDeviceGetDevResource", None) and getattr(cuda, "cuDevSmResourceSplitByCount", None)):
        return {}
    whole = (ctypes.c_ubyte * _RESOURCE_BYTES)()
    context = ctypes.c_void_p()
    held = False
    try:
        if cuda.cuDeviceGetDevResource(device, ctypes.byref(whole), _OF_SMS):
            # Not documented to need a context; should it need one all the same, it has one for a moment.
            held = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
            if not held or cuda.cuDeviceGetDevResource(device, ctypes.byref(whole), _OF_SMS):
                return {}
        found = {"grain": _grain(cuda, whole, 0), "fine_grain": _grain(cuda, whole, _FINE)}
        return {name: grain for name, grain in found.items() if grain is not None}
    finally:
        if held:
            cuda.cuDevicePrimaryCtxRelease_v2(device)


def _grain(cuda: Any, whole: Any, flags: int) -> list[int] | None:
    group, groups = (ctypes.c_ubyte * _RESOURCE_BYTES)(), ctypes.c_uint(1)
    split = cuda.cuDevSmResourceSplitByCount
    if split(ctypes.byref(group), ctypes.byref(groups), ctypes.byref(whole), None, flags, 1) or groups.value != 1:
        return None
    sms = int.from_bytes(bytes(group[_COUNT_AT : _COUNT_AT + 4]), sys.byteorder)
    if split(None, ctypes.byref(groups), ctypes.byref(whole), None, flags, sms) or not groups.value:
        return None
    return [sms, groups.value]


def _attribute(cuda: Any, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device), f"cuDeviceGetAttribute({number})")
    return value.value


def _check(cuda: Any, code: int, call: str) -> None:
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        words = text.value.decode(errors="replace") if text.value else "unknown error"
        raise _Refused(f"{call}: {words} (CUDA error {code})")


if __name__ == "__main__":
    sys.exit(main())
