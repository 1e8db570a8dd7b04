"""`lab.lanes`: the warm lanes, what is in force in them, and how they execute sub-models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.checks import choose_backends
from esen_lab.lab.stages.precision import choose_precision
from esen_lab.planner.plan import Lane
from esen_lab.profiler.backends import BackendTable
from esen_lab.studies import PrecisionTable


class Lanes:
    """The lanes of one lab."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def in_force(self) -> tuple[tuple[Lane, str], ...]:
        """For each warm lane, what its worker found in force; empty where no lanes are warm."""
        executor = self._runtime.state.warm
        return () if executor is None else tuple(zip(executor.plan.lanes, executor.in_force, strict=True))

    @property
    def unlike(self) -> tuple[str, ...]:
        """For each sub-model whose warm lane answers otherwise than this process does, a sentence: why, what to do."""
        executor = self._runtime.state.warm
        return () if executor is None else tuple(str(item) for item in executor.unlike.values() if item.wrong)

    def choose_backends(
        self,
        *,
        backends: Sequence[str] | None = None,
        budget_s: float = 0.5,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> BackendTable:
        """Measure how each sub-model of the plan is executed fastest at its share, and keep that in the plan.

        By PyTorch itself or by another backend (see docs/backends.md); each must answer as it does eagerly. Later plans
        of this lab execute a sub-model in the way chosen here too, and predict with the time that it takes.

        Args:
            backends: Which backends, such as "inductor" and "openvino"; None: all. "eager" is always among them, so
                that ("eager",) puts all back to it. With "@bf16", "@fp16" or "@int8" after its name one computes in
                that precision; None tries those that `choose_precision` allowed.
            budget_s: Seconds of repeats for each way; preparing comes on top.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: There is no plan, or no such backend.
            EsenError: A sub-model could not be run eagerly either.
        """
        return choose_backends(self._runtime, backends=backends, budget_s=budget_s, on_progress=on_progress)

    def choose_precision(
        self,
        precision: str,
        *,
        agree: float | None = None,
        on: Any = None,
        error: float | None = None,
        values: bool = False,
        backends: Sequence[str] | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> PrecisionTable | None:
        """Allow sub-models to compute in another precision, where their answers are checked to stay what they are.

        Each is run by each backend in that precision, and compared with what it answers eagerly. What disagrees by
        itself, or together with the others, is never taken: not by `choose_backends`, which measures what is allowed
        and takes what is clearly faster, and not in any plan of this lab on this device. Weights that change, and
        another device, need another check.

        Args:
            precision: "bf16", "fp16" (on a GPU), "int8" (on a CPU); "fp32": all compute in their own precision again.
            agree: The least part of the samples, above 0 and at most 1, whose answer must stay, for each sub-model and
                for the ensemble; None for 0.999. What must stay is the likeliest class where the ensemble's answer has
                scores of shape (samples, classes), or classes; else every number, but for `error`.
            on: Data that looks like what will come, as x, or as (x, y) with the right class of each sample, or None for
                y; an x that is a tuple itself is given in the second form. Samples lie along the first dimension of
                every tensor. None: the example, of which only the largest error is looked at. int8
                is calibrated with x (up to 256 of its samples), and never sees y.
            error: The largest error that is allowed, relative to the largest value of an answer; None for 6e-2 in
                bf16, 2e-2 in fp16, 0.25 in int8, which are also the most.
            values: Whether answers are values of a regression, whatever their shape.
            backends: Which backends; None: all that have the precision.
            on_progress: Called with (done, all, what is going on).

        Returns:
            What was found; None for "fp32".

        Raises:
            UsageError: No backend here has that precision, int8 or `agree` without data, or an argument is not
                possible.
            EsenError: A sub-model could not be run eagerly either.
        """
        return choose_precision(
            self._runtime,
            precision,
            on=on,
            agree=agree,
            error=error,
            values=values,
            backends=backends,
            on_progress=on_progress,
        )

    @property
    def precision(self) -> PrecisionTable | None:
        """What was found when another precision was chosen on the device in use; None: all compute in their own.

        It notes which sub-models are others by now: for those it holds no more.
        """
        state = self._runtime.state
        table = state.here.precision
        now = state.ensemble.fingerprints
        changed = [] if table is None else [name for name in table.names if now.get(name) != table.fingerprints[name]]
        if table is None or not changed:
            return table
        note = f"{', '.join(changed)} changed since, and keeps its own precision: choose again to check what it is now."
        return replace(table, notes=(*table.notes, note))

    def leave_gpu(self) -> tuple[str, ...]:
        """Move the notebook's own registered modules from GPUs to the CPU; lanes have copies of their own.

        What the notebook computes on a GPU is time-sliced against all lanes there. Memory that this frees is given
        back; the CUDA context itself (some hundred megabytes) goes with a restart of the kernel.

        Returns:
            The names of the sub-models whose modules were moved.
        """
        return self._runtime.state.originals.leave_gpu()
