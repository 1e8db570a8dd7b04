"""Combining on the GPU, where the lanes left their outputs: one output crosses to the host in place of all.

That costs one more message per call, so it pays for large outputs and not for small ones. Which of the two an ensemble
has is measured: both ways are tried on the first calls of a shape, and the faster one stays.

    CombineTrial     which way the next call takes
    DeviceCombine    lanes that are set up for the GPU
    WhereToCombine   both together, for the executor
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from esen_lab.common.answers import difference
from esen_lab.common.trees import Tree, map_tensors, tree_spec
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.errors import DeviceError, EsenError, WorkerDied, WorkerTimeout
from esen_lab.lanes import Worker
from esen_lab.lanes.arena import TreeArena

ON_THE_GPU = "The outputs were combined on the GPU."
RUNS_EACH = 3
"""How many calls each way is tried for. The first call of a shape belongs to neither: it lays everything out."""


class CombineTrial:
    """Where the outputs of one shape are combined.

    Attributes:
        refused: Why it cannot be on the GPU, or "".
        on_cpu_s: The JCTs of the calls that combined on the CPU, as far as they count.
        on_gpu_s: Those of the calls that combined on the GPU.
    """

    def __init__(self) -> None:
        self.refused = ""
        self._seen = 0
        self.on_cpu_s: list[float] = []
        self.on_gpu_s: list[float] = []

    @property
    def wants_gpu(self) -> bool:
        """Whether the next call should combine on the GPU: to try it, or because it was faster."""
        if self.refused or len(self.on_cpu_s) < RUNS_EACH:
            return False
        if len(self.on_gpu_s) < RUNS_EACH:
            return True
        return statistics.median(self.on_gpu_s) < statistics.median(self.on_cpu_s)

    def take(self, jct_s: float, *, on_gpu: bool) -> None:
        """Note the time of one call."""
        self._seen += 1
        times = self.on_gpu_s if on_gpu else self.on_cpu_s
        if self._seen > 1 and len(times) < RUNS_EACH:
            times.append(jct_s)

    def refuse(self, why: str) -> None:
        """Never combine on the GPU for this shape: it failed there, or answered differently."""
        self.refused = why


class DeviceCombine:
    """The lanes of one executor set up to combine on the GPU.

    Args:
        workers: The lanes, all on one GPU, each with outputs of a run.
        at: The lane that combines: best the one that answers last.
        rule: One of our rules. A function of the user's stays in the user's process: it may read what changes there.
        order: All sub-models, in the order of the ensemble.
        like: A combined output, for its looks.

    Raises:
        EsenError: A lane could not be set up, as where CUDA IPC is refused; all lanes send their outputs again.
    """

    def __init__(self, workers: Sequence[Worker], at: int, rule: Combine, order: Sequence[str], like: Tree) -> None:
        self._workers = workers
        self._at = workers[at]
        self._output = TreeArena()
        self.checked = False
        """Whether an answer has been compared with that of the CPU."""
        self._output.prepare([tree_spec(like)])
        assert self._output.block is not None
        try:
            # The lane that combines lends nothing: alone, it needs no CUDA IPC.
            for worker in workers:
                worker.gpu.keep_outputs()
            others = tuple(worker.gpu.lend_outputs() for worker in workers if worker is not self._at)
            self._at.gpu.combine_outputs(rule, tuple(order), others, self._output.layouts[0], self._output.block)
        except EsenError:
            self.stop()
            raise

    def combine(self, timeout_s: float) -> Tree:
        """Combine the outputs of the last run.

        Returns:
            The combined output, the caller's own.

        Raises:
            EsenError: The rule failed on the GPU.
        """
        self._at.gpu.combine(timeout_s)
        return map_tensors(lambda leaf: leaf.clone(), self._output.read(0))

    def check(self, output: Tree, on_cpu: Callable[[], Tree]) -> None:
        """Compare a combined output with what the CPU makes of the same outputs; once suffices.

        Raises:
            DeviceError: They differ by more than rounding.
        """
        self.bring()
        found = difference(output, on_cpu())
        if not found.agrees:
            raise DeviceError("A combine rule answers on the GPU as it does on the CPU", given=str(found))
        self.checked = True

    def bring(self) -> None:
        """Have the outputs of the last run on the host too, where `Worker.outputs` reads them."""
        for worker in self._workers:
            worker.gpu.bring_outputs(stay=True)

    def stop(self) -> None:
        """Have all lanes send their outputs to the host again, those of the last run too."""
        # First the lane that reads the others' memory.
        for worker in (self._at, *(worker for worker in self._workers if worker is not self._at)):
            if worker.alive:
                worker.gpu.bring_outputs(stay=False)
        self.close()

    def close(self) -> None:
        """Let go of the output's memory; the lanes are ended by others."""
        self._output.close()


class WhereToCombine:
    """Combines the outputs of one executor's lanes on the GPU, in the calls for which that is set up.

    Args:
        workers: The lanes.
        trial: Makes the trial of one shape; tests give one whose outcome they know.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        trial: Callable[[], CombineTrial] = CombineTrial,
    ) -> None:
        self._workers = workers
        self._make_trial = trial
        self.possible = all(worker.in_force.torch_device != "cpu" for worker in workers)
        """Whether all lanes compute on a GPU."""
        self._there: DeviceCombine | None = None
        self._trial = trial()
        self._trial_for: tuple[Combine, tuple[str, ...], list[int]] | None = None
        self._comparable = True  # whether this run takes as long as others of its way
        self.note = ""
        """What the report of this run says about it."""

    @property
    def trial(self) -> CombineTrial:
        """What was tried so far."""
        return self._trial

    @property
    def on_gpu(self) -> bool:
        """Whether the lanes leave their outputs on the GPU."""
        return self._there is not None

    def _key(self, ensemble: Ensemble) -> tuple[Combine, tuple[str, ...], list[int]]:
        """What a trial holds for: the rule, the order of the sub-models, and what their outputs look like."""
        return ensemble.combine, ensemble.names, [worker.looks for worker in self._workers]

    def combined(self, ensemble: Ensemble, on_cpu: Callable[[], Tree], timeout_s: float) -> Tree | None:
        """Combine what a run left on the GPU.

        Args:
            ensemble: Has the combine rule and the order of the sub-models.
            on_cpu: Combines what lies on the host.
            timeout_s: Deadline.

        Returns:
            The combined output, the caller's own; None where the outputs lie on the host, to be combined there.

        Raises:
            WorkerDied, WorkerTimeout: The lane that combines is gone.
        """
        there, self.note, self._comparable = self._there, "", True
        if there is None:
            return None
        if self._trial_for == self._key(ensemble):
            self._comparable = there.checked
            try:
                output = there.combine(timeout_s)
                if not there.checked:
                    there.check(output, on_cpu)
                self.note = ON_THE_GPU
                return output
            except (WorkerDied, WorkerTimeout):
                raise
            except EsenError as problem:
                self._trial.refuse(str(problem))
        self.stop()
        return None

    def after_run(self, ensemble: Ensemble, output: Tree, jct_s: float, last: int) -> None:
        """Note how long a run took, and set up what the next one does."""
        if not self.possible:
            return
        key, rule = self._key(ensemble), ensemble.combine
        if self._trial_for != key:
            self._trial, self._trial_for = self._make_trial(), key
        if rule.function is not None:
            return  # it may read what its author changes between calls: it is called in the author's process
        if self._comparable:
            self._trial.take(jct_s, on_gpu=self.on_gpu)
        try:
            if not self._trial.wants_gpu:
                self.stop()
            elif self._there is None:
                self._there = DeviceCombine(self._workers, last, rule, ensemble.names, output)
        except EsenError as problem:  # of a lane that failed meanwhile, too: the answer is there, the next run sees it
            self._trial.refuse(str(problem))
        if self._trial.refused:
            self.note = f"The outputs are combined on the CPU: {self._trial.refused}"

    def bring(self) -> None:
        """Have the outputs of the last run on the host, where `Worker.outputs` reads them."""
        if self._there is not None:
            self._there.bring()

    def stop(self) -> None:
        """Have all lanes send their outputs to the host, if they don't."""
        there, self._there = self._there, None
        if there is not None:
            there.stop()

    def close(self) -> None:
        """Let go of what is held here; the lanes are ended by others."""
        if self._there is not None:
            self._there.close()
