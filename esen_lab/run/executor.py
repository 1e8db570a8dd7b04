"""Runs one plan: its lanes stay warm from call to call, and calls from several threads take turns.

start.py          how lanes start, and load their sub-models
lane_group.py     the lanes as one: woken, waited for, ended; lane_watch.py who of them is alive, at work, late
stepwise.py       the same lanes, for runs that do not wait for all of them
lane_steps.py     what lanes load for groups and parts, and their outputs parted again
request.py        what one run is asked for: handed to one of these
lane_runner.py    one run: hand over, wake, collect, combine
graph_runner.py   one run of a plan that is one CUDA graph
stage_runner.py   one run of a plan in stages
partial_runner.py one run that may be answered by some of the members; member_collector.py collects them
stage_partial.py  the same of a plan in stages; stages_so_far.py decides who leaves, stage_checks.py who may be asked
run_history.py    what is known from run to run; the reports
fidelity.py       whether the lanes answer as the notebook does
member_state.py   what sub-models keep between calls
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from select import POLLIN, poll
from typing import Any, TypeVar

from esen_lab.common.inputs import ordinary_tensors
from esen_lab.common.locks import Lock
from esen_lab.common.trees import Tree
from esen_lab.devices import Device, Placement
from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.chance import PROOF_SEED, draw_seed
from esen_lab.errors import DeviceError, EsenError, ModelError, UsageError
from esen_lab.lanes import ForkServer, Worker
from esen_lab.lanes.forks import tell_when_forked
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run.deadline import NEVER, Deadline
from esen_lab.run.fidelity import Fidelity, Unlike
from esen_lab.run.graph_runner import GraphRunner, graphs_of
from esen_lab.run.lane_group import LaneGroup
from esen_lab.run.lane_runner import LaneRunner
from esen_lab.run.lane_steps import steps_of
from esen_lab.run.member_state import MemberState
from esen_lab.run.options import RunOptions
from esen_lab.run.outcome import MemberRun, Run
from esen_lab.run.partial_runner import PartialRunner
from esen_lab.run.reference_answers import ExportedAnswers
from esen_lab.run.request import PLAIN, Runner, RunRequest
from esen_lab.run.run_history import RunHistory
from esen_lab.run.stage_checks import check_stages
from esen_lab.run.stage_partial import StagePartialRunner
from esen_lab.run.stage_runner import StageRunner
from esen_lab.run.start import (
    GivenUp,
    Graphs,
    Loading,
    core_to_spare,
    from_the_system,
    load_lanes,
    places_of,
    remarks_on_lanes,
    renewing,
    silent,
    start_lanes,
)
from esen_lab.run.turns import Turns

DEFAULT_TIMEOUT_S = 600.0
_LOAD_S = 300.0  # may loading one sub-model take
_LATE_S = 10.0  # is waited for late lanes before others are started beside them
_LOOK_S = 0.005
_Done = TypeVar("_Done")


class Executor:
    """The warm lanes of one plan. Made by `start`; may be called from several threads, which then take turns.

    Attributes:
        plan: What runs.
        names: Its sub-models.
        ensemble: These sub-models, and the combine rule.
        history: What is known of its runs, and what every report says.
        fidelity: Whether its lanes answer as the notebook does.
        seed: What the random numbers of its last run were made of; None: it drew none.
        lanes: Runs it lane by lane.
    """

    def __init__(
        self,
        plan: Plan,
        ensemble: Ensemble,
        workers: list[Worker],
        loading: Loading,
        device: Device,
        fork_server: ForkServer,
        places: Sequence[Placement] = (),
        graphs: Graphs | None = None,
    ) -> None:
        """Use `start`."""
        import torch

        self._in_inference_mode = torch.is_inference_mode_enabled
        self.plan, self.names = plan, plan.names
        self.ensemble = ensemble
        self._workers = workers
        self._fork_server = fork_server
        self._places = places
        self._graphs = graphs
        self.seed: int | None = None
        self._turns = Turns()  # of calls from several threads
        self._lock = Lock()
        # Simulated devices, and what disturbs lanes on real ones at present.
        notes = () if device.identity.kind == "cpu" else device.notes
        self.history = RunHistory(
            workers,
            device=device.identity.to_dict(),
            notes=(*notes, *remarks_on_lanes(plan, device)),
            fallen_back=loading.fallen_back,
            interference=partial(device.interference, measure=True),
        )
        spare = core_to_spare(plan, device)
        self.lanes: LaneRunner | StageRunner
        self._groups: tuple[LaneGroup, ...]  # one, or one for each stage
        self._graph: GraphRunner | None = None
        self._partial: PartialRunner | StagePartialRunner
        if plan.staged:
            self.lanes = stages = StageRunner(workers, plan, fork_server, self.history, core_to_spare=spare)
            self._groups = tuple(stage.group for stage in stages.stages)
            self._partial = StagePartialRunner(stages, self.history)
        else:
            group = LaneGroup(workers, plan.lanes, fork_server, core_to_spare=spare)
            self._groups = (group,)
            self.lanes = lanes = LaneRunner(workers, group, self.history, core_to_spare=spare)
            captured = graphs_of(workers)
            self._graph = None if captured is None else GraphRunner(captured, group.watch, lanes, self.history)
            self._partial = PartialRunner(group, lanes, self.history)
        self._watches = tuple(group.watch for group in self._groups)
        self._runner = self._graph or self.lanes
        self._state = MemberState(workers, plan.lanes)
        self._state.look(steps_of(plan, ensemble))
        self.fidelity = Fidelity(
            fork_server,
            workers,
            loading.other_code,
            on_gpu=self.lanes.where.possible,
            executed=lambda: self.history.executed(self.plan),
            in_lanes=lambda: [members_of(lane.members) for lane in self.plan.lanes],
        )
        tell_when_forked(self)

    def let_go_in_child(self) -> None:
        """See `Forked`."""
        self._turns, self._lock = Turns(), Lock()
        self._give_up("it belongs to the process that this one was forked from")

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        device: Device,
        fork_server: ForkServer,
        *,
        on_progress: Callable[[int, int], object] = silent,
        given_up: GivenUp | None = None,
        graphs: Graphs | None = None,
        exported_under: Mapping[str, Any] | None = None,
    ) -> Executor:
        """Start a worker per lane, load its sub-models and run the whole plan once on the example.

        Args:
            plan: What to run; every sub-model of it is in `ensemble`.
            ensemble: Where the sub-models and the combine rule come from.
            device: Gives each lane its place.
            fork_server: Starts the workers.
            on_progress: Called with (sub-models loaded, all), from the threads that load, one at a time.
            given_up: Lets another thread end the start.
            graphs: For each sub-model what engines have made of it where it was exported, by name.
            exported_under: The switches of torch that were set where it was exported: lanes are compared with what the
                sub-models answered there. None: it was not exported.

        Raises:
            UsageError: The plan does not fit the ensemble or the device.
            Cancelled: It was given up.
            EsenError: A lane could not be started; everything that was started has been ended again.
        """
        check_fits(plan, ensemble, device)
        check_stages(plan, ensemble)
        steps = steps_of(plan, ensemble)
        given_up = given_up or GivenUp()
        if exported_under is not None:
            fork_server.own_answers = ExportedAnswers(exported_under)
        with from_the_system():
            places = places_of(plan, device)
            workers = start_lanes(places, fork_server, given_up)
        try:
            with from_the_system():
                loading = load_lanes(
                    workers,
                    plan,
                    steps,
                    timeout_s=_LOAD_S,
                    tell=on_progress,
                    graphs=graphs,
                    renew=renewing(workers, places, fork_server, given_up),
                )
            executor = cls(plan, ensemble, workers, loading, device, fork_server, places, graphs)
            executor._compare_with_notebook(NEVER)
            executor.history.forget()  # that one was cold
            if isinstance(executor._partial, PartialRunner) and isinstance(executor._runner, LaneRunner):
                executor._partial.rehearse(ensemble)
            given_up.check()
        except BaseException:
            for worker in workers:
                worker.close(timeout_s=0)
            raise
        return executor

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def in_force(self) -> tuple[str, ...]:
        """For each lane, what its worker found in force."""
        return self.history.in_force

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of its lanes; a lane in this process has none."""
        return tuple(worker.pid for worker in self._workers if worker.own_process)

    @property
    def unlike(self) -> Mapping[str, Unlike]:
        """The sub-models whose lanes are not what the notebook is, as of the last time that was looked at."""
        return self.fidelity.unlike

    @property
    def begins_anew(self) -> bool:
        """Whether no run is as the one before: a member keeps state, or draws random numbers."""
        return bool(self._state.keeping) or self._state.random

    @property
    def runs_once(self) -> bool:
        """Whether a run must not be repeated: it would answer differently, or call the user's own rule once more."""
        return self.begins_anew or self.ensemble.combine.function is not None

    @property
    def keeping(self) -> tuple[str, ...]:
        """Members that keep state between calls."""
        return self._state.keeping

    @property
    def random(self) -> bool:
        """Whether a member draws random numbers."""
        return self._state.random

    @property
    def broken(self) -> str:
        """Why it cannot run any more, or ""."""
        return next((why for watch in self._watches if (why := watch.broken)), "")

    def _give_up(self, why: str) -> None:
        """All lanes are broken from now on; the first reason stays."""
        for watch in self._watches:
            watch.give_up(why)

    def _end_lanes(self) -> None:
        """A deadline has passed: end all lanes, without waiting for their ends."""
        for watch in self._watches:
            watch.end()

    @property
    def _late(self) -> bool:
        """Whether a lane is still at work for a run that nobody waits for any more."""
        return any(watch.late for watch in self._watches)

    def notice_ended(self) -> bool:
        """Look whether a lane's process has ended while nobody asked it; whether the executor is `broken`."""
        with self._lock:
            watched = {worker.process_fd: worker for worker in self._workers if worker.process_fd >= 0}
            poller = poll()
            for fd in watched:
                poller.register(fd, POLLIN)
            ended = poller.poll(0)
            for fd, _ in ended:
                watched[fd].close(timeout_s=0)
            for watch in self._watches if ended else ():
                watch.only_the_living()
        return bool(self.broken)

    @property
    def revivable(self) -> bool:
        """Whether lanes that have ended can be started alone: processes on the CPU, beside others that live.

        On a GPU they share its memory and its context with the others: all are started anew.
        """
        ended = [not worker.alive for worker in self._workers]
        alone = all(worker.own_process and worker.in_force.torch_device == "cpu" for worker in self._workers)
        given_up = any(watch.given_up for watch in self._watches) or self._state.measuring
        usable = not given_up and not self._fork_server.elsewhere and bool(self._places)
        return alone and any(ended) and not all(ended) and usable

    def revive(self, given_up: GivenUp) -> None:
        """Start the lanes that have ended anew, in their places; the others stay as they are.

        Their members begin as they were registered. Reports of the next run name them.

        Raises:
            Cancelled: It was given up.
            EsenError: They could not be started: the executor is `broken`.
        """
        with self._lock:
            self._wait_for_late()
            ended = [index for index, worker in enumerate(self._workers) if not worker.alive]
            names = [name for index in ended for name in self.plan.lanes[index].members]
            with from_the_system():
                started = start_lanes([self._places[i] for i in ended], self._fork_server, given_up, numbers=ended)
            try:
                workers, steps = list(self._workers), steps_of(self.plan, self.ensemble)
                for index, worker in zip(ended, started, strict=True):
                    workers[index] = worker
                with from_the_system():
                    loading = load_lanes(
                        workers,
                        self.plan,
                        steps,
                        timeout_s=_LOAD_S,
                        only=names,
                        graphs=self._graphs,
                        renew=renewing(workers, self._places, self._fork_server, given_up),
                    )
                for index in ended:
                    self._workers[index] = workers[index]
                    self.lanes.replace(index, workers[index])
            except BaseException:
                for index in ended:
                    workers[index].close(timeout_s=0)
                raise
            self.history.lanes_are(self._workers)
            self.history.loaded_anew(names, loading.fallen_back)
            self.fidelity.loaded_anew(members_of(names), loading.other_code)
            self._state.look(steps, names)
        self._compare_with_notebook(Deadline(_LOAD_S))
        self.history.forget()
        self.history.news = f"The lane of {', '.join(names)} had ended and was started anew; the others stayed warm."
        given_up.check()

    def _wait_for_late(self) -> None:
        """Wait for a while for lanes that are late; others that have ended are not in the way.

        Raises:
            WorkerTimeout: They are still at work, and all lanes are ended.
        """
        deadline = Deadline(_LATE_S)
        while self._late:
            if not deadline.left_s:
                self._end_lanes()
                raise deadline.passed("lanes that are late, beside others that have ended")
            time.sleep(_LOOK_S)
            for group in self._groups:
                group.stepwise.look_at_late()

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(
        self,
        x: Tree,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        seed: int | None = None,
        meanwhile: Callable[[], object] | None = None,
        deadline: Deadline | None = None,
        in_turn: bool = False,
        at_turn: Callable[[], object] | None = None,
        options: RunOptions | None = None,
        due: Deadline | None = None,
        failed: Mapping[str, EsenError] | None = None,
    ) -> Run:
        """Run the ensemble once.

        Args:
            x: The input: a tensor, a NumPy array, or a tuple, list or dict of them; see `inputs.take_in`.
            timeout_s: Deadline of the whole call, waiting for other threads' calls included.
            seed: What random numbers are made of; None draws it from the session's generator where a member needs one.
            meanwhile: Called while the lanes work.
            deadline: One that has begun earlier, in the place of `timeout_s`.
            in_turn: Whether the caller sees to it that no other thread uses these lanes meanwhile.
            at_turn: Called when the call has its turn, before anything else: a look at what this thread has set.
            options: What is asked for besides the answer of all members; see `RunOptions`.
            due: When the answer is due, where `options` has a deadline that has begun earlier.
            failed: Members that are left out from the start, where `options` leaves out who fails, and why.

        Returns:
            The combined output, of ordinary tensors also inside `torch.inference_mode`, and what happened.

        Raises:
            DeadlineMissed: Fewer members than were asked for were done when the answer was due; the lanes stay warm.
            UsageError: The options cannot be had for this ensemble, the input cannot go in, a sub-model raised at
                dtypes or a structure that the example does not have, or outputs cannot be combined.
            ModelError: A sub-model raised; the lanes stay warm.
            WorkerDied: A lane's process is gone; the executor is `broken`.
            WorkerTimeout: The deadline passed. While lanes worked: they are ended, the executor is `broken`. While it
                waited for its turn: nothing has happened.
            Busy: Too many other calls wait.
            KeyboardInterrupt: Lanes that finish within a second stay warm, else the executor is `broken`.
        """
        if self._fork_server.elsewhere:
            self._fork_server.check_here()
        deadline = deadline or Deadline(timeout_s)
        if options is None or options.plain:
            work = partial(self._run, self._runner, PLAIN, None, seed, meanwhile)
        else:
            options.check(self.ensemble, self.plan.names, self._state.keeping)
            if self.plan.staged:
                options.check_stages()
            if due is None and options.deadline_s is not None:
                due = Deadline(options.deadline_s)
            work = partial(self._run, self._partial, options, due, seed, meanwhile, failed=failed)
        if in_turn:
            return self._run_now(work, x, deadline)
        with self._turns.turn("a run", deadline):
            if at_turn is not None:
                at_turn()
            return self._run_now(work, x, deadline)

    def _run_now(self, work: Callable[[Tree, Deadline], _Done], x: Tree, deadline: Deadline) -> _Done:
        self.seed = None  # of this call; that of an earlier one would repeat its numbers
        if self.fidelity.outdated or self.fidelity.doubted:
            self._all_at_rest(deadline)
            with self._lock, deadline.ending(self._end_lanes, "lanes that take the session's settings"):
                self.fidelity.take_settings()
            self._compare_with_notebook(deadline)
        return self._in_lanes(work, x, deadline)

    def _in_lanes(self, work: Callable[[Tree, Deadline], _Done], x: Tree, deadline: Deadline) -> _Done:
        """Do something with the lanes, alone, outside of `torch.inference_mode`: the tensors made are ordinary ones."""
        if self._in_inference_mode():
            with ordinary_tensors():
                return self._in_lanes(work, x, deadline)
        with self._lock:
            try:
                return work(x, deadline)
            except ModelError as problem:
                odd = self.lanes.input.unlike(self.ensemble.example)
                if not odd:
                    raise
                raise UsageError(
                    "An input has the structure and dtypes of the examples, or others that every sub-model takes",
                    given=f"{odd}; {problem.rule}",
                    hint="Convert it, such as x.to(torch.float32), or register with an example that looks like it.",
                ) from problem

    def _run(
        self,
        runner: Runner,
        options: RunOptions,
        due: Deadline | None,
        seed: int | None,
        meanwhile: Callable[[], object] | None,
        x: Tree,
        deadline: Deadline,
        *,
        ensemble: Ensemble | None = None,
        failed: Mapping[str, EsenError] | None = None,
    ) -> Run:
        begin_ns = time.perf_counter_ns()
        asked = RunRequest(
            plan=self.plan,
            ensemble=ensemble or self.ensemble,
            x=x,
            deadline=deadline,
            seed=self._drawn(seed),
            begin_ns=begin_ns,
            meanwhile=meanwhile,
            options=options,
            due=due,
            failed=failed or {},
        )
        run = runner.run(asked)
        if not self._state.draws(self._take_drew()):
            return run
        self._tell_of_members()
        if due is not None or self.keeping or self.ensemble.combine.function is not None:
            return run
        # Made again, so that the seed of the session repeats this one too; what was drawn once is not drawn again.
        seed = self._drawn(seed) if asked.seed is None else asked.seed
        run = runner.run(replace(asked, seed=seed, begin_ns=time.perf_counter_ns(), meanwhile=None))
        self._take_drew()  # it is known: a lane that is loaded anew has still to show it
        return run

    def _take_drew(self) -> set[str]:
        """Steps that were seen to draw random numbers since this was asked last."""
        return {step for group in self._groups for step in group.take_drew()}

    def _drawn(self, seed: int | None) -> int | None:
        """What a run's random numbers are made of; None where no member draws any."""
        self.seed = (draw_seed() if seed is None else seed) if self._state.random else None
        return self.seed

    def _all_at_rest(self, deadline: Deadline) -> None:
        """Wait for lanes that are late from an earlier run: nothing can be asked of them before."""
        if self._late:
            with self._lock:
                for group in self._groups:
                    group.check(deadline)

    def look_at_late(self) -> None:
        """Notice what has become of lanes that were late; the caller has the turn."""
        if self._late:
            with self._lock:
                for group in self._groups:
                    group.stepwise.look_at_late()

    def run_members(self, x: Tree, *, timeout_s: float = DEFAULT_TIMEOUT_S, combined: bool = False) -> MemberRun:
        """Run once and answer for each sub-model too; raises as `run` does.

        Sub-models run as they were registered, with the random numbers of `PROOF_SEED`: what they answer can be
        compared. After it they are what they were before, and so is what a combine rule of the user's own keeps.

        Args:
            x: The input.
            timeout_s: Deadline of the whole call.
            combined: Whether the combined output is wanted too; where not, a rule of the user's own is not called.
        """
        deadline = Deadline(timeout_s)
        ensemble = self.ensemble if combined else self._uncombined
        with self._turns.turn("a run of members", deadline):
            return self._in_lanes(partial(self._run_members, ensemble), x, deadline)

    def _run_members(self, ensemble: Ensemble, x: Tree, deadline: Deadline) -> MemberRun:
        self._all_at_rest(deadline)
        with self.measuring():
            self.fidelity.take_settings()
            seed = PROOF_SEED if self._state.random else None
            return self.lanes.run_members(ensemble, x, deadline, seed=seed)

    @property
    def _uncombined(self) -> Ensemble:
        rule = self.ensemble.combine.unasked()
        return self.ensemble if rule is self.ensemble.combine else self.ensemble.with_combine(rule)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Runs inside begin with sub-models as they were registered; after it they are what they were before.

        So is what a combine rule of the user's own keeps.
        """
        self._all_at_rest(NEVER)
        with self._lock:
            self._state.begin()
        try:
            with self.ensemble.combine.kept():
                yield
        finally:
            # An interrupt may come before this line, and then nothing is put back here: see `at_rest`.
            with self._lock:
                self._state.end(put_back=not self.broken)
                self._tell_of_members()

    def at_rest(self, deadline: Deadline) -> None:
        """Put back what a measurement that was interrupted at its very end has left; nobody measures now."""
        if self._state.measuring:
            self._all_at_rest(deadline)
            with self._lock, deadline.ending(self._end_lanes, "lanes that get back the state that they had"):
                self._state.end_all()
            self._tell_of_members()

    # --- other sub-models, and the end ---------------------------------------------------------------------------

    def keep_to(self, plan: Plan, ensemble: Ensemble, *, deadline: Deadline = NEVER) -> None:
        """Go on with a plan of the same lanes; sub-models that are not what the lanes hold are loaded anew.

        Args:
            plan: Its lanes are those of now.
            ensemble: Its sub-models, and the combine rule from now on.
            deadline: Of all of it.

        Raises:
            EsenError: One could not be loaded, or not in time, or is not what the notebook is in a process that ran
                before: a new one would import anew what this one holds. The executor is `broken`.
        """
        before = self.ensemble
        if plan is self.plan and ensemble is before:
            return
        self.plan, self.names = plan, plan.names
        changed = [name for name in plan.names if not ensemble.get(name).same_as(before.get(name))]
        if not changed:
            self.ensemble = ensemble
            return
        anew = [name for name in plan.steps if not set(changed).isdisjoint(members_of([name]))]
        words = f"the lanes of {', '.join(changed)}, which had changed and are loaded anew"
        self._all_at_rest(deadline)
        with self._lock:
            try:
                with from_the_system(), deadline.ending(self._end_lanes, words):
                    self.lanes.where.stop()
                    steps = steps_of(plan, ensemble)
                    loading = load_lanes(self._workers, plan, steps, timeout_s=_LOAD_S, only=anew, renew=self._renewed)
            except BaseException:
                # Some of them may be the old ones, and some the new ones: nobody runs that.
                self._give_up("a sub-model that had changed could not be loaded")
                raise
            self.history.loaded_anew(anew, loading.fallen_back)
            self.fidelity.loaded_anew(members_of(anew), loading.other_code)
            self.ensemble = ensemble
            self._state.look(steps, anew)
            self.lanes.forget()
        self._compare_with_notebook(deadline)
        if self.unlike.keys() & set(changed):
            self._give_up("its lanes hold what was imported before a sub-model changed")
            raise DeviceError("Lanes hold what the notebook holds", given=f"older code of {', '.join(changed)}")

    def _renewed(self, index: int) -> Worker:
        """A lane whose process has ended, started anew."""
        worker = renewing(self._workers, self._places, self._fork_server, GivenUp())(index)
        self.lanes.replace(index, worker)
        self.history.lanes_are(self._workers)
        return worker

    def _compare_with_notebook(self, deadline: Deadline) -> None:
        """Run the example once, and compare each answer with the notebook's own; what the run changed is put back.

        Args:
            deadline: Lanes that are not done then are ended.

        Raises:
            WorkerTimeout: The deadline passed; the executor is `broken`.
        """
        x = self.ensemble.example
        # In stages the rule decides who leaves, and takes any number of rows: whether it does is seen here. A graph is
        # made for its rule, and its answer is compared with that of the lanes.
        combines = self.plan.staged or self._graph is not None
        ensemble = self.ensemble if combines else self._uncombined
        ran = Deadline(DEFAULT_TIMEOUT_S) if deadline is NEVER else deadline
        words = "lanes that are compared with the notebook"
        with self._lock, deadline.ending(self._end_lanes, words), self.measuring():
            self.fidelity.take_settings()
            # As later runs are: what is made for a first one is made now.
            self._in_lanes(partial(self._run, self._runner, PLAIN, None, PROOF_SEED, None, ensemble=ensemble), x, ran)
            if self._graph is None and isinstance(self.lanes, LaneRunner):
                answers: Mapping[str, Tree] = self.lanes.members(self.ensemble)
            else:  # a graph leaves no outputs of members, stages those of some rows
                answers = self._in_lanes(partial(self._run_members, ensemble), x, ran).members
        self.fidelity.look(answers, self.ensemble, x)
        self._tell_of_members()

    def _tell_of_members(self) -> None:
        self.history.members = (*map(str, self.unlike.values()), *self._state.note)

    def close(self) -> None:
        """End the lanes. May be called again."""
        self._give_up("it was closed")
        if self._graph is not None:
            self._graph.close()  # before the streams that they were captured on
        for worker in self._workers:
            worker.close(timeout_s=0.5)
        with self._lock:
            self.lanes.close()
