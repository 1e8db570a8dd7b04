"""Runs one plan: its lanes stay warm, a call wakes them all, waits for the last, and combines.

The path of every call, for an input that looks like the last one:

    1. The input's tensors are copied into one block of shared memory that every lane has mapped.
    2. Each lane gets a 16-byte wake-up; they start at once.
    3. Each lane writes its outputs into its own block and answers with packed times (17 bytes per sub-model).
    4. The combine rule reads the outputs where they lie and makes a new tensor, which is the caller's own. On a GPU,
       where that was measured to be faster, the outputs stay there and one lane combines them (`device_combine.py`).

An input of another shape costs one more message per lane, once.

Where the lanes leave a core free, this process is awake for the last moments before the answer is due. One that sleeps
until then pays several times what its part of the work costs, for cold caches and for waking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from select import POLLIN, poll
from typing import Any

from esen_lab.devices import Device, Placement
from esen_lab.devices.in_process import InProcess
from esen_lab.ensemble import Combine, Ensemble, Reserved, SmallMean
from esen_lab.errors import DeviceError, EsenError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.planning import Plan
from esen_lab.runtime.device_combine import CombineTrial, WhereToCombine
from esen_lab.runtime.plan_graph import PlanGraph, PlanGraphs
from esen_lab.runtime.report import RunReport, spans_and_lanes
from esen_lab.trees import Tree, TreeSpec, flatten, map_tensors, select
from esen_lab.units import format_seconds, format_units
from esen_lab.workers import LaneWorker, LocalWorker, Nursery, ProcessWorker, RunTimings
from esen_lab.workers.arena import Block, TreeArena, spec_of
from esen_lab.workers.shared_input import GATE_BYTES

_SETTLE_S = 1.0
_SLICE_S = 0.25
# With a core to spare, the last moments before the expected answer are spent looking instead of sleeping.
_LOOK_PART = 0.05
_LOOK_LEAST_S = 0.0002
_LOOK_MOST_S = 0.001
_LOOK_FROM_S = 0.003  # after a shorter sleep there is nothing to gain
_WORTH_SHARING_BYTES = 1 << 20  # a smaller input reaches each GPU lane sooner than lanes can wait for each other
DEFAULT_TIMEOUT_S = 600.0
AS_ONE_GRAPH = "All lanes ran as one CUDA graph."


class Executor:
    """The warm lanes of one plan. Made by `start`; may be called from several threads, which then take turns."""

    def __init__(
        self,
        plan: Plan,
        ensemble: Ensemble,
        workers: tuple[LaneWorker, ...],
        *,
        core_to_spare: bool = False,
        notes: tuple[str, ...] = (),
        fallen_back: Mapping[str, str] | None = None,
    ) -> None:
        """Use `start`."""
        self.plan = plan
        self.ensemble = ensemble
        self._workers = workers
        self._lock = threading.Lock()
        self._input = TreeArena()
        self._number = 0
        self.input_shared = False  # whether one lane brings the input to the GPU for all
        self._broken = ""
        self._prepared: SmallMean | None = None
        self._reserved: Reserved | None = None  # memory for the next output
        self._prepared_for: tuple[list[int], Combine | None] = ([], None)
        self._core_to_spare = core_to_spare
        self._fallen_back = dict(fallen_back or {})  # sub-model -> why it is executed eagerly against the plan
        self._standing_notes = (*notes, *self._fallen_back.values())  # in every report
        self._lasted_s = 0.0  # from the wake-ups to the last answer, last time; 0: not known for this input
        self._slowest_first = list(range(len(workers)))
        self._graphs = _graphs_of(workers)
        self._where = WhereToCombine(workers)
        self._in_force = tuple(worker.in_force.description for worker in workers)
        self._watch_only_the_living()

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        device: Device,
        nursery: Nursery,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        load_timeout_s: float = 300.0,
    ) -> Executor:
        """Start a worker per lane, load its sub-models and run the whole plan once on the example.

        Args:
            plan: What to run; every sub-model of it is in `ensemble`.
            ensemble: Where the sub-models and the combine rule come from.
            device: Gives each lane its place.
            nursery: Starts the workers.
            on_progress: Called with (sub-models loaded, all), from the threads that load, one at a time.
            load_timeout_s: Deadline for loading one sub-model.

        Raises:
            UsageError: The plan does not fit the ensemble or the device.
            EsenError: A lane could not be started; everything that was started has been ended again.
        """
        _check_fits(plan, ensemble, device)
        workers = _start_lanes(device.place([lane.units for lane in plan.lanes]), nursery)
        try:
            fallen_back = _fill(workers, plan, ensemble, on_progress or _silent, load_timeout_s)
            standing = () if device.identity.kind == "cpu" else device.notes  # simulated; what disturbs lanes now
            spare = _core_to_spare(plan, device)
            executor = cls(plan, ensemble, tuple(workers), core_to_spare=spare, notes=standing, fallen_back=fallen_back)
            executor.run(example_of(ensemble))
        except BaseException:
            for worker in workers:
                worker.close(timeout_s=0)
            raise
        return executor

    def _watch_only_the_living(self) -> None:
        """Make the poller anew: the descriptor of a worker that ended is closed, and may come back as another's."""
        self._poller = poll()
        self._by_fd = {}
        for index, worker in enumerate(self._workers):
            if worker.alive:
                self._poller.register(worker.fileno(), POLLIN)
                self._by_fd[worker.fileno()] = index

    @property
    def in_force(self) -> tuple[str, ...]:
        """For each lane, what its worker found in force."""
        return self._in_force

    @property
    def on_gpu(self) -> bool:
        """Whether its sub-models compute on a GPU."""
        return any(worker.in_force.torch_device != "cpu" for worker in self._workers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every report says: what disturbs lanes, and who is not executed as the plan says."""
        return self._standing_notes

    @property
    def fallen_back(self) -> Mapping[str, str]:
        """For each sub-model that is executed eagerly against the plan, a sentence why."""
        return dict(self._fallen_back)

    @property
    def combine_trial(self) -> CombineTrial:
        """What was measured of combining outputs on the CPU and on the GPU, for the last shape."""
        return self._where.trial

    @property
    def executed(self) -> Mapping[str, str]:
        """For each sub-model how it is really executed: "eager" where what the plan says could not be had."""
        return {
            name: "eager" if name in self._fallen_back else how
            for lane in self.plan.lanes
            for name, how in zip(lane.members, lane.mechanisms, strict=True)
        }

    @property
    def broken(self) -> str:
        """Why it cannot run any more, or ""."""
        if not self._broken:
            dead = [worker.label for worker in self._workers if not worker.alive]
            if dead:
                self._broken = f"{', '.join(dead)} ended"
        return self._broken

    def run(self, x: Tree, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Tree, RunReport]:
        """Run the ensemble once.

        Args:
            x: The input: a tensor, a NumPy array, or a tuple, list or dict of them.
            timeout_s: Deadline for the slowest lane.

        Returns:
            The combined output, and what happened.

        Raises:
            UsageError: The input is nothing a sub-model takes, or outputs cannot be combined.
            ModelError: A sub-model raised; the lanes stay warm.
            WorkerDied: A lane's process is gone; the executor is `broken`.
            WorkerTimeout: The deadline passed; the executor is `broken`.
            KeyboardInterrupt: Lanes that finish within a second stay warm, else the executor is `broken`.
        """
        with self._lock:
            begin = time.perf_counter_ns()
            if self._graphs is not None:
                return self._run_as_graph(self._graphs, as_tensors(x), begin, timeout_s)
            return self._run_in_lanes(x, begin, timeout_s)

    def _run_in_lanes(self, x: Tree, begin: int, timeout_s: float) -> tuple[Tree, RunReport]:
        spec = self._hand_over(x)
        copied = time.perf_counter_ns()
        ahead, reserved = self._prepared, self._reserved
        timings = self._collect(timeout_s)
        done = time.perf_counter_ns()
        self._lasted_s = (done - copied) / 1e9
        output = self._where.combined(self.ensemble, self._combined_here, timeout_s)
        if output is None:
            if ahead is not None and reserved is not None and self._ahead() is ahead:
                output = ahead.into(reserved)
            else:
                output = self._combined_here()
        end = time.perf_counter_ns()
        # For the next run, now that nobody waits: while lanes run, their cores are theirs.
        at: dict[str, tuple[float, float]] = {}
        nan = []
        for lane, packed in zip(self.plan.lanes, timings, strict=True):
            timing = RunTimings.unpack(packed)
            for name, start, stop, is_nan in zip(lane.members, timing.start_ns, timing.end_ns, timing.nan, strict=True):
                at[name] = ((start - begin) / 1e9, (stop - begin) / 1e9)
                if is_nan:
                    nan.append(name)
        starts, ends = (
            [edge(at[name][side] for name in lane.members) for lane in self.plan.lanes]
            for side, edge in ((0, min), (1, max))
        )
        self._slowest_first.sort(key=lambda index: starts[index] - ends[index])
        jct_s = (end - begin) / 1e9
        self._where.after_run(self.ensemble, output, jct_s, last=ends.index(max(ends)))
        ahead = None if self._where.on_gpu else self._ahead()
        self._reserved = None if ahead is None else ahead.reserve()
        report = self._report(
            at,
            nan,
            str(spec),
            jct_s=jct_s,
            copy_s=(copied - begin) / 1e9,
            combine_s=(end - done) / 1e9,
            notes=(self._where.note,) if self._where.note else (),
        )
        return output, report

    def _run_as_graph(self, graphs: PlanGraphs, x: Tree, begin: int, timeout_s: float) -> tuple[Tree, RunReport]:
        """Replay the plan's graph; an input of a new shape runs lane by lane, and its graph is made from that."""
        found = graphs.find(self.ensemble, x)
        if not isinstance(found, PlanGraph) or self.broken:
            output, report = self._run_in_lanes(x, begin, timeout_s)
            why = graphs.make(self.ensemble, x, output, timeout_s) if found is None else str(found)
            return output, replace(report, notes=(*report.notes, f"Not as one graph: {why}")) if why else report
        try:
            ran = found.run(x, timeout_s)
            end = time.perf_counter_ns()
            spans_s = found.spans_s()  # now: the next run overwrites them
        except DeviceError:
            self._broken = "its graph failed on the GPU"
            raise
        except WorkerTimeout:
            self._broken = "its graph did not answer in time"
            raise
        except BaseException:  # an interrupt: nothing new is queued behind what may hang
            if not found.settled(_SETTLE_S):
                self._broken = "it was interrupted, and its graph did not end"
            raise
        copy_s, done_s = (ran.copied_ns - begin) / 1e9, (ran.done_ns - begin) / 1e9
        report = self._report(
            {
                name: (min(copy_s + start, done_s), min(copy_s + stop, done_s))
                for name, (start, stop) in spans_s.items()
            },
            ran.nan,
            found.batch,
            jct_s=(end - begin) / 1e9,
            copy_s=copy_s,
            combine_s=(end - ran.done_ns) / 1e9,
            notes=(AS_ONE_GRAPH,),
        )
        return ran.output, report

    def run_members(self, x: Tree, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Tree, dict[str, Tree]]:
        """Run once and return the combined output and a copy of each sub-model's own; raises as `run` does."""
        with self._lock:
            self._hand_over(x)
            self._collect(timeout_s)
            self._where.bring()
            outputs = self._outputs()
            members = {name: map_tensors(lambda tensor: tensor.clone(), tree) for name, tree in outputs.items()}
            return self._combined_here(), members

    def close(self) -> None:
        """End the lanes. May be called again."""
        self._broken = self._broken or "it was closed"
        if self._graphs is not None:
            self._graphs.close()  # before the streams that they were captured on
        for worker in self._workers:
            worker.close(timeout_s=0.5)
        with self._lock:
            self._input.close()
            self._where.close()

    # --- the parts of a run --------------------------------------------------------------------------------------

    def _hand_over(self, x: Tree) -> TreeSpec:
        """Copy the input where the lanes read it, and wake them."""
        if self.broken:
            raise WorkerDied(f"This plan's lanes cannot run: {self._broken}", hint="Start the plan again.")
        if not self._input.write_plain(x):
            x = as_tensors(x)
            leaves, structure = flatten(x)
            if not self._input.fits(0, leaves, structure):
                self._announce(x)
            self._input.write(0, leaves)
        self._number += 1
        started = []
        try:
            for index in self._slowest_first:  # each wake-up takes a moment: the one that matters goes first
                started.append(index)
                self._workers[index].start_run(self._number)
        except BaseException:
            self._settle({index for index in started if self._workers[index].alive})
            raise
        return self._input.layouts[0].spec

    def _announce(self, x: Tree) -> None:
        """Tell every lane where an input of this looks will lie."""
        _, spec = spec_of(x, "the input")
        if not spec.tensors:
            raise UsageError("The input holds at least one tensor", given=str(spec))
        for submodel in self.ensemble.submodels:
            select_keys(x, submodel.input_keys, submodel.name)
        self._where.stop()  # outputs may look different
        self._lasted_s = 0.0
        grown = self._input.prepare([spec])
        for worker in self._workers:
            worker.set_input(self._input.layouts[0], self._input.block if grown else None)
        self.input_shared = self._share_on_gpu(self._input.layouts[0].size)

    def _share_on_gpu(self, size: int) -> bool:
        """Have one lane bring a large input to the GPU for all of them; whether that is so now."""
        # Lanes in this process read the same memory anyway.
        processes = [worker for worker in self._workers if isinstance(worker, ProcessWorker)]
        lanes = [worker for worker in processes if worker.in_force.torch_device != "cpu"]
        if len(lanes) < 2 or size < _WORTH_SHARING_BYTES:
            return False
        gate = Block.create(GATE_BYTES)
        try:
            lent = lanes[0].lend_input(gate)
            for worker in lanes[1:]:
                worker.borrow_input(lent, gate)
        except EsenError:
            # CUDA IPC is not to be had here (some containers and allocators refuse it): every lane brings its own.
            for worker in lanes:
                worker.set_input(self._input.layouts[0], None)
            return False
        finally:
            gate.close()
        return True

    def _collect(self, timeout_s: float) -> list[bytes]:
        """Wait for every lane; a failure in one is raised after the others are done, so that all stay in step."""
        deadline = time.monotonic() + timeout_s
        timings: dict[int, bytes] = {}
        pending = set(range(len(self._workers)))
        problem: EsenError | None = None
        try:
            if self._core_to_spare and self._lasted_s > _LOOK_FROM_S:
                self._look_out(min(self._lasted_s, timeout_s))
            while pending:
                for index in self._answered(pending, deadline, timeout_s):
                    try:
                        timing = self._workers[index].take_run(self._number)
                    except EsenError as failure:
                        problem = problem or self._named(failure, index)
                        pending.discard(index)
                        continue
                    if timing is not None:
                        timings[index] = timing
                        pending.discard(index)
        except BaseException:
            self._settle(pending)
            raise
        if problem is not None:
            raise problem
        return [timings[index] for index in range(len(self._workers))]

    def _look_out(self, expected_s: float) -> None:
        """Wait until a lane answers, or for a moment longer than expected; the last of it awake and warm."""
        margin = min(max(expected_s * _LOOK_PART, _LOOK_LEAST_S), _LOOK_MOST_S)
        due = time.perf_counter() + expected_s
        while (left := due - margin - time.perf_counter()) > 0.001:
            if self._poller.poll(int(min(left, _SLICE_S) * 1000)):
                return
        if self._prepared is not None and self._reserved is not None:
            self._prepared.into(self._reserved)  # a rehearsal
        while not self._poller.poll(0) and time.perf_counter() < due + margin:
            pass

    def _answered(self, pending: set[int], deadline: float, timeout_s: float) -> list[int]:
        """Lanes that have an answer to take; waits for a moment at most, so maybe none yet."""
        left = deadline - time.monotonic()
        # In slices: an interrupt may reach another thread, and a longer wait here would not notice it.
        ready = self._poller.poll(max(0.0, min(left, _SLICE_S)) * 1000)
        if not ready and left <= _SLICE_S:
            late = [name for index in sorted(pending) for name in self.plan.lanes[index].members]
            raise WorkerTimeout(
                f"Every lane answers within {format_seconds(timeout_s)}",
                given=f"no answer from the lane of {', '.join(late)}",
                hint="Allow more time with timeout_s.",
            )
        return [index for index in (self._by_fd[fd] for fd, _ in ready) if index in pending]

    def _named(self, failure: EsenError, index: int) -> EsenError:
        if isinstance(failure, WorkerDied):
            self._watch_only_the_living()
            members = ", ".join(self.plan.lanes[index].members)
            return WorkerDied(
                f"{failure.rule.rstrip('.')} (it holds {members})",
                worker_traceback=failure.worker_traceback,
                log=failure.log,
                hint="Run again: the lanes are started anew.",
            )
        return failure

    def _settle(self, pending: set[int]) -> None:
        """After an interrupt: let lanes finish what they are at for a moment, and end those that do not."""
        deadline = time.monotonic() + _SETTLE_S
        try:
            while pending and (left := deadline - time.monotonic()) > 0:
                for fd, _ in self._poller.poll(left * 1000):
                    index = self._by_fd[fd]
                    try:
                        if index in pending and self._workers[index].take_run(self._number) is None:
                            continue
                    except EsenError:
                        pass  # what it reports belongs to a run that nobody waits for any more
                    pending.discard(index)
        finally:
            for index in pending:
                self._broken = self._broken or "a lane was ended in the middle of a run"
                self._workers[index].close(timeout_s=0)

    def _outputs(self) -> dict[str, Tree]:
        """Each sub-model's output in the ensemble's order, as views that the next run overwrites."""
        found: dict[str, Tree] = {}
        for lane, worker in zip(self.plan.lanes, self._workers, strict=True):
            found.update(zip(lane.members, worker.outputs(), strict=True))
        return {name: found[name] for name in self.ensemble.names if name in found}

    def _ahead(self) -> SmallMean | None:
        """The combine rule prepared for outputs that look like the last ones, where it can be."""
        rule = self.ensemble.combine
        looks = [worker.looks for worker in self._workers]
        if looks != self._prepared_for[0] or rule is not self._prepared_for[1]:
            known = all(worker.has_outputs for worker in self._workers)
            self._reserved = None
            self._prepared = rule.ahead(self._outputs()) if known else None
            self._prepared_for = (looks, rule)
        return self._prepared

    def _combined_here(self) -> Tree:
        import torch

        with torch.no_grad():
            return self.ensemble.combine(self._outputs())

    def _report(
        self,
        at_s: Mapping[str, tuple[float, float]],
        nan: Collection[str],
        batch: str,
        *,
        jct_s: float,
        copy_s: float,
        combine_s: float,
        notes: tuple[str, ...],
    ) -> RunReport:
        plan, in_force = self.plan, self._in_force
        same_shape = not plan.example or batch == plan.example
        told = list(self._standing_notes)
        if not same_shape:
            told.append(f"The plan was profiled for {plan.example}; this batch is {batch}.")
        found = tuple(name for name in plan.names if name in nan) if nan else ()
        if found:
            told.append(f"NaN in the output of {', '.join(found)}.")
        return RunReport.late(
            lambda: spans_and_lanes(plan, in_force, at_s, same_shape=same_shape),
            jct_s=jct_s,
            copy_s=copy_s,
            combine_s=combine_s,
            predicted_s=plan.jct_s if same_shape else None,
            batch=batch,
            nan=found,
            notes=(*told, *notes),
        )


def _check_fits(plan: Plan, ensemble: Ensemble, device: Device) -> None:
    plan.check_runnable()
    missing = [name for name in plan.names if name not in ensemble.names]
    if missing:
        raise UsageError(
            "A plan runs sub-models that are registered",
            given=f"a plan with {', '.join(missing)}",
            hint="Register them, or search again.",
        )
    widest = max(lane.units for lane in plan.lanes)
    if widest > device.units:
        raise UsageError(
            f"This device has {format_units(device.units, device.identity.unit)}",
            given=f"a lane of {widest}",
            hint="The plan was made for a larger device: search again here.",
        )


def _core_to_spare(plan: Plan, device: Device) -> bool:
    """Whether this process can stay awake without taking a core from a lane."""
    if device.identity.simulated:
        return False  # its lanes compute on cores that nobody counted
    return device.identity.kind != "cpu" or sum(lane.units for lane in plan.lanes) < device.units


def _start_lanes(places: Sequence[Placement], nursery: Nursery) -> list[LaneWorker]:
    """A worker in each place. Processes start side by side, since CUDA takes its time to start in each.

    Raises:
        EsenError: One could not be started; the others have been ended again.
    """
    started: dict[int, LaneWorker] = {}
    given_up = threading.Event()

    def start(index: int) -> None:
        worker = nursery.worker(places[index], label=f"lane {index + 1}")
        started[index] = worker
        if given_up.is_set():
            worker.close(timeout_s=0)

    own = [index for index, place in enumerate(places) if isinstance(place, InProcess)]
    others = [index for index in range(len(places)) if index not in own]
    pool = ThreadPoolExecutor(max_workers=len(others) or 1, thread_name_prefix="esen-start")
    try:
        for index in own:
            start(index)  # their contexts are made on one driver of this process: one at a time
        for future in [pool.submit(start, index) for index in others]:
            future.result()
    except BaseException as problem:
        given_up.set()
        # After an interrupt nothing is waited for: a lane that hangs while it starts would hold the caller up.
        pool.shutdown(wait=isinstance(problem, EsenError), cancel_futures=True)
        for worker in list(started.values()):
            worker.close(timeout_s=0)
        for index in own:
            place = places[index]
            if index not in started and isinstance(place, InProcess):
                place.release()  # its neighbours' groups of SMs wait for it
        raise
    pool.shutdown()
    return [started[index] for index in range(len(places))]


def _fill(
    workers: list[LaneWorker],
    plan: Plan,
    ensemble: Ensemble,
    tell: Callable[[int, int], None],
    timeout_s: float,
) -> Mapping[str, str]:
    """Load every lane's sub-models, the lanes side by side, and tell each lane what a run means.

    Returns:
        What a report must say: sub-models that could not be executed as the plan says, each with a sentence why.
    """
    counting = threading.Lock()
    loaded = 0
    fallen_back: dict[str, str] = {}

    def fill(index: int) -> None:
        nonlocal loaded
        lane = plan.lanes[index]
        for name, active, how in zip(lane.members, lane.active_units, lane.mechanisms, strict=True):
            model = ensemble.get(name)
            payload = model.payload()
            done = False
            if how != "eager":
                from esen_lab.workers.mechanisms import refusal, wrapped

                try:
                    faster = wrapped(payload, how)
                    workers[index].load(name, faster, model.example, active_units=active, timeout_s=timeout_s)
                    done = True
                except ModelError as problem:
                    with counting:
                        told = f"{name} runs eagerly, not as the plan says ({how}): {refusal(problem)}"
                        fallen_back[name] = told
            if not done:
                workers[index].load(name, payload, model.example, active_units=active, timeout_s=timeout_s)
            with counting:
                loaded += 1
                tell(loaded, len(plan.names))
        workers[index].arrange(lane.members, lane.mode)

    with ThreadPoolExecutor(max_workers=len(workers), thread_name_prefix="esen-load") as pool:
        try:
            for future in [pool.submit(fill, index) for index in range(len(workers))]:
                future.result()
        except BaseException:
            for worker in workers:
                worker.kill()  # or the pool would wait for loads that nobody wants any more
            raise
    return fallen_back


def _graphs_of(workers: Sequence[LaneWorker]) -> PlanGraphs | None:
    """What makes one graph of all lanes, where they are streams of this process and all sub-models graphs."""
    lanes = [worker.graph_lane() if isinstance(worker, LocalWorker) else None for worker in workers]
    known = [lane for lane in lanes if lane is not None]
    return PlanGraphs(known) if known and len(known) == len(workers) else None


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def example_of(ensemble: Ensemble) -> Tree:
    """An input for the whole ensemble: the first example; where all are dicts, their keys together."""
    examples = [submodel.example for submodel in ensemble.submodels]
    if not examples:
        raise UsageError("An ensemble has at least one sub-model", given="none", hint="Register one first.")
    if all(isinstance(example, dict) for example in examples):
        return {key: value for example in reversed(examples) for key, value in example.items()}
    return examples[0]


def as_tensors(x: Any) -> Tree:
    """The same tree with NumPy arrays as tensors (sharing their memory where they are writable)."""
    import numpy
    import torch

    if isinstance(x, torch.Tensor):
        return x
    if isinstance(x, numpy.ndarray):
        return torch.from_numpy(x if x.flags.writeable else x.copy())
    if isinstance(x, dict):
        return {key: as_tensors(value) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(as_tensors(value) for value in x) if type(x) in (tuple, list) else x
    return x


def select_keys(x: Tree, keys: tuple[str, ...] | None, name: str) -> None:
    """Check that an input has every argument a sub-model takes; the error names the sub-model."""
    try:
        select(x, keys)
    except UsageError as problem:
        raise UsageError(f"Sub-model {name!r}: {problem.rule}", given=problem.given, hint=problem.hint) from None
