"""The lab itself: what people call daily, one short method per stage, and its parts for the rest.

    register -> profile -> fit -> search -> run / compare -> save / export

Every method works from plain Python and from several threads; the notebook's magics call nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Tree
from esen_lab.cost_model import Quantile
from esen_lab.devices import Device, open_device
from esen_lab.ensemble import Combine, Ensemble, SubModel, make_combine
from esen_lab.lab.lab_status import DeviceChange
from esen_lab.lab.properties import LabProperties
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import SearchRequest
from esen_lab.lab.stages import checks, edit, load, members, plans, profile, rate, run, search, serve
from esen_lab.lab.stages import device as device_stage
from esen_lab.lab.stages.run_call import RunCall
from esen_lab.lab.state import LabState
from esen_lab.planner import Limits, SearchJob, SearchProgress
from esen_lab.planner.editor import PlanEditor
from esen_lab.planner.plan import Plan
from esen_lab.profiler import ProfileJob
from esen_lab.run import Comparison, RunOptions
from esen_lab.run.numerics import NumericsVerdict
from esen_lab.run.options import OnFailure, Otherwise, StopEarly
from esen_lab.run.turns import MOST_WAITING
from esen_lab.studies import AdaptiveProfileJob

if TYPE_CHECKING:
    from esen_lab.export import Exported
    from esen_lab.export.ray_serve import RayServeApplication
    from esen_lab.export.triton import TritonRepository
    from esen_lab.load import LoadTable
    from esen_lab.serving.server import Server


class Lab(LabProperties):
    """One ensemble on one device.

    Args:
        device: A device's name ("cpu", "cuda:0 mps"), a `Device`, or None for the best one that passes its self-test.
        store: Where measured points are kept: a file, made when it is needed, and the history beside it; None: the
            user's cache folder.
        combine: The combine rule, see `combine`.
        most_waiting: How many calls may wait while another one has the device; one more is refused (`Busy`). They get
            their turns in the order in which they came.

    Raises:
        UsageError: The device or the rule is unknown, `store` cannot name a file, or `most_waiting` is no whole number
            above 0.
    """

    def __init__(
        self,
        device: str | Device | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        combine: str | Callable[..., Any] = "mean",
        most_waiting: int = MOST_WAITING,
    ) -> None:
        chosen = open_device(device)
        state = LabState(device=chosen, ensemble=Ensemble(submodels=(), combine=make_combine(combine)))
        super().__init__(Runtime(state, most_waiting, store, run.run))

    # --- where and who -------------------------------------------------------------------------------------------

    def use_device(self, device: str | Device | None) -> DeviceChange:
        """Go on with another device. Its lanes end, the sub-models stay.

        Measurements hold for the device they were made on: those of the new one come from the store as far as it has
        them. A plan for another device is put away, and is there again when its device is chosen again.

        Args:
            device: As for `Lab`.

        Raises:
            UsageError: The device is unknown, or something is still being measured.
            DeviceError: Something that it needs is missing. The lab stays on the device it had.
        """
        return device_stage.use_device(self._runtime, device)

    def register(
        self,
        name: str,
        source: Any,
        example: Tree = None,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        namespace: Mapping[str, Any] | None = None,
    ) -> SubModel:
        """Add a sub-model; one of the same name is replaced, in its place.

        Args:
            name: How it is called; see `esen_lab.common.units.NAME_RULE`.
            source: An `nn.Module`, a callable that returns one, "package.module:factory", or the text of a cell. Or a
                member of another kind (docs/members.md): an ONNX or OpenVINO model, a ScriptModule, an
                `ExportedProgram`, or the path of such a file; a fitted estimator; a callable of tensors or arrays.
            example: An input it takes (tensor; tuple or list by position; dict by keyword). None: the example of the
                first registered sub-model.
            args: Positional arguments of a factory.
            kwargs: Keyword arguments of a factory; or `outputs`, the names of the answers that an ONNX or OpenVINO
                model gives, or `method`, which of an estimator's answers.
            namespace: The names that the text of a cell may use.

        Raises:
            UsageError: The name, source or example is unfit, or a new member does not take the input that the others
                take; the message says how. One that is replaced may: what does not fit then is said by whatever
                measures, searches or runs next.
            ModelError: Building the module, or running it on the example, raised.
        """
        return members.register(self._runtime, name, source, example, args=args, kwargs=kwargs, namespace=namespace)

    def unregister(self, name: str) -> None:
        """Remove a sub-model.

        Raises:
            UsageError: There is none of that name.
        """
        members.unregister(self._runtime, name)

    def combine(self, rule: str | Callable[..., Any], weights: Any = None) -> Combine:
        """Choose how outputs become one.

        Args:
            rule: "mean", "softmax-mean", "weighted", "majority", "stack", a callable, or "package.module:function".
            weights: For "weighted": one number per sub-model, by name or in order.

        Raises:
            UsageError: The rule is unknown, the weights are not those of the registered sub-models, or the rule cannot
                combine their outputs. The rule before it stays.
        """
        return members.combine(self._runtime, rule, weights)

    # --- measure and choose --------------------------------------------------------------------------------------

    def profile(
        self,
        names: Sequence[str] | None = None,
        *,
        shares: Sequence[int] | None = None,
        budget_s: float = 1.0,
        point_timeout_s: float = 60.0,
        fresh: bool = False,
        adaptive: bool = False,
        within: float = 0.02,
        limits: Limits | Mapping[str, Any] | None = None,
        backends: Sequence[str] | None = None,
        groups: bool = False,
        parts: bool = False,
    ) -> ProfileJob | AdaptiveProfileJob:
        """Measure sub-models at several shares, in the background; returns at once.

        Args:
            names: Which; None: all.
            shares: At how many units; None: all shares of a small device, a choice of a large one.
            budget_s: Time for each point after its warm-up; less is used once the median is known to 2 %.
            point_timeout_s: A point that takes longer is given up, and says so.
            fresh: Measure again what the store has.
            adaptive: Measure three shares of each, then only what the best plan rests on or could rest on, until no
                further point can make the plan better by more than `within`. `shares` are then those that may be
                measured.
            within: See `adaptive`, as a fraction.
            limits: With `adaptive`, what the plan will have to keep to; see `search`.
            backends: Which to try besides eager, such as ["openvino"]; [] for none; None: those that plans may use (see
                `lanes.choose_backends`; without a word all that can be had).
            groups: Measure groups too: equal networks as one call of `torch.func`, in the sizes n, n/2, ... of n.
            parts: Measure parts too: half, a third and a quarter of the batch of the two heaviest sub-models. For
                both, answers are first compared here, in this process, and what cannot be is said in a warning.

        Returns:
            The job: `snapshot()`, `result(timeout=...)`, `cancel()`.

        Raises:
            UsageError: Nothing is registered, the sub-models do not fit together, a name or share is unknown, a job
                is still running, or groups or parts were asked for and there can be none; the message says why.
        """
        return profile.profile(
            self._runtime,
            names,
            shares,
            adaptive=adaptive,
            within=within,
            limits=limits,
            backends=backends,
            groups=groups,
            parts=parts,
            budget_s=budget_s,
            point_timeout_s=point_timeout_s,
            fresh=fresh,
        )

    def search(
        self,
        searcher: str = "exact",
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        quantile: Quantile = "median",
        objective: str = "predicted",
        x: Tree = None,
        runs: int = 9,
        groups: bool = True,
        parts: bool = True,
        deadline_s: float | None = None,
        rate_per_s: float | None = None,
        p99_s: float | None = None,
        on_progress: Callable[[SearchProgress], None] | None = None,
        **options: Any,
    ) -> Plan:
        """Find a plan for the measured sub-models; it becomes `plan`. `start_search` does it in the background.

        Args:
            searcher: "exact", "optuna", ...; see `esen_lab.planner.SEARCHERS`.
            limits: What the plan must keep to: an `esen_lab.planner.Limits`, or a mapping of its attributes. Under a
                memory limit, what the sub-models take comes from the profile.
            quantile: Plan with the "median" latency, or with "q90", the 90th percentile.
            objective: "predicted" by the cost models, or "measured": every candidate is run, as nothing else runs. Only
                searchers that try plans can, such as "optuna" (40 trials if you name no number).
            x: The input to measure with; None for the example.
            runs: How many runs of a candidate its median is taken from; hopeless ones get fewer.
            groups: Let the exact searcher run equal networks as one, as far as `profile(groups=True)` measured it.
            parts: Let it split batches over lanes, as far as `profile(parts=True)` measured it.
            deadline_s: Order members in their lanes, and choose lanes, so that those that are expected to be ready so
                long after a call are the most accurate set, by what `studies.members(x, y)` measured; proven up to 12
                members (docs/deadlines.md). Without groups and parts.
            rate_per_s: Plan for so many requests a second that come at random and are joined to batches, not for one
                batch; see `studies.rate`, which also says what else there is. Candidates are run for that.
            p99_s: With `rate_per_s`: within what 99 % of them are to be answered.
            on_progress: Called with a `SearchProgress` whenever the search gets further.
            **options: The searcher's own.

        Raises:
            UsageError: Something is not profiled, the searcher, an option or a limit is unknown, or one of `rate_per_s`
                and `p99_s` is missing.
            InfeasibleError: No plan keeps every limit, or holds the rate; the message says which fails, by how much.
            KeyboardInterrupt: It came before there was any plan; later, the best so far is returned, and says so.
        """
        asked = SearchRequest(
            searcher=searcher,
            limits=limits,
            quantile=quantile,
            objective=objective,
            x=x,
            runs=runs,
            groups=groups,
            parts=parts,
            deadline_s=deadline_s,
            options=options,
        )
        if rate_per_s is not None or p99_s is not None:
            return rate.search_for_rate(self._runtime, asked, rate_per_s=rate_per_s, p99_s=p99_s).plan
        return search.search(self._runtime, asked, on_progress=on_progress)

    def start_search(
        self,
        searcher: str = "exact",
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        quantile: Quantile = "median",
        objective: str = "predicted",
        x: Tree = None,
        runs: int = 9,
        groups: bool = True,
        parts: bool = True,
        deadline_s: float | None = None,
        **options: Any,
    ) -> SearchJob[Plan]:
        """Search in the background; returns at once. Arguments and what is raised now are those of `search`.

        The first plan found becomes `plan` as soon as it is there, every better one takes its place, and so does what
        the proof ends with. A plan that is set by hand meanwhile stays; a second search ends the first.
        The exact searcher goes on for a minute unless `time_limit_s` says otherwise.

        Returns:
            The job: `snapshot()`, `best`, `result(timeout=...)`, `cancel()`. An `InfeasibleError` comes with `result`.
        """
        asked = SearchRequest(
            searcher=searcher,
            limits=limits,
            quantile=quantile,
            objective=objective,
            x=x,
            runs=runs,
            groups=groups,
            parts=parts,
            deadline_s=deadline_s,
            options=options,
        )
        return search.start_search(self._runtime, asked)

    def best_within(self, within_s: float, x: Tree, y: Any, **options: Any) -> Plan:
        """The most accurate way to run this ensemble that is expected within a time; it becomes `plan`.

        Members, lanes, backends, and where asked for stages: one plan. `studies.front` shows what it was chosen from.

        Args:
            within_s: Expected JCT of a batch like the example, in seconds; of a cascade, not its worst case.
            x: Validation data, samples along the first dimension.
            y: The right class of each sample.
            **options: Of `studies.front`: `cascade=True` tries cascades, `weights="greedy"` learns weights.

        Raises:
            UsageError: Nobody is as fast, something is not profiled, or data and labels do not fit.
            EsenError: A member could not be run.
        """
        return self.studies.best_within(within_s, x, y, **options)

    def tune(self) -> PlanEditor:
        """The lab's one plan editor: move shares and sub-models, see the predicted JCT at once, apply, measure.

        Every call gives the same object, so that all panels and magics show the same; it follows new measurements.
        What the plan in force leaves out stays out.

        Raises:
            UsageError: Some sub-model has not been measured.
        """
        return edit.edit(self._runtime, search.models_of(self._runtime, edit.steps_to_edit(self.state)))

    def apply(self, plan: Plan) -> None:
        """Put a plan in force and have its lanes running, in the place of those that run now.

        Raises:
            UsageError: It covers other sub-models, or needs a larger device.
            EsenError: Its lanes could not start. The plan before it stays in force.
        """
        plans.apply(self._runtime, plan)

    # --- run -----------------------------------------------------------------------------------------------------

    def run(
        self,
        x: Tree,
        timeout_s: float | None = None,
        *,
        deadline_s: float | None = None,
        at_least: int | None = None,
        otherwise: Otherwise = "error",
        on_failure: OnFailure = "error",
        stop_early: StopEarly = None,
        uncertainty: bool = False,
    ) -> Any:
        """Run the ensemble on one batch under the plan; without a plan, one sub-model after another.

        Args:
            x: The input, as the examples; NumPy arrays are welcome.
            timeout_s: Deadline of the whole call, in seconds: waiting for its turn, lanes that start, loading, running,
                combining. None: ten minutes. What runs in the calling thread itself (a changed network that is built
                again, a combine rule of your own) is not interrupted by it.
            deadline_s: When the answer is due, in seconds from the call: it is made of the members that are done then,
                and the lanes of the others stay warm. See docs/deadlines.md, as for all that follows.
            at_least: The fewest members that an answer is made of; None: 1.
            otherwise: Where fewer are done when it is due: "error", or "first": as soon as enough are.
            on_failure: A member that raises, or whose lane ends, is an "error", or is left out: "leave-out".
            stop_early: "decided": stop where no missing member can change a majority's vote; a number: where the
                likeliest class of every row has that probability. None: never.
            uncertainty: Answer with an `Uncertain`: the combined output, and how far the members are apart.

        Returns:
            The combined output, or an `Uncertain`. What happened is in `report`; how long the call waited for its turn,
            too.

        Raises:
            UsageError: Nothing is registered, the input does not fit, or the combine rule needs all members.
            DeadlineMissed: Fewer members than asked for were done when the answer was due; it names them.
            Busy: As many calls wait as may: see `most_waiting` of `Lab`.
            WorkerTimeout: The deadline passed; the message says what it was waiting for. A call that waited for its
                turn has done nothing. Lanes that start go on starting, and the next call finds them. Lanes that were
                at work are ended, and started anew by the next call.
            EsenError: A lane failed. A later run starts afresh what is broken.
        """
        options = RunOptions(
            deadline_s=deadline_s,
            at_least=at_least,
            otherwise=otherwise,
            on_failure=on_failure,
            stop_early=stop_early,
            uncertainty=uncertainty,
        )
        call = RunCall.of(self.state, x, timeout_s, options)
        return run.run(self._runtime, call, self._runtime.turns.turn("a run", call.until))

    async def arun(
        self,
        x: Tree,
        timeout_s: float | None = None,
        *,
        deadline_s: float | None = None,
        at_least: int | None = None,
        otherwise: Otherwise = "error",
        on_failure: OnFailure = "error",
        stop_early: StopEarly = None,
        uncertainty: bool = False,
    ) -> Any:
        """`run` for asyncio: the event loop goes on meanwhile. May be awaited many times at once, from several loops.

        The runs are made one at a time by a thread of the lab, in the order of all calls, with what the calling thread
        had set (autocast, the default device, ...) when it called.

        A task that is cancelled while it waits for its turn leaves the queue at once. While its lanes work, they
        finish, its answer is dropped, and the lanes stay warm for the next run.

        Arguments are those of `run`; `x` is not to be changed before the answer is there.

        Returns:
            The combined output, or an `Uncertain`. `report` is that of the last run.

        Raises:
            EsenError: As `run` does. `Cancelled`: The lab was closed while it waited.
            asyncio.CancelledError: The task was cancelled.
        """
        options = RunOptions(
            deadline_s=deadline_s,
            at_least=at_least,
            otherwise=otherwise,
            on_failure=on_failure,
            stop_early=stop_early,
            uncertainty=uncertainty,
        )
        call = RunCall.of(self.state, x, timeout_s, options)
        settings = self._runtime.fork_server.session_here()
        turn = self._runtime.turns.turn("an awaited run", call.until)
        return await self._runtime.awaited.run(call, settings, turn)

    def compare(
        self,
        x: Tree,
        *,
        y: Any = None,
        rounds: int = 20,
        strategies: Sequence[str] | None = None,
        peers: str | Sequence[str] | None = None,
        plans: Mapping[str, Plan | str | os.PathLike[str]] | None = None,
        ways: Mapping[str, Callable[[Tree], Tree]] | None = None,
        budget_s: float = 120.0,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> Comparison:
        """Run the plan and what people would use instead on the same input, in the same rounds.

        Peers are the engines that are installed, used without a plan (see `esen_lab.run.PEERS`): each at its best
        documented setting, which the comparison names. A sub-model that one does not take runs eagerly there.

        Args:
            x: The input.
            y: The right class of each row: then each answer's accuracy is told too. A plan in stages is also compared
                with all its members at once ("full plan"), by how many rows get the same class.
            rounds: How many rounds.
            strategies: Which baselines (see `esen_lab.run.STRATEGIES`), and which peers, however long they take to be
                prepared; after a peer's name "@bf16" lets it compute in bfloat16. None: all baselines.
            peers: "soon": those that are ready within 15 s, for all together; what was prepared in them is kept, so
                that the next comparison has more. "all": all that are installed. "none", or some by name. None: "soon"
                where no strategies are named, else "none".
            plans: Further plans to compare with, by names of your own: a draft of `tune`, one of another searcher, or
                the path of one that was saved.
            ways: Functions to compare with, by names of your own: each is called in this process with the input, and
                gives the ensemble's answer.
            budget_s: No further round starts after this many seconds.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: A strategy is unknown, there is nothing to compare, or a plan is not one for these sub-models.
            EsenError: The plan could not be run.
        """
        return checks.compare(
            self._runtime,
            x,
            y=y,
            rounds=rounds,
            strategies=strategies,
            peers=peers,
            plans=plans,
            ways=ways,
            budget_s=budget_s,
            on_progress=on_progress,
        )

    def load_test(
        self,
        rates: Sequence[float] | None = None,
        x: Tree = None,
        *,
        p99_s: float = 0.1,
        duration_s: float = 5.0,
        most_rows: int = 16,
        ways: Sequence[str] = load.WAYS,
        seed: int = 0,
        on_progress: Callable[[int, int, str], object] | None = None,
        on_row: Callable[[LoadTable], object] | None = None,
    ) -> LoadTable:
        """How the plan answers requests that come at random, and the usual ways to run the ensemble, in turns.

        Open loop: requests of one row are due as a Poisson process, and those that wait when a batch is done are joined
        to the next one. Times count from when a request was due. See docs/load.md.

        Args:
            rates: Requests a second, one test each; None: 30, 60 and 90 % of what the plan answers in full batches.
            x: The input whose rows are sent, along dimension 0 of every tensor; None for the example.
            p99_s: The deadline that goodput is counted under, in seconds.
            duration_s: For how long requests are due, at each rate and for each way.
            most_rows: The largest batch.
            ways: "plan", and baselines (see `esen_lab.run.STRATEGIES`).
            seed: Of the random times.
            on_progress: Called with (done, all, what is going on).
            on_row: Called with the table so far after each test.

        Raises:
            UsageError: There is no plan, or a number or a way is not possible.
            EsenError: A plan could not be run.
        """
        return load.load_test(
            self._runtime,
            rates,
            x,
            p99_s=p99_s,
            duration_s=duration_s,
            most_rows=most_rows,
            ways=ways,
            seed=seed,
            on_progress=on_progress,
            on_row=on_row,
        )

    def check_numerics(
        self, x: Tree = None, *, runs: int = 5, on_progress: Callable[[int, int, str], None] | None = None
    ) -> NumericsVerdict:
        """Compare every sub-model's answers under the plan with those of the whole device, all lanes at work.

        A share with wrong answers is used by no later search, for this sub-model on this device in this lab, as long
        as it is executed in the way that was wrong; eager answers that are wrong rule a share out for all ways.
        `forget_wrong` lifts that.

        Args:
            x: The input; None for the example.
            runs: How many runs are compared, at least 1.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: There is nothing to run.
            EsenError: The plan could not be run.
        """
        return checks.check_numerics(self._runtime, x, runs=runs, on_progress=on_progress)

    # --- keep ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON.

        Raises:
            UsageError: There is no plan, or the name is taken by something else than a plan.
            StoreError: The file cannot be written.
        """
        return self.state.need_plan("save").save(path)

    def load(self, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote; it becomes `plan`. What differs from here is said in its notes.

        Raises:
            StoreError: The file is unreadable or damaged.
            UsageError: It covers other sub-models, or needs a larger device. The plan in force stays.
        """
        return plans.load(self._runtime, path)

    def export(
        self, path: str | os.PathLike[str], plan: Plan | None = None, *, form: str = "script"
    ) -> Exported | TritonRepository | RayServeApplication:
        """Write the plan for use without Jupyter, with everything it needs.

        Args:
            path: The script, such as "plan.py"; or the folder of another form.
            plan: Which plan; None: the one in force.
            form: "script"; "triton": a model repository for NVIDIA Triton (docs/triton.md); "ray-serve": an application
                for Ray Serve (docs/ray.md).

        Raises:
            UsageError: There is no plan, the form is unknown or does not take the plan, or a sub-model cannot be
                rebuilt from what may be saved.
            StoreError: The files cannot be written.
        """
        return plans.export_as(self._runtime, path, plan, form)

    def serve(
        self, port: int | None = 8000, *, host: str = "127.0.0.1", x: Tree = None, **settings: Any
    ) -> Server | None:
        """Serve the plan in force over HTTP, in the background, by the Open Inference Protocol of KServe and Triton.

        Returns once it is ready. It runs until the lab is closed, another call of this takes its place, or its own
        `close`; where the address of another one cannot be had, it goes on. Calls of `run` and others take turns with
        it. See docs/serving.md.

        Args:
            port: 0 takes a free one; None ends the server that runs.
            host: The address to listen at: 127.0.0.1 is reached from this machine alone.
            x: An input as requests will bring it; None: the example.
            **settings: See `esen_lab.serving.ServeSettings`: `name`, `token`, `window_s`, `max_rows`, `deadline_s`, ...

        Returns:
            The server, which shows itself: address, state, what was answered. With port None the one that was ended.

        Raises:
            UsageError: A setting is not possible, the port is taken, a package is missing (`esen_lab[serve]`), or the
                protocol has no name for a dtype that the ensemble takes or gives.
            EsenError: The plan could not be run.
        """
        if port is None:
            return serve.stop(self._runtime)
        return serve.serve(self._runtime, serve.checked(host=host, port=port, **settings), x)

    # --- the lab itself ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process and job of this lab. It may be used again afterwards."""
        self._runtime.close()

    def __enter__(self) -> Lab:
        self._runtime.check_here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
