"""Starting the lanes of a plan: a worker in each place, its sub-models loaded, and the way to give a start up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from esen_lab.common.resources import aside, submit
from esen_lab.devices import Device, Placement
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.errors import Cancelled, DeviceError, EsenError, ModelError, WorkerDied
from esen_lab.lanes import ForkServer, Worker
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of

Graphs: TypeAlias = "Mapping[str, Mapping[str, bytes]]"
"""For each sub-model what engines have made of it elsewhere, by name: see `backends.kept_graph`."""

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread


def silent(*done: object) -> None:
    """Progress that nobody watches."""


class GivenUp:
    """Lets a thread end the start of lanes that another thread waits for. The start asks it; `set` tells it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._workers: list[Worker] = []

    def set(self) -> None:
        """End what has been started, and what is being started as soon as it is there."""
        self._event.set()
        for worker in list(self._workers):
            aside(worker.kill, "esen_lab end a lane")

    def started(self, worker: Worker) -> None:
        """One more is there."""
        self._workers.append(worker)
        if self._event.is_set():
            worker.close(timeout_s=0)

    @property
    def is_set(self) -> bool:
        """Whether somebody has given it up."""
        return self._event.is_set()

    def check(self) -> None:
        """Go on only where nobody has given it up.

        Raises:
            Cancelled: Somebody has.
        """
        if self._event.is_set():
            raise Cancelled("The start of these lanes was stopped on request")


def core_to_spare(plan: Plan, device: Device) -> bool:
    """Whether this process can stay awake without taking a core from a lane."""
    if device.identity.simulated:
        return False  # its lanes compute on cores that nobody counted
    used = max(sum(plan.lanes[number].units for number in stage) for stage in plan.stages)
    return device.identity.kind != "cpu" or used < device.units


def places_of(plan: Plan, device: Device) -> list[Placement]:
    """A place for each lane. Only one stage is at work at a time: those of different stages may overlap."""
    placed: dict[int, Placement] = {}
    for stage in plan.stages:
        placed.update(zip(stage, device.place([plan.lanes[number].units for number in stage]), strict=True))
    return [placed[number] for number in range(len(plan.lanes))]


def remarks_on_lanes(plan: Plan, device: Device) -> tuple[str, ...]:
    """What the device says of the lanes that are side by side."""
    told = (device.remarks_on([plan.lanes[number].units for number in stage]) for stage in plan.stages)
    return tuple(dict.fromkeys(remark for remarks in told for remark in remarks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What loading sub-models into lanes found.

    Attributes:
        fallen_back: For each sub-model that could not be executed as the plan says, a sentence why.
        other_code: For each of which functions are other code in its lane than here, these, as "module:name".
    """

    fallen_back: dict[str, str] = field(default_factory=dict)
    other_code: dict[str, tuple[str, ...]] = field(default_factory=dict)


def start_lanes(
    places: Sequence[Placement], fork_server: ForkServer, given_up: GivenUp, *, numbers: Sequence[int] = ()
) -> list[Worker]:
    """A worker in each place. Processes start side by side, since CUDA takes its time to start in each.

    Args:
        places: Where.
        fork_server: Starts them.
        given_up: Ends the start.
        numbers: Which lanes of a plan they are, from 0; none: all of it.

    Raises:
        EsenError: One could not be started, or it was given up; the others have been ended again.
    """
    started: dict[int, Worker] = {}

    def start(index: int) -> None:
        number = numbers[index] if numbers else index
        worker = fork_server.worker(places[index], label=f"lane {number + 1}")
        started[index] = worker
        given_up.started(worker)

    own = [index for index, place in enumerate(places) if place.in_process]
    others = [index for index in range(len(places)) if index not in own]
    pool = ThreadPoolExecutor(max_workers=len(others) or 1, thread_name_prefix="esen-start")
    try:
        for index in own:
            start(index)  # their contexts are made on one driver of this process: one at a time
        pending = {submit(pool, start, index) for index in others}
        while pending:
            done, pending = wait_for(pending, timeout=_SLICE_S, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            given_up.check()
    except BaseException as problem:
        given_up.set()
        # After an interrupt nothing is waited for: a lane that hangs while it starts would hold the caller up.
        pool.shutdown(wait=isinstance(problem, EsenError) and not isinstance(problem, Cancelled), cancel_futures=True)
        for worker in list(started.values()):
            worker.close(timeout_s=0)
        _release([places[index] for index in own if index not in started])
        raise
    pool.shutdown()
    return [started[index] for index in range(len(places))]


def _release(places: Sequence[Placement]) -> None:
    """Give back places in this process that no lane took: their neighbours' groups of SMs wait for them."""
    for place in places:
        place.release()


def load_lanes(
    workers: Sequence[Worker],
    plan: Plan,
    ensemble: Ensemble,
    *,
    timeout_s: float,
    tell: Callable[[int, int], object] = silent,
    only: Collection[str] | None = None,
    graphs: Graphs | None = None,
    renew: Callable[[int], Worker] | None = None,
) -> Loading:
    """Load every lane's sub-models, the lanes side by side, and tell each lane what a run means.

    Args:
        workers: One per lane.
        plan: Says who is in which lane, and how it is executed.
        ensemble: Has what its lanes run: see `steps_of`.
        timeout_s: Deadline for loading one sub-model.
        tell: Called with (sub-models loaded, all), from the threads that load, one at a time.
        only: These sub-models alone; lanes of none of them are left alone, whatever happens. None: all.
        graphs: What engines have been given along.
        renew: Starts a lane anew, by its index, and puts it in the place of its worker: an engine may crash while it is
            tried, and its member is then loaded eagerly. None: the crash is raised.

    Raises:
        EsenError: One could not be loaded; all lanes that were to load something are ended.
    """
    filling = _Filling(workers, plan, ensemble, timeout_s, tell, graphs or {}, renew)
    wanted = [[name for name in lane.members if only is None or name in only] for lane in plan.lanes]
    with ThreadPoolExecutor(max_workers=len(workers), thread_name_prefix="esen-load") as pool:
        try:
            for future in [submit(pool, filling.fill, index, names) for index, names in enumerate(wanted)]:
                future.result()
        except BaseException:
            # Or the pool would wait for loads that nobody wants any more.
            filling.stop([index for index, names in enumerate(wanted) if names])
            raise
    return filling.loading


class _Filling:
    """Lanes that are being loaded; arguments as those of `load_lanes`."""

    def __init__(
        self,
        workers: Sequence[Worker],
        plan: Plan,
        ensemble: Ensemble,
        timeout_s: float,
        tell: Callable[[int, int], object],
        graphs: Graphs,
        renew: Callable[[int], Worker] | None,
    ) -> None:
        self.loading = Loading()
        self._workers, self._plan, self._ensemble = workers, plan, ensemble
        self._timeout_s, self._tell, self._graphs = timeout_s, tell, graphs
        self._renew = renew
        self._counting = threading.Lock()
        self._loaded: set[str] = set()
        self._stopped = False

    def fill(self, index: int, names: Sequence[str]) -> None:
        """Load some sub-models of a lane; all of them where it has to be started anew."""
        lane, crashed = self._plan.lanes[index], dict[str, str]()
        while name := self._crashed(index, names, crashed):
            crashed[name] = dict(zip(lane.members, lane.backends, strict=True))[name]
            assert self._renew is not None
            worker, names = self._renew(index), lane.members
            if self._stopped:
                worker.kill()
        if names:
            self._workers[index].arrange(lane.members, lane.mode)
        if crashed:  # only now: what crashes when it is computed eagerly too is no fault of the engine
            from esen_lab.lanes.backends import remember_crash

            where = self._workers[index].in_force.torch_device
            for name, how in crashed.items():
                why = remember_crash(self._ensemble.get(name), how, where)
                self.loading.fallen_back[name] = _runs_eagerly(name, how, why)

    def _crashed(self, index: int, names: Sequence[str], before: Collection[str]) -> str:
        """Load them; the name of one that crashed its lane, where the lane may be started anew, or ""."""
        lane = self._plan.lanes[index]
        for name, active, how in zip(lane.members, lane.active_units, lane.backends, strict=True):
            if name not in names:
                continue
            how = "eager" if name in before else how  # noqa: PLW2901
            try:
                self._load(index, name, active, how)
            except WorkerDied as problem:
                if not problem.crashed or how == "eager" or self._renew is None or self._stopped:
                    raise
                return name
        return ""

    def _load(self, index: int, name: str, active: int, how: str) -> None:
        model, given = self._ensemble.get(name), self._graphs.get(name)
        own_threads = self._plan.lanes[index].mode == "async"
        other, why = _load(self._workers[index], model, active, how, own_threads, self._timeout_s, given)
        with self._counting:
            self.loading.fallen_back.update({name: why} if why else {})
            self.loading.other_code.update(dict.fromkeys(members_of([name]), other) if other else {})
            self._loaded.add(name)
            self._tell(len(self._loaded), len(self._plan.steps))

    def stop(self, indices: Sequence[int]) -> None:
        """End lanes; what engines were tried in them is no fault of theirs."""
        from esen_lab.lanes.backends import forget_trial

        self._stopped = True
        for index in indices:
            self._workers[index].kill()
        for index in indices:
            for name, how in zip(self._plan.lanes[index].members, self._plan.lanes[index].backends, strict=True):
                if how != "eager":
                    forget_trial(self._ensemble.get(name), how, self._workers[index].in_force.torch_device)


def renewing(
    workers: list[Worker], places: Sequence[Placement], fork_server: ForkServer, given_up: GivenUp
) -> Callable[[int], Worker]:
    """What starts one of these lanes anew, where its process has ended, and puts it in the place of its worker."""

    def renew(index: int) -> Worker:
        given_up.check()
        workers[index].close(timeout_s=0)
        (workers[index],) = start_lanes([places[index]], fork_server, given_up, numbers=[index])
        return workers[index]

    return renew


def _load(
    worker: Worker,
    model: SubModel,
    active_units: int,
    how: str,
    own_threads: bool,
    timeout_s: float,
    graphs: Mapping[str, bytes] | None,
) -> tuple[tuple[str, ...], str]:
    """Load one sub-model; returns functions that are other code there, and why it runs eagerly against the plan."""
    load = partial(
        worker.load,
        model.name,
        example=model.example,
        active_units=active_units,
        traits=model.traits,
        timeout_s=timeout_s,
    )
    return load_as_planned(lambda payload: load(payload=payload), model, how, own_threads=own_threads, graphs=graphs)


def _runs_eagerly(name: str, how: str, why: str) -> str:
    return f"{name} runs eagerly, not as the plan says ({how}): {why}"


def load_as_planned(
    load: Callable[[bytes], tuple[str, ...]],
    model: SubModel,
    how: str,
    *,
    own_threads: bool,
    graphs: Mapping[str, bytes] | None,
) -> tuple[tuple[str, ...], str]:
    """Load a sub-model executed as the plan says, or eagerly where its backend does not take it.

    Args:
        load: Gives a lane a payload (see `Worker.load`); raises `ModelError` where that cannot be loaded.
        model: The sub-model.
        how: The plan's backend for it.
        own_threads: Whether its engine computes in threads of its own.
        graphs: What engines have made of it, by name.

    Returns:
        What `load` gave, and why it runs eagerly against the plan, or "".
    """
    if how == "eager":
        return load(model.payload()), ""
    from esen_lab.lanes.backends import refusal, wrapped_submodel

    try:
        return load(wrapped_submodel(model, how, own_threads=own_threads, graphs=graphs)), ""
    except ModelError as problem:
        return load(model.payload()), _runs_eagerly(model.name, how, refusal(problem))


@contextlib.contextmanager
def from_the_system() -> Iterator[None]:
    """Turn a refusal of the system (no descriptors, memory or processes left) into a `DeviceError`.

    Raises:
        DeviceError: It did.
    """
    try:
        yield
    except OSError as problem:
        raise DeviceError(
            "The system gives lanes what they need: descriptors, shared memory and processes",
            given=f"{type(problem).__name__}: {problem}",
            hint="Close other programs and files, or raise the limit (ulimit -a shows it); then run again.",
        ) from problem
