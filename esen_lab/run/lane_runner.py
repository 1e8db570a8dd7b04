"""One run through warm lanes: hand the input over, wake the lanes, collect their answers, combine.

The path of every call, for an input that looks like the last one:

    1. The input's tensors are copied into one block of shared memory that every lane has mapped.
    2. Each lane gets a 16-byte wake-up; they start at once.
    3. Each lane writes its outputs into its own block and answers with packed times (17 bytes per sub-model).
    4. The combine rule reads the outputs where they lie and makes a new tensor, which is the caller's own. On a GPU,
       where that was measured to be faster, the outputs stay there and one lane combines them (`device_combine.py`).

An input of another shape costs a message and its answer per lane, once; coming again, 16 bytes (`known_looks.py`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from esen_lab.common.inputs import check_apart, take_in
from esen_lab.common.trees import Tree, TreeSpec, map_tensors, spec_of_leaves, unflatten
from esen_lab.ensemble import Ensemble
from esen_lab.lanes import RunTimings, Worker
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Lane
from esen_lab.run.deadline import Deadline
from esen_lab.run.device_combine import WhereToCombine
from esen_lab.run.host_combine import HostCombine
from esen_lab.run.lane_group import LaneGroup
from esen_lab.run.lane_input import LaneInput, check_keys, spec_of_rows
from esen_lab.run.outcome import MemberRun, Run
from esen_lab.run.request import RunRequest
from esen_lab.run.run_history import RunHistory
from esen_lab.run.start import from_the_system

if TYPE_CHECKING:
    import torch


class LaneRunner:
    """Runs one input at a time through the lanes of a plan. Under the executor's lock.

    Args:
        workers: The lanes.
        group: The same lanes, as one.
        history: Makes the reports.
        core_to_spare: Whether this process can stay awake without taking a core from a lane.

    Attributes:
        where: Combines on the GPU, where lanes leave their outputs there.
        input: Where the lanes read their input.
        threads: Those of the calling process, which are quiet while lanes work.
    """

    def __init__(
        self, workers: Sequence[Worker], group: LaneGroup, history: RunHistory, *, core_to_spare: bool
    ) -> None:
        self._group = group
        self._history = history
        self.threads = CallersThreads()
        self._host = HostCombine(workers, group, self.threads)
        self._core_to_spare = core_to_spare
        self._cores_are_lanes = not core_to_spare and all(worker.own_process for worker in workers)
        self.where = WhereToCombine(workers)
        self.input = LaneInput(workers)
        self._told: tuple[TreeSpec | None, str] = (None, "")

    def run(self, asked: RunRequest) -> Run:
        """Run once.

        Raises:
            EsenError: See `Executor.run`.
        """
        ensemble, deadline, begin_ns, meanwhile = asked.ensemble, asked.deadline, asked.begin_ns, asked.meanwhile
        # 1. Before the lanes wake: copying, in this thread alone.
        self.write(ensemble, asked.x, deadline)
        self._group.wake(asked.seed)
        copied = time.perf_counter_ns()
        # 2. While they work, their cores are theirs: here is only what must be done at this very time, and nothing that
        # writes to the input or reads an output. Where there is no other core, it waits for one that a lane is done
        # with.
        if meanwhile is not None and self._core_to_spare:
            self._group.meanwhile(meanwhile)
        prepared = None if self.where.on_gpu else self._host.ready(ensemble)
        timings = self._group.collect(deadline, self._host.rehearse, None if self._core_to_spare else meanwhile)
        # 3. While the caller waits: the answer, and nothing else.
        done = time.perf_counter_ns()
        self._group.lasted_s = (done - copied) / 1e9
        output = self.where.combined(ensemble, lambda: self._host.combined(ensemble), deadline.left_s)
        if output is None:
            output = self._host.combined(ensemble, prepared)
        # 4. When it is there: reading the times, and all that the next run would have to do.
        end = time.perf_counter_ns()
        jct_s = (end - begin_ns) / 1e9
        times = times_of(asked.plan.lanes, timings, begin_ns)
        self._group.drew.update(times.drew)
        self._prepare_next(ensemble, output, jct_s, times)
        report = self._history.report(
            asked.plan,
            times.at_s,
            times.nan,
            self._in_words(self.input.spec),
            jct_s=jct_s,
            copy_s=(copied - begin_ns) / 1e9,
            combine_s=(end - done) / 1e9,
            notes=self._notes(jct_s),
        )
        return Run(output=output, report=report)

    def _in_words(self, spec: TreeSpec) -> str:
        """What an input looks like, for people; the same object as last time needs no second look."""
        if self._told[0] is not spec:
            self._told = spec, str(spec)
        return self._told[1]

    def _notes(self, jct_s: float) -> list[str]:
        """What is to be said of this run alone."""
        disturbed = self.threads.disturbed(jct_s) if self._cores_are_lanes else ""
        return [note for note in (self._group.stepwise.told_caught_up(), self.where.note, disturbed) if note]

    def _prepare_next(self, ensemble: Ensemble, output: Tree, jct_s: float, times: Times) -> None:
        """What the next run would have to do."""
        self._group.order_by([end - start for start, end in zip(times.starts_s, times.ends_s, strict=True)])
        last = times.ends_s.index(max(times.ends_s))
        if not self._group.derived:  # whoever combines there knows outputs of sub-models alone
            self.where.after_run(ensemble, output, jct_s, last=last)
        if self.where.on_gpu:
            self._host.forget()
        else:
            self._host.prepare(ensemble)

    def run_members(self, ensemble: Ensemble, x: Tree, deadline: Deadline, *, seed: int | None) -> MemberRun:
        """Run once, and answer for every sub-model; raises as `run` does."""
        self.write(ensemble, x, deadline)
        self._group.wake(seed)
        self._group.collect(deadline, self._host.rehearse)
        members = self.members(ensemble)
        return MemberRun(output=self._host.combined(ensemble), members=members)

    def members(self, ensemble: Ensemble) -> dict[str, Tree]:
        """What each sub-model answered in the last run, copies in the order of the ensemble."""
        self.where.bring()
        outputs = self._group.outputs(ensemble.names)
        with self.threads.alone():
            return {name: map_tensors(lambda tensor: tensor.clone(), tree) for name, tree in outputs.items()}

    def write(self, ensemble: Ensemble, x: Tree, deadline: Deadline) -> None:
        """Copy the input where the lanes read it; none of them is at work. `wake` follows."""
        self.make_room(deadline)
        self.hand_over(ensemble, x, deadline)

    def make_room(self, deadline: Deadline) -> None:
        """Go on only where no lane is at work, and all of them are told of the next input."""
        self._group.check(deadline)
        if self.input.parted:
            self.input.leave_to(())

    def write_rows(
        self,
        source: LaneInput,
        rows: torch.Tensor,
        deadline: Deadline,
        late: Collection[int] | None = None,
    ) -> None:
        """Gather some rows of what other lanes read where these read their input; none of them is at work.

        Args:
            source: Where those read it: all its tensors have their rows along dimension 0.
            rows: Which, int64; they may come more than once.
            deadline: Of the whole call.
            late: Lanes that are at work for an earlier run all the same, in a run step by step: the others are told
                when they are woken. None: nobody may be.
        """
        if late is None:
            self.make_room(deadline)
        with self.threads.alone():
            spec = spec_of_rows(source.spec, len(rows))
            if not self.input.looks_like(spec):
                self._announce(spec, deadline, late or (), at_once=late is None)
            self.input.gather(source, rows)

    def wake(self, seed: int | None) -> None:
        """Have the lanes run what was written; their group collects."""
        self.threads.quieten()
        self._group.wake(seed)

    def hand_over(
        self, ensemble: Ensemble, x: Tree, deadline: Deadline, late: Collection[int] = (), *, at_once: bool = True
    ) -> None:
        """Copy the input where the lanes read it, and have this process quiet while they work.

        Args:
            ensemble: Whose input it is.
            x: The input.
            deadline: Of the whole call.
            late: Lanes that are still at work for an earlier run, and read elsewhere.
            at_once: Whether the other lanes are told of another look now, or when they are woken: `LaneInput.tell`.
        """
        with self.threads.alone():
            if not self.input.write_plain(x):
                self._write(ensemble, x, deadline, late, at_once=at_once)
        self.threads.quieten()

    def _write(self, ensemble: Ensemble, x: Tree, deadline: Deadline, late: Collection[int], *, at_once: bool) -> None:
        leaves, structure = take_in(x)
        for submodel in ensemble.submodels if len(leaves) > 1 else ():
            if submodel.protect_input:
                check_apart(leaves, structure, submodel.name)
        if not self.input.fits(leaves, structure):
            spec = spec_of_leaves(leaves, structure, "the input")
            check_keys(unflatten(spec.structure, spec.tensors), ensemble)
            self._announce(spec, deadline, late, at_once=at_once)
        self.input.write(leaves)

    def _announce(
        self, spec: TreeSpec, deadline: Deadline, late: Collection[int] = (), *, at_once: bool = True
    ) -> None:
        def waiting() -> AbstractContextManager[object]:
            return deadline.ending(self._group.watch.end, "lanes that take an input of another shape")

        with from_the_system():
            self.look_different()
            self.input.announce(spec, late, at_once=at_once or not self.input.tells_later, waiting=waiting)

    def look_different(self) -> None:
        """Outputs may look different from now on, and take another time.

        Raises:
            EsenError: A lane has ended.
        """
        self.where.stop()
        self._group.lasted_s = 0.0

    def replace(self, index: int, worker: Worker) -> None:
        """Another process is this lane from now on, loaded, in the place of one that has ended."""
        self._group.replace(index, worker)
        self.input.forget_lane(index)
        self.forget()

    def forget(self) -> None:
        """Sub-models or the combine rule are other ones: nothing that was prepared holds."""
        self._host.forget()
        self._group.lasted_s = 0.0

    def close(self) -> None:
        """Let go of the memory; the lanes are ended by others."""
        self.input.close()
        self.where.close()


class Times(NamedTuple):
    """When sub-models and lanes ran, in seconds since the call began; who put out NaN, and who was seen to draw."""

    at_s: dict[str, tuple[float, float]]
    nan: list[str]
    drew: list[str]
    starts_s: list[float]
    ends_s: list[float]


def times_of(lanes: Sequence[Lane], timings: Sequence[bytes], begin_ns: int) -> Times:
    """What the lanes packed."""
    times = Times({}, [], [], [], [])
    for lane, packed in zip(lanes, timings, strict=True):
        timing = RunTimings.unpack(packed)
        for name, start, end in zip(lane.members, timing.start_ns, timing.end_ns, strict=True):
            times.at_s[name] = ((start - begin_ns) / 1e9, (end - begin_ns) / 1e9)
        times.nan.extend(itertools.compress(lane.members, timing.nan))
        times.drew.extend(itertools.compress(lane.members, timing.drew))
        times.starts_s.append((min(timing.start_ns) - begin_ns) / 1e9)
        times.ends_s.append((max(timing.end_ns) - begin_ns) / 1e9)
    return times
