"""`FakeLab`: the face of `Lab` without workers, so that the magics can be tested by what they call and show.

It measures nothing: its points are made up, and only tests may use it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from past import a_profile, an_entry
from points import a_point as point

from esen_lab.cluster import ClusterNode, ClusterStatus
from esen_lab.common.answers import Difference
from esen_lab.common.bell import Bell, Listeners
from esen_lab.cost_model import fit_points
from esen_lab.devices import Offer
from esen_lab.devices.telemetry import Channel, MarkLog, Sampler
from esen_lab.errors import Cancelled, ModelError, UsageError
from esen_lab.export.triton import TritonRepository
from esen_lab.history import Changes, Entry, Past, changes
from esen_lab.lab import Action, DeviceChange, NextStep
from esen_lab.load import LoadTable, Replies, row_of
from esen_lab.planner import SearchJob
from esen_lab.planner.editor import LastRun, Offered, PlanEditor
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.rate import HeldRate, ServiceTimes, latencies
from esen_lab.profiler.backends import BackendPoint, BackendTable
from esen_lab.profiler.progress import JobState, ProfileProgress
from esen_lab.profiler.records import Failure, Profile
from esen_lab.run.comparison import Comparison, Row
from esen_lab.run.numerics import NumericsVerdict, judge
from esen_lab.run.report import LaneReport, RunReport, Span
from esen_lab.serving.status import ServerStatus
from esen_lab.studies import Refined, Round
from esen_lab.studies.cascade import Cascade, cascade
from esen_lab.studies.front import ParetoFront, member_front
from esen_lab.studies.placement import DevicePlacement, DeviceTables, place
from esen_lab.studies.precision_table import PrecisionPoint, PrecisionTable
from esen_lab.studies.rate import RatePlan, RateRow

IDENTITY = {"kind": "cpu", "name": "Fake", "units": 4, "unit": "core", "details": {}, "simulated": True}
LEAST_CONTRAST = 4.5  # of text: WCAG 2, level AA


def a_load_table() -> LoadTable:
    answered = [Replies(due_s=0.0, begin_s=0.001, end_s=0.004, rows=2), Replies(due_s=0.1)]
    rows = (
        row_of("plan", 50, answered[:1], deadline_s=0.05, duration_s=1, predicted_p99_s=0.005),
        row_of("sequential", 50, answered, deadline_s=0.05, duration_s=1),
    )
    return LoadTable(rows=rows, deadline_s=0.05, duration_s=1.0, most_rows=16, notes=("a note",))


def a_rate_plan() -> RatePlan:
    service = ServiceTimes(by_rows=((1, 0.010), (4, 0.016)))
    at = latencies(service, 20, 4)
    row = RateRow(name="sequential", plan=a_plan(), service=service, at=at, most=HeldRate(rate_per_s=60.0, at=at))
    return RatePlan(
        plan=a_plan(), rate_per_s=20, p99_s=0.05, most_rows=4, predicted=at, most_rate_per_s=60.0, rows=(row,)
    )


def a_repository() -> TritonRepository:
    return TritonRepository(
        folder=Path("repo"), name="repo", models=("repo_lane_1", "repo"), files=(Path("repo/start.sh"),), notes=("n",)
    )


def failed_point(name: str = "deep", units: int = 2) -> Failure:
    return Failure(name=name, units=units, message="the sub-model raised", worker_traceback="Traceback: <boom> & more")


def progress(state: JobState = JobState.RUNNING, **known: Any) -> ProfileProgress:
    return ProfileProgress(
        **{
            "total": 4,
            "done": 1,
            "reused": 0,
            "failed": 0,
            "skipped": 0,
            "state": state,
            "current": "wide at 2 of 4 units" if state is JobState.RUNNING else "",
            "elapsed_s": 1.0,
            "eta_s": 3.2 if state is JobState.RUNNING else None,
            "points": (point(),),
            "failures": (),
            "message": f"{state}",
            "notes": (),
            **known,
        }
    )


class FakeJob:
    """A profile job that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = progress()
        self.looks = 0
        self._listeners: Listeners[FakeJob] = Listeners()

    @property
    def state(self) -> JobState:
        return self.now.state

    @property
    def done(self) -> bool:
        return self.now.state.over

    def listen(self, callback: Callable[[FakeJob], object]) -> Callable[[], None]:
        return self._listeners.add(callback)

    def stir(self) -> None:
        """Something may have changed."""
        self._listeners.tell(self)

    def wait(self, timeout: float | None = None) -> bool:
        return self.done

    def snapshot(self) -> ProfileProgress:
        self.looks += 1
        return self.now

    def finish(self) -> None:
        points = tuple(point(units=units, median_s=0.004 / units) for units in (1, 2, 3, 4))
        self.now = progress(JobState.FINISHED, done=4, points=points)
        self.stir()

    def cancel(self) -> None:
        self.now = progress(JobState.CANCELLED)
        self.stir()

    def result(self, timeout: float | None = None) -> Profile:
        if self.now.state is JobState.CANCELLED:
            raise Cancelled("The profile was cancelled")
        return Profile(device=IDENTITY, units=4, points=self.now.points, examples={"wide": "float32[1, 4]"})


@dataclass
class FakeSubModel:
    name: str
    example: Any
    class_name: str = "Linear"
    parameters: int = 1234
    memory_bytes: int = 4936
    fingerprint: str = "abc"
    notes: tuple[str, ...] = ()
    recipe: Any = field(default_factory=lambda: SimpleNamespace(describe=lambda: "live Linear"))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "class": self.class_name,
            "parameters": self.parameters,
            "example": repr(self.example),
        }


class FakeMeter:
    """Reads what it is told, and 50 where nothing is told.

    Attributes:
        channels: By default the CPU's utilization alone; more may come.
        values: By the key of a channel.
    """

    def __init__(self, *channels: Channel, **values: float | str) -> None:
        self.channels = list(channels) or [Channel(key="cpu", label="CPU", unit="%", group="utilization")]
        self.values: dict[str, float | str] = values

    def read(self) -> dict[str, float | str]:
        return {channel.key: self.values.get(channel.key, 50.0) for channel in self.channels}

    def close(self) -> None:
        pass


@dataclass
class FakeServer:
    """Stands as it is told."""

    standing: ServerStatus

    def status(self) -> ServerStatus:
        return self.standing


class FakeHistory:
    """Two entries, and what it was asked in its lab's calls."""

    project = "here"

    def __init__(self, asked: Callable[..., None]) -> None:
        self._asked = asked

    def past(self, last: int) -> Past:
        self._asked("history.past", last)
        return Past(project=self.project, entries=(an_entry(number=3), an_entry(0.005, number=7, code="c2")))

    def entry(self, number: int) -> Entry:
        self._asked("history.entry", number)
        return a_profile(number=number)

    def compare(self, before: int, after: int) -> Changes:
        self._asked("history.compare", before, after)
        return changes(an_entry(number=before), an_entry(0.002, number=after))

    def take(self, number: int) -> Plan:
        self._asked("history.take", number)
        return a_plan()

    def forget(self, numbers: list[int] | None) -> int:
        self._asked("history.forget", numbers)
        return 2


class FakeCluster:
    """Two nodes, and what it was asked in its lab's calls."""

    def __init__(self, asked: Callable[..., None]) -> None:
        self._asked = asked

    def connect(self, address: str) -> ClusterStatus:
        self._asked("cluster.connect", address)
        return a_cluster()

    def leave(self) -> None:
        self._asked("cluster.leave")

    def status(self) -> ClusterStatus | None:
        self._asked("cluster.status")
        return None

    def glance(self) -> ClusterStatus | None:
        return None

    def load(self, on_progress: Callable[[int, int, str], object]) -> ClusterStatus:
        self._asked("cluster.load")
        on_progress(1, 2, "left")
        return a_cluster()


def a_cluster() -> ClusterStatus:
    """One node that is ready, one that is gone."""
    left = ClusterNode(name="left", id="1", host="one", units=8, state="ready", members=("wide", "deep"))
    right = ClusterNode(name="right", id="2", host="two", units=4, alive=False, state="gone", notes=("It left.",))
    return ClusterStatus(address="one:6379", dashboard="http://one:8265", nodes=(left, right))


class FakeLab:
    """Remembers what it was asked in `calls`."""

    def __init__(self, device: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.derived: tuple[str, ...] = ()
        self.device = SimpleNamespace(
            identity=SimpleNamespace(kind=device or "cpu", name="fake CPU", unit="core", to_dict=lambda: IDENTITY),
            describe=lambda: (("inside", "4 cores; 2 L3 domains of 2 cores"), ("node 0", "[0-1] [2-3]")),
            notes=(),
        )
        self._members: dict[str, FakeSubModel] = {}
        self._rule = "mean"
        self.job: FakeJob | None = None
        self.measurements: Profile | None = None
        self.search_job: SearchJob[Plan] | None = None
        self.endless = False  # whether searches go on until they are cancelled
        self.plan: Plan | None = None
        self.server: FakeServer | None = None
        self.report: RunReport | None = None
        self.comparison: Comparison | None = None
        self.numerics: NumericsVerdict | None = None
        self.backends: BackendTable | None = None
        self.precision: PrecisionTable | None = None
        self._editor: PlanEditor | None = None
        self.bell: Bell[Any] = Bell()
        self.closed = threading.Event()
        self.raises: BaseException | None = None
        self.history = FakeHistory(self._asked)
        self.cluster = FakeCluster(self._asked)
        self.last_run: LastRun | None = None
        self.choices: tuple[Offered, ...] = ()

    @property
    def studies(self) -> FakeLab:
        """Its parts are the lab itself: what they are asked is in `calls` too."""
        return self

    readings = lanes = points = studies

    def offers(self) -> tuple[Offer, ...]:
        self._asked("offers")
        gpu = Offer(
            name="cuda:0 mps",
            hardware="fake GPU",
            units=100,
            unit="percent",
            available=False,
            missing=("a fairy",),
            how="Wait for one.",
        )
        cpu = Offer(name="cpu", hardware="fake CPU", units=4, unit="core", available=True, chosen=True)
        return (gpu, cpu)

    def use_device(self, device: str) -> DeviceChange:
        self._asked("use_device", device)
        if device == "abacus":
            raise UsageError("A device is one of: cpu", given=device)
        return DeviceChange(before=IDENTITY, after=IDENTITY, profiled={"wide": 2}, notes=("All stays.",))

    def leave_gpu(self) -> tuple[str, ...]:
        self._asked("leave_gpu")
        return ("wide",)

    @property
    def ensemble(self) -> Any:
        return SimpleNamespace(
            names=tuple(self._members),
            submodels=tuple(self._members.values()),
            combine=SimpleNamespace(describe=lambda: self._rule),
        )

    def _asked(self, *call: Any) -> None:
        self.calls.append(call)
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error

    def register(
        self, name: str, source: Any, example: Any = None, *, kwargs: Any = None, namespace: Any = None
    ) -> FakeSubModel:
        self._asked("register", name, source, example, *([kwargs] if kwargs else []))
        if isinstance(source, str) and "raise" in source:
            raise ModelError(f"Sub-model {name!r} raised while its cell ran", given="RuntimeError: boom")
        made = FakeSubModel(name=name, example=example)
        self._members[name] = made
        return made

    def unregister(self, name: str) -> None:
        self._asked("unregister", name)
        if name not in self._members:
            raise UsageError("An ensemble knows its own sub-models", given=f"{name!r}")
        del self._members[name]

    def combine(self, rule: Any, weights: Any = None) -> Any:
        self._asked("combine", rule, weights)
        self._rule = str(rule)
        return self.ensemble.combine

    def profile(self, names: Any = None, **options: Any) -> FakeJob:
        self._asked("profile", names, options)
        self.job = FakeJob()
        return self.job

    def start_search(self, searcher: str = "exact", **options: Any) -> SearchJob[Plan]:
        self._asked("start_search", searcher, options)
        self.plan = plan = a_plan(searcher=searcher)
        endless = self.endless

        def run(on_better: Any, stop: threading.Event, **_: Any) -> Plan:
            on_better(plan)
            if endless:
                stop.wait(60)
            return plan

        self.search_job = SearchJob(run)
        return self.search_job

    def refine(self, x: Any, *, on_round: Any = None, **options: Any) -> Refined:
        self._asked("refine", x, options)
        return a_refinement()

    def check_numerics(self, x: Any = None, *, on_progress: Any = None, **options: Any) -> NumericsVerdict:
        self._asked("check_numerics", x, options)
        self.numerics = a_verdict()
        return self.numerics

    def forget_wrong(self, names: Any = None) -> dict[str, tuple[int, ...]]:
        self._asked("forget_wrong", names)
        return {"a": (1, 3)}

    def choose_backends(self, *, on_progress: Any = None, **options: Any) -> BackendTable:
        self._asked("choose_backends", options)
        self.backends = some_backends()
        return self.backends

    def choose_precision(self, precision: str, *, on_progress: Any = None, **options: Any) -> PrecisionTable | None:
        self._asked("choose_precision", precision, options)
        self.precision = None if precision == "fp32" else some_precision()
        return self.precision

    def members(self, x: Any, y: Any, **options: Any) -> ParetoFront:
        self._asked("members", x, y, options)
        tables = {"wide": [0.004, 0.002], "deep": [0.003, 0.002]}
        return member_front(tables, 2, lambda names: 0.9 if len(names) == 2 else 0.8)

    def place(self, devices: Any) -> DevicePlacement:
        self._asked("place", devices)
        tables = {"wide": [0.004, 0.002], "deep": [0.003, 0.002]}
        return place([DeviceTables(name=f"device{k}", units=2, latencies=tables) for k in (1, 2)])

    def cascade(self, x: Any, y: Any = None, **options: Any) -> Cascade:
        self._asked("cascade", x, y, options)
        tables = {"wide": [0.004, 0.002], "deep": [0.003, 0.002]}
        return cascade(tables, 2, ["wide", "deep"], [1.0, 0.1])

    def best_within(self, within_s: float, x: Any, y: Any, **options: Any) -> Plan:
        self._asked("best_within", within_s, x, y, options)
        return a_plan(searcher="members")

    def fastest_within(self, loss: float, x: Any, y: Any, **options: Any) -> Plan:
        self._asked("fastest_within", loss, x, y, options)
        return a_plan(searcher="members")

    @property
    def last_front(self) -> ParetoFront:
        tables = {"wide": [0.004, 0.002], "deep": [0.003, 0.002]}
        return member_front(tables, 2, lambda names: 0.9 if len(names) == 2 else 0.8)

    def plan_of(self, found: Any) -> Any:
        self._asked("plan_of", found)
        return SimpleNamespace(save=lambda path: path)

    def tune(self) -> PlanEditor:
        self._asked("tune")
        if self._editor is None:
            table = {units: 0.008 / units for units in (1, 2, 3, 4)}
            models = {name: fit_points(name, table, 4) for name in ("wide", "deep", "slim")}
            self._editor = PlanEditor(models, 4, bench=self)
        return self._editor

    # The bench of its plan editor.
    def in_force(self) -> Plan | None:
        return self.plan

    def facts(self) -> Any:
        return {"device": IDENTITY, "combine": self._rule}

    def apply(self, plan: Plan) -> None:
        self._asked("apply", plan.describe())
        self.plan = plan

    def ran(self) -> LastRun | None:
        return self.last_run

    def offered(self) -> tuple[Offered, ...]:
        return self.choices

    def take(self, number: Any) -> Any:
        if isinstance(number, int):  # as the bench of its editor is asked
            self.calls.append(("take", number))
            return None
        self._asked("take", number.names)
        return a_plan(lanes=(Lane(units=4, members=number.names),), left_out=("slim",))

    def far(self) -> tuple[str, ...]:
        return ()

    def measure(self, repeats: int) -> list[float]:
        self._asked("measure", repeats)
        return [0.005] * repeats

    def run(self, x: Any, timeout_s: float | None = None, **options: Any) -> Any:
        self._asked("run", x, timeout_s, *([options] if options else []))
        self.report = a_report()
        return [x, "combined"]

    def compare(self, x: Any, *, on_progress: Any = None, **options: Any) -> Comparison:
        self._asked("compare", x, options)
        self.comparison = a_comparison()
        return self.comparison

    def fit_so_far(self) -> dict[str, Any]:
        return {}

    def watch(self, **options: Any) -> Sampler:
        self._asked("watch", options)
        self.marks = MarkLog()
        return Sampler(FakeMeter())

    def unwatch(self, sampler: Sampler | None = None) -> None:
        self._asked("unwatch")

    def save(self, path: Any) -> Path:
        self._asked("save", path)
        return Path(path)

    def record(self, path: Any) -> Path:
        self._asked("record", path)
        return Path(path)

    def load(self, path: Any) -> Plan:
        self._asked("load", path)
        return a_plan()

    def load_test(self, rates: Any, x: Any, *, on_progress: Any, on_row: Any, **options: Any) -> LoadTable:
        self._asked("load_test", rates, x, options)
        table = a_load_table()
        on_progress(0, 1, "plan, 50 requests/s")
        on_row(table)
        on_progress(1, 1, "done")
        return table

    def rate(self, rate_per_s: float, p99_s: float, **options: Any) -> RatePlan:
        self._asked("rate", rate_per_s, p99_s, options)
        return a_rate_plan()

    def export(self, plan: Any, path: Any = None, *, form: str = "") -> Any:
        path = plan if path is None else path  # the lab's own has the path alone
        if form:
            self._asked("export", path, form)
            return a_repository()
        self._asked("export", path)
        return SimpleNamespace(
            script=Path(path), folder=Path("plan_files"), files=(Path("plan_files/plan.json"),), notes=()
        )

    def status(self) -> Any:
        return SimpleNamespace(
            device=IDENTITY,
            device_notes=(),
            submodels=tuple(member.to_dict() for member in self._members.values()),
            combine=self._rule,
            profiled={},
            job="" if self.job is None else self.job.snapshot().message,
            plan=self.plan,
            running=False,
            next_step=NextStep(action=Action.PROFILE, why="nothing is measured"),
            waiting=0,
            served="",
            nodes=(),
        )

    def serve(self, port: int | None = 8000, **settings: Any) -> Any:
        self.calls.append(("serve", port, settings))
        before, self.server = self.server, None
        if port is None:
            return before
        url = f"http://127.0.0.1:{port}/v2/models/ensemble/infer"
        self.server = FakeServer(ServerStatus(name=settings.get("name", "ensemble"), url=url, state="ready"))
        return self.server

    def close(self) -> None:
        if self.search_job is not None:
            self.search_job.cancel()
            self.search_job.result(timeout=60)
        self.closed.set()


def a_plan(**known: Any) -> Plan:
    made = Plan(
        lanes=(Lane(units=3, members=("wide", "deep"), active_units=(3, 2)), Lane(units=1, members=("slim",))),
        units=4,
        device=IDENTITY,
        searcher="exact",
        jct_s=0.0045,
        bound_s=0.004,
        predicted_s={"wide": 0.002, "deep": 0.001, "slim": 0.0045},
        notes=("sequential is as good",),
    )
    return replace(made, **known)


def a_verdict(error: float = 3e-7, **known: Any) -> NumericsVerdict:
    """Of two sub-models, the second of which was off by `error` in one run of two; `known` is for `judge`."""
    same, other = Difference(dtype="float32", error=0.0), Difference(dtype="float32", error=error)
    return NumericsVerdict(
        rows=(judge("wide", 0, 3, "cores 0-2", [same, same]), judge("slim", 1, 1, "core 3", [same, other], **known)),
        units=4,
        unit="core",
        batch="float32[8, 4]",
        notes=("a remark",),
    )


def some_precision() -> PrecisionTable:
    known = PrecisionPoint(name="wide", backend="openvino@bf16", error=2e-3, agreement=1.0, together=1.0, accuracy=0.96)
    far = replace(known, name="deep", backend="eager@bf16", error=0.1, agreement=0.9, accuracy=0.8, why="it is far off")
    return PrecisionTable(
        precision="bf16",
        points=(known, far),
        agree=0.999,
        error=6e-2,
        samples=400,
        together=0.9999,
        combinations=(2, 2),
        accuracy={"wide": 0.95, "deep": 0.9},
        ensemble_accuracy=(0.97, 0.975),
        notes=("int8 will not be faster here.",),
    )


def some_backends() -> BackendTable:
    return BackendTable(
        points=(
            BackendPoint(name="wide", units=3, backend="eager", median_s=0.004, spread_s=0.0001),
            BackendPoint(name="wide", units=3, backend="inductor", median_s=0.003, spread_s=0.0001, chosen=True),
            BackendPoint(name="wide", units=3, backend="cuda-graph", why="CUDA graphs need a GPU"),
            BackendPoint(name="slim", units=1, backend="eager", median_s=0.002, spread_s=0.0001, chosen=True),
            BackendPoint(name="slim", units=1, backend="inductor", why="it raised"),
            BackendPoint(name="slim", units=1, backend="cuda-graph", why="CUDA graphs need a GPU"),
        ),
        units=4,
        unit="core",
    )


def a_refinement() -> Refined:
    def one(measured_s: float, decision: str) -> Round:
        plan = a_plan()
        steps = dict.fromkeys(plan.names, 0.001)
        return Round(plan=plan, measured_s=measured_s, spread_s=1e-4, runs=9, submodel_s=steps, decision=decision)

    rounds = (one(0.006, "the corrected models promise 4.50 ms"), one(0.0045, "the plan was already measured"))
    return Refined(rounds=rounds, best=1, plan=a_plan(measured_s=0.0045), reason="the plan was already measured")


def a_report(**known: Any) -> RunReport:
    made = RunReport(
        jct_s=0.005,
        spans=(
            Span(name="wide", lane=0, start_s=0.0005, end_s=0.002),
            Span(name="deep", lane=0, start_s=0.002, end_s=0.0045),
            Span(name="slim", lane=1, start_s=0.0005, end_s=0.004),
        ),
        lanes=(
            LaneReport(units=3, in_force="cores 0-2", members=("wide", "deep"), start_s=0.0005, end_s=0.0045),
            LaneReport(units=1, in_force="core 3", members=("slim",), start_s=0.0005, end_s=0.004),
        ),
        copy_s=0.0003,
        combine_s=0.0002,
        predicted_s=0.0045,
        batch="float32[8, 4]",
    )
    return replace(made, **known)


def a_comparison() -> Comparison:
    sequential = Row(
        strategy="sequential",
        lanes="4: wide + deep + slim",
        median_s=0.010,
        spread_s=0.0001,
        ratio_to={"plan": 2.0},
        ratio_to_bound=2.5,
        agreement="bit-equal",
        agrees=True,
    )
    broken = Row(strategy="vmap", lanes="-", median_s=float("nan"), spread_s=float("nan"), failed="two kinds")
    plan = replace(sequential, strategy="plan", median_s=0.005, ratio_to={"sequential": 0.5}, ratio_to_bound=1.25)
    return Comparison(
        rows=(sequential, broken, plan),
        rounds=20,
        verdict="The plan is 50.0 % faster.",
        plans={"sequential": a_plan(measured_s=0.010), "plan": a_plan(measured_s=0.005)},
    )
