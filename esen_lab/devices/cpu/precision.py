"""Which precisions a processor computes faster in than in float32, by what it says it can do."""

from __future__ import annotations

import platform
from pathlib import Path

_FASTER = {
    "bf16": ({"amx_bf16", "avx512_bf16"}, {"bf16", "svebf16"}, "AMX, AVX512-BF16 or Arm's BF16"),
    "int8": (
        {"amx_int8", "avx512_vnni", "avx_vnni"},
        {"asimddp", "i8mm"},
        "AMX, VNNI or Arm's dot products",
    ),
}  # precision -> flags of x86, features of Arm, in words
_ARM = ("aarch64", "arm64")


def slower_in(precision: str, cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = "") -> str:
    """Why a precision will not be faster than float32 on this processor, as a sentence; "" where it may be.

    Args:
        precision: One of `esen_lab.common.units.PRECISIONS`.
        cpuinfo: The file in which Linux says what processors can do; where it is missing, nothing is known.
        machine: The kind of processor, as `platform.machine` names it; "" for this one's.
    """
    if precision not in _FASTER:
        return ""
    x86, arm, words = _FASTER[precision]
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    key, wanted = ("Features", arm) if (machine or platform.machine()) in _ARM else ("flags", x86)
    has = [set(line.partition(":")[2].split()) for line in lines if line.partition(":")[0].strip() == key]
    if not has or any(wanted & flags for flags in has):
        return ""
    return f"{precision} will not be faster on this processor, which has no {words}."
