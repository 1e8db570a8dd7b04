"""Whether an ensemble may compute in another precision: what it answers then, on data, beside what it answers now.

Every member runs by every backend in that precision, in the lanes and in the batches that a plan will run it in, and
its answers are compared with the eager ones. A variant is a backend with a precision: "openvino@bf16".

    n          samples
    agreement  the part of the samples whose answer stays (see `precision_table.py`)
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from esen_lab.common.answers import IN_PRECISION, difference
from esen_lab.common.inputs import as_input
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, map_tensors
from esen_lab.common.units import backend_parts, check_number, format_bytes
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import Cancelled, EsenError, UsageError
from esen_lab.planner.plan import sequential_plan
from esen_lab.run import Executor, ForkServer
from esen_lab.run.classified import check_labels, classes_among, classes_of
from esen_lab.studies.precision_table import PrecisionPoint, PrecisionTable, share_text
from esen_lab.studies.validation import labels_of, samples_of

if TYPE_CHECKING:
    import torch

AGREE = 0.999
MOST_BYTES = 2 * 10**9
_MOST_COMBINATIONS = 256
_MOST_RULE_CALLS = 20_000
_Batches = Sequence[Tree]
"""Answers, batch by batch."""


def allowed_error(precision: str, error: float | None = None) -> float:
    """The largest error that is allowed: the one given, else that of the precision.

    Raises:
        UsageError: It is not above 0, or more than lanes let pass in that precision.
    """
    most = IN_PRECISION[precision]["float32"]
    if error is None:
        return most
    return check_number(
        error,
        f"The error allowed in {precision} lies above 0 and is at most {most:g} of the largest value",
        above=0.0,
        most=most,
        hint="Lanes compare the first answer, and leave a backend that is further off.",
    )


def check_precision(
    ensemble: Ensemble,
    device: Device,
    fork_server: ForkServer,
    variants: Sequence[str],
    x: Tree = None,
    y: Any = None,
    *,
    agree: float = AGREE,
    error: float | None = None,
    values: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> PrecisionTable:
    """Run every member by every variant, and say which may be taken. The caller has the device's turn.

    Args:
        ensemble: The members; for int8 with their calibration data.
        device: Where they run, each with the whole of it.
        fork_server: Starts the lanes.
        variants: Backends with one precision, such as ("eager@bf16", "openvino@bf16").
        x: Data, samples along the first dimension of every tensor; None: the example, by its error alone.
        y: The right class of each sample, or None.
        agree: The least agreement, of each member and of the ensemble, in 0..1.
        error: The largest error that is allowed; None for that of the precision. Where agreement is not by class, it
            is what an answer may be off to count as the same.
        values: Whether answers are values, not scores of classes, whatever their shape.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: The data has no samples, labels do not fit or nothing answers with classes, or a limit is not
            possible.
        EsenError: A member could not be run eagerly.
    """
    precision = backend_parts(variants[0])[1]
    limit = allowed_error(precision, error)
    given = as_input(ensemble.example if x is None else x)
    data = _Data.of(given, ensemble, labels=y, by_batch=x is not None)
    tell = on_progress or (lambda *_: None)
    steps = len(variants) + 1
    tell(0, steps, "as it is executed now")
    before, _ = _run(ensemble, device, fork_server, "eager", data)
    _check_size(before, steps)
    by_class = not values and _has_classes(ensemble, before, data)
    if y is not None and not by_class:
        raise UsageError(
            "Labels are the right classes, and nothing has one here",
            given="answers that are said to be values" if values else "answers of the ensemble without classes",
            hint=f"Leave labels out: {step('on=x_val', '--on x_val')}.",
        )
    answers: dict[tuple[str, str], _Batches] = {}
    points: list[PrecisionPoint] = []
    for number, variant in enumerate(variants, 1):
        tell(number, steps, variant)
        found, why = _run_each(ensemble, device, fork_server, variant, data)
        answers.update({(name, variant): batches for name, batches in found.items()})
        points += [PrecisionPoint(name=name, backend=variant, why=why.get(name, "")) for name in ensemble.names]
    judge = _Judge(
        ensemble=ensemble,
        data=data,
        before=before,
        after=answers,
        agree=agree,
        error=limit,
        by_class=by_class,
    )
    points.sort(key=lambda point: ensemble.names.index(point.name))
    table = PrecisionTable(
        precision=precision,
        points=tuple(map(judge.judged, points)),
        agree=None if x is None else agree,
        error=limit,
        samples=data.samples,
        by_class=judge.by_class,
        accuracy={} if y is None else {name: judge.accuracy(before[name]) for name in ensemble.names},
        fingerprints=ensemble.fingerprints,
    )
    return table if x is None else judge.together(table)


# --- running -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """Samples in batches of the example's size: what engines prepare for a size is what will be executed.

    Attributes:
        batches: All samples, the last batch filled up with the first ones.
        valid: How many samples of each batch count.
        size: How many a batch has.
        samples: All of them.
        labels: The right class of each, or None.
    """

    batches: Sequence[Tree]
    valid: Sequence[int]
    size: int
    samples: int
    labels: torch.Tensor | None

    @classmethod
    def of(cls, x: Tree, ensemble: Ensemble, *, labels: Any, by_batch: bool) -> _Data:
        import torch

        if not by_batch:
            return cls(batches=[x], valid=[0], size=0, samples=0, labels=None)
        samples, size = samples_of(x), samples_of(ensemble.example)
        if any(bool(leaf.isnan().any()) for leaf in flatten(x)[0] if leaf.is_floating_point()):
            raise UsageError("Data on which answers are compared holds numbers", given="NaN")
        firsts = range(0, samples, size)
        rows = [[(first + row) % samples for row in range(size)] for first in firsts]
        return cls(
            batches=[_taken_rows(x, wanted) for wanted in rows],
            valid=[min(size, samples - first) for first in firsts],
            size=size,
            samples=samples,
            labels=None if labels is None else torch.from_numpy(labels_of(labels, samples)),
        )


def _taken_rows(x: Tree, rows: list[int]) -> Tree:
    return map_tensors(lambda leaf: leaf[rows], x)


def _run(
    ensemble: Ensemble, device: Device, fork_server: ForkServer, how: str, data: _Data
) -> tuple[dict[str, list[Tree]], dict[str, str]]:
    """The answers of the members that are so executed, batch by batch; and why others are not."""
    plan = sequential_plan(ensemble.names, device.units).with_backends(dict.fromkeys(ensemble.names, how))
    executor = Executor.start(plan, ensemble, device, fork_server)
    try:
        why = {name: _reason(told) for name, told in executor.history.fallen_back.items()}
        found: dict[str, list[Tree]] = {name: [] for name in ensemble.names if name not in why}
        for batch in data.batches:
            members = executor.run_members(batch).members
            for name, batches in found.items():
                batches.append(members[name])
    finally:
        executor.close()
    return found, why


def _reason(told: str) -> str:
    """Why a lane does not execute a sub-model so, of "NAME runs eagerly, not as the plan says (HOW): WHY"."""
    why = told.partition("): ")[2] or told
    return why.partition(". Given: ")[2] or why


def _run_each(
    ensemble: Ensemble, device: Device, fork_server: ForkServer, how: str, data: _Data
) -> tuple[dict[str, list[Tree]], dict[str, str]]:
    """As `_run`; what ends a lane is the trouble of the member that does it alone."""
    try:
        return _run(ensemble, device, fork_server, how, data)
    except Cancelled:
        raise
    except EsenError as problem:
        if len(ensemble.names) == 1:
            return {}, {ensemble.names[0]: str(problem)}
    found: dict[str, list[Tree]] = {}
    why: dict[str, str] = {}
    each = ensemble.with_combine(make_combine("mean"))  # a member may have no weight, and nothing is combined here
    for name in ensemble.names:
        mine, trouble = _run_each(each.only([name]), device, fork_server, how, data)
        found |= mine
        why |= trouble
    return found, why


def _check_size(before: Mapping[str, _Batches], times: int) -> None:
    size = sum(leaf.nbytes for batches in before.values() for tree in batches for leaf in flatten(tree)[0])
    if size * times > MOST_BYTES:
        raise UsageError(
            f"The answers that are compared take at most {format_bytes(MOST_BYTES)}",
            given=f"{format_bytes(size)} in each of {times} ways",
            hint="Give fewer samples, or name fewer backends.",
        )


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """What answers in another precision are, beside those of before.

    Attributes:
        ensemble: The members and the combine rule.
        data: What they answered.
        before: Each member's answers in its own precision.
        after: Those by (member, variant).
        agree: The least agreement.
        error: The largest error.
        by_class: Whether agreement is that of the top-1.
    """

    ensemble: Ensemble
    data: _Data
    before: Mapping[str, _Batches]
    after: Mapping[tuple[str, str], _Batches]
    agree: float
    error: float
    by_class: bool

    def judged(self, point: PrecisionPoint) -> PrecisionPoint:
        """A point with what was found, and whether it may be taken by itself."""
        batches = self.after.get((point.name, point.backend))
        if batches is None:
            return point
        found = difference(
            _numbers(_rows(self.data, batches)), _numbers(_rows(self.data, self.before[point.name])), _ANY
        )
        if found.why:
            return replace(point, why=found.why)
        point = replace(point, error=found.error)
        if not self.data.samples:
            return replace(point, why=self._too_far(found.error))
        agreement = self._agreement(batches, self.before[point.name])
        point = replace(
            point,
            agreement=agreement,
            together=self._agreement(self._combined({point.name: point.backend}), self._combined({})),
            accuracy=None if self.data.labels is None else self.accuracy(batches),
        )
        why = self._too_far(found.error) if self.by_class else ""
        if agreement < self.agree:
            why = why or f"{self._stays} for {share_text(agreement)}, and {share_text(self.agree)} is asked for"
        return replace(point, why=why)

    def together(self, table: PrecisionTable) -> PrecisionTable:
        """A table less the variants with which the ensemble disagrees when several are taken: the worst go first."""
        before = self._combined({})
        while True:
            tried, all_of_them = self._combinations(table)
            found = [(self._agreement(self._combined(taken), before), taken) for taken in tried]
            least, worst = min(found, key=lambda pair: pair[0])
            if least >= self.agree:
                break
            dropped = min(
                (point for point in table.points if worst.get(point.name) == point.backend),
                key=lambda point: (point.together or 0.0, point.agreement or 0.0, -(point.error or 0.0)),
            )
            why = f"together with the others the ensemble's {self._stays} for only {share_text(least)}"
            points = tuple(replace(point, why=why) if point is dropped else point for point in table.points)
            table = replace(table, points=points)
        accuracy = None
        if self.data.labels is not None and self.by_class:
            accuracy = (self.accuracy(before), self.accuracy(self._combined(worst)))
        return replace(table, together=least, combinations=(len(tried), all_of_them), ensemble_accuracy=accuracy)

    @property
    def _stays(self) -> str:
        return "top-1 stays" if self.by_class else f"answer is off by {self.error:g} at most"

    def _too_far(self, error: float) -> str:
        if error <= self.error:
            return ""
        return f"it is off by {error:.1e} of the largest value, and {self.error:g} is allowed"

    def _combinations(self, table: PrecisionTable) -> tuple[list[dict[str, str]], int]:
        """Combinations of what may be taken, and how many there are: all, or the likely ones and a sample."""
        choices = {name: ("", *variants) for name, variants in table.allowed.items()}
        number = prod(map(len, choices.values()))
        most = max(1, min(_MOST_COMBINATIONS, _MOST_RULE_CALLS // len(self.data.batches)))
        return [_taken(choices, taken) for taken in _some(choices, table, number, most)], number

    def _combined(self, taken: Mapping[str, str]) -> list[Tree]:
        """The ensemble's answers, batch by batch, with some members in another precision."""
        parts = {
            name: self.after[name, taken[name]] if name in taken else self.before[name] for name in self.ensemble.names
        }
        return _combined(self.ensemble, parts, len(self.data.batches))

    def _agreement(self, got: _Batches, wanted: _Batches) -> float:
        import torch

        classes = (_classes(self.data, got), _classes(self.data, wanted)) if self.by_class else (None, None)
        if classes[0] is not None and classes[1] is not None:
            return float((classes[0] == classes[1]).double().mean())
        same = torch.ones(self.data.samples, dtype=torch.bool, device="cpu")
        for y, r in zip(_rows(self.data, got), _rows(self.data, wanted), strict=True):
            same &= _same_rows(y, r, self.error, self.data.samples)
        return float(same.double().mean())

    def accuracy(self, batches: _Batches) -> float | None:
        """The part of the samples whose top-1 is the label; None where answers have none."""
        classes = _classes(self.data, batches)
        assert self.data.labels is not None
        return None if classes is None else float((classes == self.data.labels).double().mean())


def _combined(ensemble: Ensemble, parts: Mapping[str, _Batches], count: int) -> list[Tree]:
    """The ensemble's answers to so many batches; what a rule of the user's keeps is afterwards what it was."""
    with ensemble.combine.kept():
        return [ensemble.combine({name: batches[index] for name, batches in parts.items()}) for index in range(count)]


def _has_classes(ensemble: Ensemble, before: Mapping[str, _Batches], data: _Data) -> bool:
    """Whether the ensemble's answer has a top-1 for each sample.

    Raises:
        UsageError: A label is none of its classes.
    """
    combined = _combined(ensemble, before, len(data.batches))
    if not data.samples or _classes(data, combined) is None:
        return False
    if data.labels is not None:
        check_labels(data.labels.tolist(), max(map(classes_among, _rows(data, combined))))
    return True


def _classes(data: _Data, batches: _Batches) -> torch.Tensor | None:
    """The top-1 of each sample; None where an answer has no scores of shape (n, classes), nor classes (n,)."""
    for leaf in _rows(data, batches):
        classes = classes_of(leaf)
        if classes is not None and len(classes) == data.samples:  # else it is one answer for each batch
            return classes
    return None


def _rows(data: _Data, batches: _Batches) -> list[torch.Tensor]:
    """The tensors of answers to all samples, those that count; others than one row a sample side by side."""
    import torch

    parts = [flatten(tree)[0] for tree in batches]
    if not data.samples:
        return list(parts[0])
    return [
        torch.cat(
            [
                leaf[:valid] if leaf.dim() and leaf.shape[0] == data.size else leaf.unsqueeze(0)
                for leaf, valid in zip(leaves, data.valid, strict=True)
            ]
        )
        for leaves in zip(*parts, strict=True)
    ]


_ANY: Mapping[str, float] = dict.fromkeys(IN_PRECISION[""], 1.0)
"""What is asked is how large an error is: the same for every dtype."""


def _numbers(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Those that have an error: a class that is another one has none."""
    return [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]


def _same_rows(y: torch.Tensor, r: torch.Tensor, error: float, samples: int) -> torch.Tensor:
    """For each sample whether its part of an answer is the same but for an error."""
    import torch

    if y.shape != r.shape:
        return torch.zeros(samples, dtype=torch.bool, device="cpu")
    exact = not (r.is_floating_point() or r.is_complex())
    wide = torch.complex128 if r.is_complex() else torch.float64
    y, r = y.to(wide), r.to(wide)
    finite = r.abs().nan_to_num(nan=0.0, posinf=0.0)
    most = 0.0 if exact or not r.numel() else error * float(finite.max())
    fine = torch.where(torch.isfinite(y) & torch.isfinite(r), (y - r).abs() <= most, (y == r) | (y.isnan() & r.isnan()))
    if y.dim() and y.shape[0] == samples:
        return fine.reshape(samples, -1).all(-1)
    return fine.all().expand(samples)


def _taken(choices: Mapping[str, Sequence[str]], taken: Sequence[str]) -> dict[str, str]:
    return {name: variant for name, variant in zip(choices, taken, strict=True) if variant}


def _some(
    choices: Mapping[str, Sequence[str]], table: PrecisionTable, number: int, most: int
) -> Iterator[tuple[str, ...]]:
    """All combinations, where they are few; else the worst of each member, each backend for all, and a sample."""
    if number <= most:
        yield from itertools.product(*choices.values())
        return
    ranks = {(point.name, point.backend): point.together or 0.0 for point in table.points}
    worst = {name: sorted((ranks[name, variant], variant) for variant in table.allowed[name]) for name in choices}
    yield tuple(ranked[0][1] if ranked else "" for ranked in worst.values())
    for variant in dict.fromkeys(itertools.chain(*choices.values())):
        yield tuple(variant if variant in variants else "" for variants in choices.values())
    chance = random.Random(0)  # noqa: S311  the same sample each time
    for _ in range(most):
        yield tuple(chance.choice(variants) for variants in choices.values())
