"""What each member answers on validation data, measured once: the ground on which members and stages are chosen.

Members run one after another on the whole device, in batches, under the device lock; their outputs are kept as arrays.

    n   validation samples        C   classes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.inputs import as_input
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, map_tensors
from esen_lab.common.units import check_count
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.confidence import probabilities_of, scores_of
from esen_lab.errors import UsageError
from esen_lab.planner.plan import sequential_plan
from esen_lab.run import Executor, ForkServer, Settings
from esen_lab.run.classified import check_labels
from esen_lab.run.options import weightless
from esen_lab.run.stage_rows import sizes_of
from esen_lab.studies.batch_times import RowTimes

Floats = NDArray[Any]
LEAST_BATCH = 64
_ROW_RUNS = 5
_ROWS_S = 2.0  # after so many seconds no further round of them begins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Each member's outputs on the validation data.

    Attributes:
        ensemble: The members and the combine rule.
        outputs: For each member, shape (n, C).
        rows: How long members take for fewer rows than the example has, as far as that was measured.
    """

    ensemble: Ensemble
    outputs: Mapping[str, Floats]
    rows: RowTimes = field(default_factory=RowTimes)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.outputs.values())))

    def combined(self, outputs: Mapping[str, Floats]) -> Floats:
        """The combine rule on some members' outputs: scores of shape (n, C), or classes of shape (n,).

        Raises:
            UsageError: The rule gives neither, or it cannot take a part of the members.
        """
        import torch

        names = [name for name in self.ensemble.names if name in outputs]
        rule = self.ensemble.combine.for_members(names, self.ensemble.names)
        with rule.kept():  # a study is no call of anybody's
            combined = rule({name: torch.from_numpy(outputs[name]) for name in names})
        if not isinstance(combined, torch.Tensor) or combined.dim() not in (1, 2) or len(combined) != self.samples:
            given = f"{tuple(combined.shape)}" if isinstance(combined, torch.Tensor) else type(combined).__name__
            raise UsageError(
                "Choosing members takes a combine rule that gives scores (samples, classes), or classes (samples,)",
                given=f"{rule.describe()} gives {given}",
                hint=f"Set mean, softmax-mean, weighted or majority with {step('lab.combine(...)', '%esen combine')}.",
            )
        array: Floats = combined.numpy()
        return array

    def probabilities(self, outputs: Mapping[str, Floats]) -> Floats:
        """As `combined`, as probabilities of shape (n, C), just as a plan in stages decides by: see `confidence.py`.

        Raises:
            UsageError: The rule gives classes, which carry no confidence.
        """
        import torch

        scores = scores_of(torch.from_numpy(self.combined(outputs)), self.samples, self.ensemble.combine.describe())
        probabilities: Floats = probabilities_of(scores).numpy()
        return probabilities

    @property
    def weightless(self) -> frozenset[str]:
        """Members to which the combine rule gives no weight: they alone make no answer."""
        return weightless(self.ensemble.combine, self.ensemble.names)

    def labels(self, y: Any) -> NDArray[np.int64]:
        """Labels of these samples, each a class that the members tell apart.

        Raises:
            UsageError: As `labels_of`, or one is no such class: nobody could ever be right about it.
        """
        found = labels_of(y, self.samples)
        check_labels(found, next(iter(self.outputs.values())).shape[1])
        return found

    def some(self, samples: NDArray[np.int64]) -> Answers:
        """Those to some of the samples, by number."""
        return replace(self, outputs={name: output[samples] for name, output in self.outputs.items()})

    def only(self, names: Collection[str]) -> Answers:
        """Those of some of the members; weights are those of the members that stay, normalised again."""
        kept = {name: self.outputs[name] for name in self.ensemble.names if name in names}
        return replace(self, ensemble=self.ensemble.only(tuple(kept)), outputs=kept)


def labels_of(y: Any, samples: int) -> NDArray[np.int64]:
    """Labels as an array of shape (samples,).

    Raises:
        UsageError: They are no whole numbers, or not one per sample.
    """
    try:
        labels = np.asarray(y)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UsageError("Labels are the right class of each sample", given=type(y).__name__) from problem
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"Labels are one whole number, the right class, for each of the {samples} validation samples",
            given=f"{labels.dtype}{list(labels.shape)}",
        )
    return labels.astype(np.int64)


def check_labelled(x: Tree, y: Any) -> None:
    """Whether data holds samples, and labels are one for each: asked before any member runs.

    Raises:
        UsageError: As `samples_of` and `labels_of`.
    """
    labels_of(y, samples_of(as_input(x)))


def answers(
    ensemble: Ensemble,
    device: Device,
    fork_server: ForkServer,
    device_lock: Callable[[], AbstractContextManager[object]],
    x: Tree,
    *,
    batch: int | None = None,
    fewer_rows: bool = False,
    row_times: RowTimes | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Run every member on the validation data.

    Args:
        ensemble: The members.
        device: Where they run.
        fork_server: Starts the worker.
        device_lock: Held while they run.
        x: The data, samples along the first dimension of every tensor.
        batch: How many samples at once; None for as many as the example holds, at least `LEAST_BATCH`.
        fewer_rows: Whether to measure too how much faster each member is with fewer rows than the example has.
        row_times: That, where it is known; None: it is not.
        settings: What the session has set; None: what it had by the last look at it.
        on_progress: Called with (samples done, all).

    Raises:
        UsageError: The data has no samples, or a member's output is not of shape (samples, classes).
        EsenError: A member raised, or its worker is gone.
    """
    x = as_input(x)
    samples = samples_of(x)
    size = max(LEAST_BATCH, samples_of(ensemble.example)) if batch is None else batch
    check_count(size, "A batch holds at least one sample")
    parts: dict[str, list[Floats]] = {name: [] for name in ensemble.names}
    with device_lock(), fork_server.under(settings):
        executor = Executor.start(sequential_plan(ensemble.names, device.units), ensemble, device, fork_server)
        try:
            for first in range(0, samples, size):
                members = executor.run_members(_rows(x, slice(first, first + size))).members
                for name, output in members.items():
                    parts[name].append(_array(name, output, min(size, samples - first)))
                if on_progress is not None:
                    on_progress(min(first + size, samples), samples)
            if row_times is None:
                example = ensemble.example
                row_times = measure_rows(executor, example) if fewer_rows else RowTimes(rows=samples_of(example))
        finally:
            executor.close()
    outputs = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    shapes = {output.shape for output in outputs.values()}
    if len(shapes) > 1:
        counts = ", ".join(f"{name} {output.shape[1]}" for name, output in outputs.items())
        raise UsageError("Members of an ensemble tell the same classes apart", given=f"numbers of classes: {counts}")
    return Answers(ensemble=ensemble, outputs=outputs, rows=row_times)


def measure_rows(executor: Executor, x: Tree) -> RowTimes:
    """How much faster each member of a plan's lanes is with fewer rows.

    Args:
        executor: Warm lanes, in which one member runs at a time.
        x: A whole batch.
    """
    rows = samples_of(x)
    sizes = sizes_of(rows)
    until = time.perf_counter() + _ROWS_S
    took: dict[int, dict[str, float]] = {}
    # In rounds over all sizes, the least of each: whatever else the machine does makes a run longer, never shorter, and
    # what it does for a while then meets all sizes alike.
    for number in range(_ROW_RUNS if rows > 1 else 0):
        if number and time.perf_counter() > until:
            break
        for size in sizes:
            some = _rows(x, slice(0, size))
            executor.run(some)  # it is told of a new shape
            for span in executor.run(some).report.spans:
                own = took.setdefault(size, {})
                own[span.name] = min(own.get(span.name, span.duration_s), span.duration_s)
    ratio: dict[str, dict[int, float]] = {}
    for name in executor.plan.names if took else ():
        so_far, found = 1.0, {}
        for size in sizes:  # from the whole batch down: fewer rows take no longer
            so_far = min(so_far, took[size][name] / max(took[rows][name], 1e-12))
            found[size] = so_far
        ratio[name] = found
    return RowTimes(rows=rows, ratio=ratio)


def samples_of(x: Tree) -> int:
    """How many samples an input has.

    Raises:
        UsageError: Not the same number, at least one, along the first dimension of every tensor.
    """
    leaves, _ = flatten(x)
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves}
    if len(sizes) != 1 or not min(sizes):
        raise UsageError(
            "Validation data has its samples along the first dimension of every tensor",
            given=f"{sorted(sizes)} samples" if sizes else "no tensor",
        )
    return int(sizes.pop())


def _rows(x: Tree, rows: slice) -> Tree:
    return map_tensors(lambda tensor: tensor[rows], x)


def _array(name: str, output: Tree, samples: int) -> Floats:
    import torch

    if isinstance(output, torch.Tensor) and output.dim() == 2 and len(output) == samples:
        array: Floats = output.to(torch.float32).numpy()
        return array
    given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    raise UsageError(
        "Choosing members takes outputs of shape (samples, classes)", given=f"{given} from {name!r} for {samples}"
    )
