"""What a machine could share, as records: each device, whether it can be had, and what its self-test said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from esen_lab.devices.base import Device
from esen_lab.devices.cuda.gpus import Gpu, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One device that this machine offers, or would if something were there.

    Attributes:
        name: How it is chosen: "cpu", "cuda:0 mps", "cuda:0 green".
        hardware: The hardware's own name, or "".
        units: How many units it has; None where that is not known before it can be had.
        unit: What one unit is called.
        available: Whether everything it needs is there.
        missing: What is not there, in words.
        how: How to get what is missing, or "".
        passed: Whether it passed its self-test; None where it was not tested.
        verdict: What the self-test saw, or why there was none.
        chosen: Whether it is what a lab takes when no device is named.
    """

    name: str
    hardware: str
    units: int | None
    unit: str
    available: bool
    missing: tuple[str, ...] = ()
    how: str = ""
    passed: bool | None = None
    verdict: str = ""
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "missing": list(self.missing)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a self-test ended."""

    passed: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingMode:
    """One way to share a GPU.

    Attributes:
        word: What stands behind the GPU in a device's name: "mps" in "cuda:0 mps".
        unit: What one unit is called.
        rank: Of two that pass their self-test, the one with the higher rank is taken by default.
        how: How to get what may be missing.
        missing: What this machine lacks for it, in words; () where nothing. Starts no CUDA and imports no torch.
        units: How many units a GPU has under it; None where that is not known.
        open: Makes the device; the text is what followed the word in the name ("adopt"), or "".
        test: Proves that it works, in a process of its own that may use CUDA freely: returns what was seen in one
            line, or raises `DeviceError`.
    """

    word: str
    unit: str
    rank: int
    how: str
    missing: Callable[[Machine, Gpu], tuple[str, ...]]
    units: Callable[[Gpu], int | None]
    open: Callable[[Machine, Gpu, str], Device]
    test: Callable[[Device], str]
