"""What lanes on a GPU share of its memory: an input that one brings for all, outputs that one combines where they lie.

Every method raises as those of `Worker` do, and `UsageError` where the lane is on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esen_lab.lanes.arena import Block, Layout
from esen_lab.lanes.device_engine import DeviceEngine
from esen_lab.lanes.kept_outputs import Lent, Rule
from esen_lab.lanes.messages import MEMORY, order
from esen_lab.lanes.plain import NotPlain, as_kind, check_structure

_ORDER_S = 30.0


class GpuMemory:
    """That of one lane.

    Args:
        ask: Sends an order to it: see `Worker`.
        to_processes: Whether what it lends goes to other processes.
    """

    def __init__(self, ask: Callable[..., Any], *, to_processes: bool) -> None:
        self._ask = ask
        self._to_processes = to_processes

    def lend_input(self, flag: Block) -> bytes:
        """Have this lane bring the input to the GPU for all; returns what lanes of other processes borrow it with."""
        told = order(DeviceEngine.lend_input, MEMORY)
        lent: bytes = self._ask(told, "lend its input", _ORDER_S, flag, None, _bytes_in)
        return lent

    def borrow_input(self, lent: bytes, flag: Block) -> None:
        """Have this lane read the input where a lane of another process brings it."""
        self._ask(order(DeviceEngine.borrow_input, lent, MEMORY), "borrow its input", _ORDER_S, flag, None, _anything)

    def keep_outputs(self) -> None:
        """See `DeviceEngine.keep_outputs`."""
        self._ask(order(DeviceEngine.keep_outputs), "keep its outputs", _ORDER_S, None, None, _anything)

    def lend_outputs(self) -> Lent:
        """What another lane reads the kept outputs with."""
        told = order(DeviceEngine.lend_outputs, to_processes=self._to_processes)
        lent: Lent = self._ask(told, "lend its outputs", _ORDER_S, None, None, _lent_in)
        return lent

    def combine_outputs(
        self, rule: Rule, names: tuple[str, ...], others: tuple[Lent, ...], layout: Layout, block: Block
    ) -> None:
        """See `DeviceEngine.combine_outputs`."""
        told = order(DeviceEngine.combine_outputs, rule, names, others, layout, MEMORY)
        self._ask(told, "take the others' outputs", _ORDER_S, block, None, _anything)

    def combine(self, timeout_s: float) -> None:
        """See `DeviceEngine.combine`."""
        self._ask(order(DeviceEngine.combine), "combine", timeout_s, None, None, _anything)

    def bring_outputs(self, *, stay: bool) -> None:
        """See `DeviceEngine.bring_outputs`."""
        told = order(DeviceEngine.bring_outputs, stay=stay)
        self._ask(told, "bring its outputs", _ORDER_S, None, None, _anything)


def _anything(answer: Any) -> Any:
    return answer


def _bytes_in(answer: Any) -> bytes:
    return as_kind(answer, bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LentParts:
    names: tuple[str, ...]
    structures: tuple[Any, ...]
    counts: tuple[int, ...]
    tensors: bytes


def _lent_in(answer: Any) -> Lent:
    if isinstance(answer, Lent):  # a thread of this process gives it as it is
        return answer
    parts = as_kind(answer, _LentParts)
    if not len(parts.names) == len(parts.structures) == len(parts.counts):
        raise NotPlain("another number of sub-models")
    if any(check_structure(one) != count for one, count in zip(parts.structures, parts.counts, strict=True)):
        raise NotPlain("another number of tensors")
    return Lent(names=parts.names, structures=parts.structures, counts=parts.counts, tensors=parts.tensors)
