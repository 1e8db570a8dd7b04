"""Whether two answers of a network are the same up to rounding: numbers first, then a verdict without tensors.

r       reference, y  answer, both as float64
error   max |y - r| / max |r| over one output tensor: relative to its largest value, so that zeros do not count
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esen_lab.trees import Tree, flatten

# What other kernels, other orders of summation and TF32 on one side only may change, relative to the largest value.
TOLERANCE: Mapping[str, float] = {"float64": 1e-9, "float32": 5e-3, "float16": 2e-2, "bfloat16": 6e-2}
WHERE_NAN = "NaN or infinity in other places"
OTHER_SHAPE = "another shape or dtype"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How one answer compares with its reference.

    Attributes:
        dtype: Of the output that is worst.
        error: Relative to its largest value; 0 where all are equal; infinite where they cannot be compared.
        why: What cannot be compared, or "".
    """

    dtype: str
    error: float
    why: str = ""

    @property
    def tolerance(self) -> float:
        """The largest error that rounding explains; 0 for whole numbers."""
        return TOLERANCE.get(self.dtype, 0.0)

    @property
    def agrees(self) -> bool:
        """Whether rounding explains it."""
        return not self.why and self.error <= self.tolerance

    @property
    def amount(self) -> str:
        """The error alone, for a cell of a table."""
        return self.why or (f"{self.error:.1e}" if self.error else "0")

    @property
    def limit(self) -> str:
        """The tolerance, for a cell of a table."""
        return f"{self.tolerance:.0e} ({self.dtype})" if self.tolerance else "0"

    def __str__(self) -> str:
        """For people."""
        if self.why:
            return self.why
        if not self.error:
            return "equal"
        return f"{self.error:.1e} of the largest value, {self.dtype} may be off by {self.tolerance:.0e}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite error is None."""
        known = self.error if self.error != float("inf") else None
        return {"dtype": self.dtype, "error": known, "why": self.why, "agrees": self.agrees}


def difference(answer: Tree, reference: Tree) -> Difference:
    """The worst output tensor of `answer`, against `reference`."""
    import torch

    got, structure = flatten(answer)
    wanted, expected = flatten(reference)
    if structure != expected:
        return Difference(dtype="", error=float("inf"), why=OTHER_SHAPE)
    worst = Difference(dtype=str(wanted[0].dtype).removeprefix("torch.") if wanted else "", error=0.0)
    for y, r in zip(got, wanted, strict=True):
        found = _of_tensors(y.detach(), r.detach(), torch)
        if found.error / (found.tolerance or 1e-300) > worst.error / (worst.tolerance or 1e-300):
            worst = found
    return worst


def _of_tensors(y: Any, r: Any, torch: Any) -> Difference:
    name = str(r.dtype).removeprefix("torch.")
    if y.shape != r.shape or y.dtype != r.dtype:
        return Difference(dtype=name, error=float("inf"), why=OTHER_SHAPE)
    if r.numel() == 0 or torch.equal(y, r):
        return Difference(dtype=name, error=0.0)
    wide = torch.complex128 if r.is_complex() else torch.float64
    y, r = y.to("cpu", wide), r.to("cpu", wide)
    fine = torch.isfinite(r)
    if not torch.equal(fine, torch.isfinite(y)):
        return Difference(dtype=name, error=float("inf"), why=WHERE_NAN)
    apart = torch.where(fine, (y - r).abs(), 0.0).max().item()
    largest = torch.where(fine, r.abs(), 0.0).max().item()
    return Difference(dtype=name, error=apart / largest if largest else (float("inf") if apart else 0.0))
