"""What errors of CUDA mean to whoever shares a GPU, and what to do: by number (`CUresult`) or by the words of torch."""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[int, str] = {
    2: "CUDA_ERROR_OUT_OF_MEMORY",
    3: "CUDA_ERROR_NOT_INITIALIZED",
    34: "CUDA_ERROR_STUB_LIBRARY: libcuda is a stub, not the driver's",
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE: another process holds the GPU, or its compute mode forbids MPS",
    100: "CUDA_ERROR_NO_DEVICE: the daemon sees no GPU",
    101: "CUDA_ERROR_INVALID_DEVICE: CUDA_VISIBLE_DEVICES names a GPU that is not there",
    802: "CUDA_ERROR_SYSTEM_NOT_READY: the driver, or the fabric manager of an HGX machine, is not ready",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: driver and libcuda differ in version",
    805: "CUDA_ERROR_MPS_CONNECTION_FAILED: no server could be reached or started",
    806: "CUDA_ERROR_MPS_RPC_FAILURE",
    807: "CUDA_ERROR_MPS_SERVER_NOT_READY: a client's fault is being cleaned up",
    808: "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
    809: "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",
    810: "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    244: "the daemon found no libcuda.so.1",
}
"""The status that a daemon, a server or a client of MPS ends with, as far as it is an error of CUDA."""

# After these a process can use CUDA no more: of memory (214, 220, 226), addresses, time, asserts and kernels.
_FOR_GOOD = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
RESTART = (
    "Restart the kernel: after such a fault no CUDA works in this process. Under NVIDIA MPS lanes are processes of "
    "their own, which start afresh."
)
_MEMORY = "Other processes may hold its memory: nvidia-smi lists them. Else use fewer lanes, or a smaller batch."
_BUSY = (
    "Another process holds the GPU, or its compute mode is exclusive: nvidia-smi shows both. A daemon of MPS that runs "
    "already is used by 'cuda:0 mps adopt'."
)
_FAULT = "A client's fault shuts others out until all of them are gone: see python -m esen_lab doctor."
# Phrases of CUDA's and torch's own messages; the first that is found counts.
_ADVICE: Mapping[str, str] = {
    "driver on your system is too old": "Update the driver, or install a PyTorch for an older CUDA: pytorch.org says "
    "which, under Get started.",
    "out of memory": _MEMORY,
    "busy or unavailable": _BUSY,
    "no cuda-capable device": "The process sees no GPU: see CUDA_VISIBLE_DEVICES, and in a container how it was given "
    "one.",
    "system not yet initialized": "The fabric manager of an HGX machine must run: whoever administers it can start it.",
    "unsupported display driver": "Driver and libcuda differ in version: restart the machine, or the container, after "
    "an update.",
    "re-initialize cuda in forked": "Something that is imported when Python starts has used CUDA: see sitecustomize "
    "and .pth files.",
    "required to create mps client": "The GPU has as many clients as MPS serves: end other programs on it.",
    "required to support device connections": "The GPU has as many clients as MPS serves: end other programs on it.",
    "failed to connect to the mps": _BUSY,
}


def advice(words: str) -> str:
    """What to do where CUDA does not start in a lane, by what it said."""
    said = words.lower()
    return next((todo for phrase, todo in _ADVICE.items() if phrase in said), _FAULT)


def advice_on(code: int) -> str:
    """What to do after a call of the driver that gave this error; "" where nothing is known."""
    if code in _FOR_GOOD:
        return RESTART
    return {2: _MEMORY, 46: _BUSY}.get(code, "")
