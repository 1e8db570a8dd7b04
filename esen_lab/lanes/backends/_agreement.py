"""For which inputs an engine may stand in for a network: it is compared with the network on probes, once.

The first answer says that an engine computes the network on the example. It says nothing of inputs elsewhere: OpenVINO
makes 0 of the NaN of a logarithm, and computes 64 bits in 32. So probes (`_probes.py`) are compared as well, with two
outcomes. Floats and truths: an engine that differs is refused. Whole numbers: the engine may have the widest range in
which it agrees, and what lies beyond is left to eager (`_guards.py`).

An engine rounds otherwise than PyTorch, and far from the example rounding may be all that is left: a softmax over
scores in the thousands, a variance of nothing. So where an engine is off by more than its tolerance, the network is
asked how far it is off itself when its input moves by about as much as rounding does; ten times that is no mistake.

    r   the network's answer     n   the network's answer to an input that is nudged
    y   the engine's
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from esen_lab.common.answers import WHERE_NAN, difference, same_beyond
from esen_lab.common.trees import Tree, flatten
from esen_lab.lanes.backends._guards import NOT_ZERO, Check, Guards, Range, is_finite
from esen_lab.lanes.backends._probes import all_of, float_probes, is_whole, own_range, whole_probes, wider
from esen_lab.lanes.backends._protocol import Refused
from esen_lab.lanes.backends._reads import files_read

Answers: TypeAlias = Callable[[Sequence[torch.Tensor]], Tree]

_LEAST_S = 1.0
_OF_PREPARING = 0.5
_NUDGE = {"": 0.0, "bf16": 1e-2, "fp16": 2e-3}  # relative to the largest value, beside that of the dtype
_ULPS = 16
_MOST_COLUMNS = 32
_MORE_THAN_NUDGED = 10.0


@dataclass(slots=True, kw_only=True)
class Questions:
    """One network and its engine, asked the same.

    Attributes:
        network: Its answers, to copies.
        engine: Its answers.
        example: The tensors of the example.
        precision: As in `BackendSettings`.
        allowed: For each dtype, the largest error that rounding explains.
        until: When there is no more time (`time.monotonic`).
        left: Words of the probes that there was no time for.
        strays: Whether the engine was seen to answer NaN or infinity elsewhere than the network, for another mask.
    """

    network: Answers
    engine: Answers
    example: Sequence[torch.Tensor]
    precision: str
    allowed: Mapping[str, float]
    until: float
    left: list[str] = field(default_factory=list)
    strays: bool = False

    def has_time(self, words: str) -> bool:
        """Whether another probe may be asked; if not, it is noted."""
        if time.monotonic() < self.until:
            return True
        self.left.append(words)
        return False

    def differ(self, leaves: Sequence[torch.Tensor], wanted: Tree, *, is_mask: bool = False) -> str:
        """How the engine differs from the network's answer to an input; "" where rounding explains it.

        So it is for another mask, or other whole numbers (`is_mask`), where the engine's answer itself tells: that may
        leave a row without anything to attend to, of which engines make NaN.
        """
        try:
            answer = self.engine(leaves)
        except Exception as problem:
            return str(getattr(problem, "given", None) or problem)
        found = difference(answer, wanted, self.allowed)
        if found.agrees or (found.why != WHERE_NAN and found.why):
            return "" if found.agrees else str(found)
        answers = [leaf.clone() for leaf in flatten(answer)[0]]
        if is_mask and found.why == WHERE_NAN and not is_finite(answers):
            self.strays = True
            return ""
        nudged = self.network(self._nudged(leaves))
        pairs = zip(answers, flatten(wanted)[0], flatten(nudged)[0], strict=True)
        return "" if all(self._is_rounding(*three) for three in pairs) else str(found)

    def _nudged(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """An input a little elsewhere. Zeros among other numbers stay, of which rounding makes nothing else."""
        chance = torch.Generator().manual_seed(1)
        nudged = []
        for leaf, example in zip(leaves, self.example, strict=True):
            if leaf.is_floating_point() and leaf.numel():
                by = (torch.rand(leaf.shape, generator=chance) - 0.5).to(leaf) * self._step(leaf, example)
                leaf = torch.where((leaf == 0) & leaf.any(), leaf, leaf + by)  # noqa: PLW2901
            nudged.append(leaf)
        return nudged

    def _step(self, leaf: torch.Tensor, example: torch.Tensor) -> float:
        relative = max(_ULPS * torch.finfo(leaf.dtype).eps, _NUDGE.get(self.precision, 0.0))
        largest = float(leaf.abs().max()) or float(example.abs().max()) or 1.0
        return 2 * relative * largest

    def _is_rounding(self, y: torch.Tensor, r: torch.Tensor, n: torch.Tensor) -> bool:
        """Whether one tensor of an answer is as near to the network's as can be told."""
        allowed = self.allowed.get(str(r.dtype).removeprefix("torch."), 0.0)
        exact = not (r.is_floating_point() or r.is_complex())
        if exact and self.precision:
            return True  # which of two near scores is larger is for the check of the precision to say
        y, r, n = (tensor.cpu() for tensor in (y, r, n))
        other, moved_too = y != r, n != r  # of whole numbers as they are: beyond 2**53 some are one float
        y, r, n = (tensor.to(torch.float64) for tensor in (y, r, n))
        if exact:  # places among equals: a nudge changes most of them, and by about as much
            most = (other & moved_too).sum() * 2 >= other.sum()
            return bool(most and (y - r).abs().max() <= _MORE_THAN_NUDGED * (n - r).abs().max())
        fine = r.isfinite()
        unsure = n.isfinite() != fine  # at the edge of what has a value
        beyond = ~fine & ~unsure
        if not bool((unsure | (y.isfinite() == fine)).all()) or not same_beyond(y[beyond], r[beyond]):
            return False
        told = fine & ~unsure
        if not bool(told.any()):
            return True
        apart, moved = (y - r)[told].abs().max(), (n - r)[told].abs().max()
        return bool(apart <= max(allowed * r[told].abs().max(), _MORE_THAN_NUDGED * moved))


def until(preparing_s: float) -> float:
    """When probing ends that begins now, after an engine was prepared for so long (`time.monotonic`)."""
    return time.monotonic() + max(_LEAST_S, _OF_PREPARING * preparing_s)


def agreement(
    questions: Questions, checks: Sequence[Check], *, huge: bool, known: Mapping[int, Range] | None = None
) -> Guards:
    """The guards within which an engine answers as its network.

    Args:
        questions: Both.
        checks: What the graph must not be given; empty where there is no graph.
        huge: Whether floats become what huge ones are beyond: see `float_probes`.
        known: The ranges of whole numbers, where these are not probed.

    Raises:
        Refused: It differs where nothing keeps inputs from it.
    """
    if read := files_read(lambda: questions.network(questions.example)):
        raise Refused(f"it reads {read[0]!r} at each call, and an engine goes on with what was in there at first")
    bounds = _bounds(questions.example, checks)
    others = unbound(checks)
    guards = Guards(ranges=bounds, checks=others)
    if questions.precision != "int8":  # right for data like that it was made by, and for no other
        _ask_floats(questions, guards, huge=huge)
    ranges = dict(known) if known is not None else _agreeing(questions, guards)
    needed = _needed({**ranges, **bounds}, questions.example)
    return Guards(ranges=needed, checks=others, answers=questions.strays)


def unbound(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Those that ranges of the tensors of an input do not say."""
    return tuple(check for check in checks if check.leaf is None or check.within == NOT_ZERO)


def _bounds(example: Sequence[torch.Tensor], checks: Sequence[Check]) -> dict[int, Range]:
    """Where tensors of an input must lie that are indices themselves."""
    found: dict[int, Range] = {}
    for check in checks:
        if check.leaf is not None and check.within != NOT_ZERO:
            low, high = found.get(check.leaf, all_of(example[check.leaf].dtype))
            found[check.leaf] = (max(low, check.within[0]), min(high, check.within[1]))
    return found


def _needed(ranges: Mapping[int, Range], example: Sequence[torch.Tensor]) -> dict[int, Range]:
    """Without those that hold all numbers of their kind."""
    whole = {index: all_of(example[index].dtype) for index in ranges}
    return {i: r for i, r in ranges.items() if r[0] > whole[i][0] or r[1] < whole[i][1]}


def _ask_floats(questions: Questions, guards: Guards, *, huge: bool) -> None:
    for count, probe in enumerate(float_probes(questions.example, huge=huge)):
        if count > 0 and not questions.has_time(probe.words):
            continue
        leaves = _passed_on(probe.leaves, questions.example, guards)
        if leaves is None or not is_finite(leaves):  # what is not finite never gets to an engine
            continue
        try:
            wanted = questions.network(leaves)
        except Exception as problem:  # an engine would answer, or read what is not its own: it is not even asked
            kind = type(problem).__name__
            raise Refused(f"for {probe.words} PyTorch raises {kind}, where an engine may answer") from problem
        if why := questions.differ(leaves, wanted, is_mask=probe.is_mask):
            raise Refused(f"for {probe.words} it differs from PyTorch: {why}")


def _agreeing(questions: Questions, guards: Guards) -> dict[int, Range]:
    """The widest ranges of whole numbers in which an engine agrees.

    Raises:
        Refused: It does not in those of the example.
    """
    example, bounds = questions.example, guards.ranges
    free = [i for i, leaf in enumerate(example) if is_whole(leaf) and leaf.numel()]
    if not free:
        return {}
    whole = {i: bounds.get(i, all_of(example[i].dtype)) for i in free}
    if not (why := _differ_within(questions, guards, whole)):
        return whole
    own = {i: bounds.get(i, own_range(example[i])) for i in free}
    if own == whole or (why := _differ_within(questions, guards, own)):
        raise Refused(f"for {_words(own)} it differs from PyTorch: {why}")
    best = own
    for way in (0, 1):
        for wide in wider(best, whole)[way]:
            tried = {i: bounds.get(i) or _within(wide[i], whole[i]) for i in free}
            if tried == best:
                continue
            if not questions.has_time(_words(tried)) or _differ_within(questions, guards, tried):
                break
            best = tried
    return best


def _within(wide: Range, whole: Range) -> Range:
    return (max(wide[0], whole[0]), min(wide[1], whole[1]))


def _words(ranges: Mapping[int, Range]) -> str:
    return "whole numbers in " + ", ".join(sorted({f"{low} .. {high}" for low, high in ranges.values()}))


def _differ_within(questions: Questions, guards: Guards, ranges: Mapping[int, Range]) -> str:
    """How an engine differs for whole numbers in ranges; "" where it does not, as far as there is time."""
    for count, made in enumerate(whole_probes(questions.example, ranges)):
        if count > 1 and not questions.has_time(_words(ranges)):
            return ""
        leaves = _passed_on(made, questions.example, guards)
        if leaves is None:
            continue
        try:
            wanted = questions.network(leaves)
        except Exception as problem:  # an engine would answer, or read what is not its own: it is not even asked
            return f"PyTorch raises {type(problem).__name__}"
        if why := questions.differ(leaves, wanted, is_mask=True):
            return why
    return ""


def _passed_on(
    made: Sequence[torch.Tensor], example: Sequence[torch.Tensor], guards: Guards
) -> Sequence[torch.Tensor] | None:
    """A probe, or as many of its columns as guards pass on, or None: columns may be indices of different tables."""
    if guards.pass_on(made):
        return made
    columns = max((leaf.shape[-1] for leaf in example if leaf.dim()), default=0)
    changed = [leaf.clone() for leaf in example]
    found = False
    for column in range(min(columns, _MOST_COLUMNS)):
        tried = [leaf.clone() for leaf in changed]
        for leaf, other in zip(tried, made, strict=True):
            if leaf.dim() and column < leaf.shape[-1]:
                leaf[..., column] = other[..., column]
        if guards.pass_on(tried):
            changed, found = tried, True
    return changed if found else None
