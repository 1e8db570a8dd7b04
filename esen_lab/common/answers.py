"""Whether two answers of a network are the same up to rounding.

r       reference, y  answer, both as float64
apart   max |y - r| over one output tensor
error   apart / max |r|: relative to its largest value, so that zeros do not count
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Tree, flatten

if TYPE_CHECKING:
    import torch

# What other kernels, other orders of summation and TF32 on one side only may change, relative to the largest value.
TOLERANCE: Mapping[str, float] = {"float64": 1e-9, "float32": 5e-3, "float16": 2e-2, "bfloat16": 6e-2}
# What another order of summation alone may: the same kernels with another number of threads.
OTHER_ORDER: Mapping[str, float] = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 2e-2}
# What another precision may, where that was asked for; a network in float64 stays so. An int8 network is off by 1 to
# 10 % on data like what it was calibrated with; what is off by more than 25 % computes something else.
IN_PRECISION: Mapping[str, Mapping[str, float]] = {
    "": TOLERANCE,
    "bf16": {**TOLERANCE, "float32": 6e-2},
    "fp16": {**TOLERANCE, "float32": 2e-2},
    "int8": {**TOLERANCE, "float32": 0.25},
}
_PARTS: Mapping[str, str] = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
WHERE_NAN = "NaN or infinity in other places"
OTHER_SHAPE = "another shape or dtype"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How one answer compares with its reference.

    Attributes:
        dtype: Of the output that is worst.
        error: Relative to its largest value; 0 where all are equal; infinite where they cannot be compared.
        apart: The largest difference of any output, absolute; infinite where they cannot be compared.
        why: What cannot be compared, or "".
        allowed: The largest error that rounding explains here; None for that of other kernels (`TOLERANCE`).
        nan: How many values are NaN in both: of those nothing can be said but that.
        values: How many values there are; None: not counted, since nothing could be compared.
    """

    dtype: str
    error: float
    apart: float = 0.0
    why: str = ""
    allowed: float | None = None
    nan: int = field(default=0, compare=False)
    values: int | None = field(default=None, compare=False)

    @property
    def tolerance(self) -> float:
        """The largest error that rounding explains; 0 for whole numbers."""
        return allowed_of(self.dtype, TOLERANCE) if self.allowed is None else self.allowed

    @property
    def agrees(self) -> bool:
        """Whether rounding explains it."""
        return not self.why and self.error <= self.tolerance

    @property
    def unjudged(self) -> str:
        """Of which values nothing is judged, for people; "" where all are."""
        if self.values == 0:
            return "there are none"
        if not self.nan or self.values is None:
            return ""
        return "all values" if self.nan == self.values else f"{self.nan:,} of {self.values:,} values"

    @property
    def amount(self) -> str:
        """The error alone, for a cell of a table."""
        return self.why or (f"{self.error:.1e}" if self.error else "0")

    @property
    def limit(self) -> str:
        """The tolerance, for a cell of a table."""
        return f"{self.tolerance:g} ({self.dtype})" if self.tolerance else "0"

    def __str__(self) -> str:
        """For people."""
        if self.why:
            return self.why
        if not self.error:
            return "equal"
        return f"{self.error:.1e} of the largest value, {self.dtype} may be off by {self.tolerance:g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite error is None."""
        known = self.error if math.isfinite(self.error) else None
        return {"dtype": self.dtype, "error": known, "why": self.why, "agrees": self.agrees}


def allowed_of(dtype: str, tolerances: Mapping[str, float]) -> float:
    """The largest error that rounding explains: of complex numbers that of their parts, of whole ones 0."""
    return tolerances.get(_PARTS.get(dtype, dtype), 0.0)


def difference(answer: Tree, reference: Tree, tolerances: Mapping[str, float] = TOLERANCE) -> Difference:
    """The worst output tensor of `answer`, against `reference`.

    Args:
        answer: What was answered.
        reference: What should have been.
        tolerances: For each floating dtype, the largest error that rounding explains.
    """
    got, structure = flatten(answer)
    wanted, expected = flatten(reference)
    if structure != expected:
        return Difference(dtype="", error=math.inf, apart=math.inf, why=OTHER_SHAPE)
    first = _name(wanted[0]) if wanted else ""
    worst = Difference(dtype=first, error=0.0, allowed=allowed_of(first, tolerances))
    apart, nan, values = 0.0, 0, 0
    for y, r in zip(got, wanted, strict=True):
        found = _of_tensors(y.detach(), r.detach(), allowed_of(_name(r), tolerances))
        apart, nan, values = max(apart, found.apart), nan + found.nan, values + r.numel()
        if found.error / (found.tolerance or 1e-300) > worst.error / (worst.tolerance or 1e-300):
            worst = found
    return replace(worst, apart=apart, nan=nan, values=values)


def difference_of_tensors(answer: Tree, reference: Tree, tolerances: Mapping[str, float] = TOLERANCE) -> Difference:
    """The same of the tensors alone, in their order.

    Where an answer was made by an export, its constants and the classes of its named tuples may be called otherwise.
    """
    return difference(flatten(answer)[0], flatten(reference)[0], tolerances)


def nan_told(found: Mapping[str, Difference]) -> tuple[str, ...]:
    """What was not judged because there are no numbers to compare, a sentence each; none where all was.

    Args:
        found: How the answers of each sub-model compare with their reference.
    """
    nan = [f"{name} ({one.unjudged})" for name, one in found.items() if one.nan and one.unjudged]
    none = [name for name, one in found.items() if one.values == 0]
    told = []
    if nan:
        told.append(f"NaN in the answers of {', '.join(nan)}, and in their reference: nothing else is judged of these.")
    if none:
        told.append(f"No values in the answers of {', '.join(none)}: nothing is judged of them.")
    return tuple(told)


def _of_tensors(y: torch.Tensor, r: torch.Tensor, allowed: float) -> Difference:
    import torch

    name = _name(r)
    if y.shape != r.shape or y.dtype != r.dtype:
        return Difference(dtype=name, error=math.inf, apart=math.inf, why=OTHER_SHAPE, allowed=allowed)
    exact = not (r.is_floating_point() or r.is_complex())
    wide = torch.complex128 if r.is_complex() else torch.float64
    if r.itemsize == 1 or r.dtype is torch.complex32:  # some of these torch does not even compare
        y, r = y.to("cpu", wide), r.to("cpu", wide)
    if r.numel() == 0 or torch.equal(y, r):
        return Difference(dtype=name, error=0.0, allowed=allowed)
    y, r = y.to("cpu", wide), r.to("cpu", wide)
    fine = torch.isfinite(r)
    if not torch.equal(fine, torch.isfinite(y)) or not same_beyond(y[~fine], r[~fine]):
        return Difference(dtype=name, error=math.inf, apart=math.inf, why=WHERE_NAN, allowed=allowed)
    apart = torch.where(fine, (y - r).abs(), 0.0).max().item()
    if not apart and exact:
        apart = 1.0  # whole numbers beyond 2**53 that are one number in 64-bit floats
    largest = torch.where(fine, r.abs(), 0.0).max().item()
    error = apart / largest if largest else (math.inf if apart else 0.0)
    nan = 0 if bool(fine.all()) else int(r.isnan().sum())
    return Difference(dtype=name, error=error, apart=apart, allowed=allowed, nan=nan)


def same_beyond(y: torch.Tensor, r: torch.Tensor) -> bool:
    """Whether what is no finite number is NaN in both, or the same infinity."""
    return bool(((y == r) | (y.isnan() & r.isnan())).all())


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
