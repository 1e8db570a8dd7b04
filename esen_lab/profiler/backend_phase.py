"""The second half of a profile: other backends, share by share, each in a short trial first.

What a backend does not execute is no failure but a `Refusal`, which later sessions know of. `backend_trials.py` says
which trials are worth it; the one that was best is measured in earnest, as eager is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from esen_lab.common.units import format_seconds
from esen_lab.errors import Cancelled, EsenError, ModelError, WorkerTimeout
from esen_lab.lanes.backends import (
    forget_trial,
    is_passing,
    note_end,
    refusal,
    refused_before,
    remember_refusal,
    unsteady,
    why_not,
)
from esen_lab.profiler.backend_trials import TRIAL_S, Trials, is_slow
from esen_lab.profiler.level import Level, packed
from esen_lab.profiler.point_bench import PointBench
from esen_lab.profiler.records import Point, Refusal
from esen_lab.profiler.share_order import default_shares
from esen_lab.profiler.store import PointKey, ProfileStore
from esen_lab.profiler.timing import as_point

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import SubModel
    from esen_lab.lanes import ForkServer
    from esen_lab.lanes.settings import Settings

_KEPT_BYTES = 2**30  # of weights: what is heavier is not held twice, as it would be while another backend is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPhase:
    """Tries the backends of a job's sub-models.

    Attributes:
        submodels: Whose.
        trials: For each of them, which backends are asked for, and what came of them.
        device: Where.
        fork_server: Where workers come from.
        settings: What is measured under.
        store: Finished points are read from it and written to it.
        levels: At which shares.
        budget_s: Seconds of measuring in earnest.
        point_timeout_s: Seconds until a point is given up.
        fresh: Whether what is stored counts for nothing.
        examples: For each sub-model, what its example looks like.
        bench: Where points are taken.
        key: What a point is stored under: of a sub-model, a share, a backend.
        keep: Told each point.
        refuse: Told each refusal.
        note: Told what a user should know.
    """

    submodels: Sequence[SubModel]
    trials: Mapping[str, Trials]
    device: Device
    fork_server: ForkServer
    settings: Settings | None
    store: ProfileStore
    levels: Sequence[int]
    budget_s: float
    point_timeout_s: float
    fresh: bool
    examples: Mapping[str, str]
    bench: PointBench
    key: Callable[[SubModel, int, str], PointKey]
    keep: Callable[[Point], None]
    refuse: Callable[[Refusal], None]
    note: Callable[[str], None]

    def try_at(self, units: int, eager_points: Sequence[Point]) -> None:
        """Try what is asked for at one share, given all points that were executed eagerly."""
        with Level(self.device, self.fork_server, units, self.settings) as level:
            for submodel in self.submodels:
                trials = self.trials[submodel.name]
                eager = next((p for p in eager_points if (p.name, p.units) == (submodel.name, units)), None)
                if eager is None or not trials.asked:
                    continue
                trials.eager[units] = eager.median_s
                self.bench.check()
                self._recall(submodel, trials, units)
                for backend in trials.to_try(units):
                    if backend in trials.contenders():  # the ones before may have left it behind
                        self._try(submodel, backend, units, trials, level)
                        self._keep_fastest(submodel, units, trials, level)
                # A trial may lead by chance: one that was measured in earnest and is as good stays what is known, and
                # where that shows that the leader is none, the next one is measured so.
                while (leader := trials.leader(units)) is not None:
                    known = any(map(self._is_enough, trials.near(leader)))
                    if known or not self._in_earnest(submodel, leader, trials, level):
                        break
                level.forget(*level.loaded)

    def _recall(self, submodel: SubModel, trials: Trials, units: int) -> None:
        """Take in what earlier sessions found out about the backends of a sub-model at this share."""
        if why := unsteady(submodel.traits):
            for backend in trials.asked:
                self._refuse(submodel, trials, backend, why, remember=False)
        if self.fresh:
            return
        for backend in trials.contenders():
            if why := refused_before(
                backend,
                submodel.fingerprint,
                self.examples[submodel.name],
                self._where,
                calibration=submodel.calibration,
            ):
                self._refuse(submodel, trials, backend, why, remember=False)
        # Other shares too: what was clearly behind there is not tried here.
        self._recall_points(
            submodel, trials, (units, *self.levels, *default_shares(self.device.units, self.device.steps))
        )

    @property
    def _where(self) -> str:
        """What refusals of a GPU hold for: another one, or another driver, may take what this one does not."""
        identity = self.device.identity
        return "" if identity.kind == "cpu" else f"{identity.name}, {identity.details.get('driver', '')}"

    def _recall_points(self, submodel: SubModel, trials: Trials, shares: Sequence[int]) -> None:
        for share in shares:
            if share not in trials.eager and (eager := self.store.get(self.key(submodel, share, "eager"))):
                trials.eager[share] = eager.median_s
        for backend in trials.contenders():
            for share in dict.fromkeys(shares):
                if share in trials.eager and (backend, share) not in trials.points:
                    point = self.store.get(self.key(submodel, share, backend))
                    if point is not None:
                        self._keep_backend(replace(point, name=submodel.name, backend=backend), trials)

    def _is_enough(self, point: Point) -> bool:
        return point.settled or point.budget_s >= self.budget_s

    def _try(self, submodel: SubModel, backend: str, units: int, trials: Trials, level: Level) -> None:
        """A short measurement with one backend; what hinders it is a refusal."""
        if why := trials.why_not(backend, units):
            if backend not in trials.untried:
                trials.untried.add(backend)
                self.note(f"{submodel.name}: {backend} is not tried with {self.bench.share(units)}, since {why}.")
            return
        whole = trials.has_whole_time(backend) and trials.prepare_s[is_slow(backend)] <= self.point_timeout_s
        slow = is_slow(backend)
        trial_s = min(TRIAL_S, self.budget_s / 4)
        label, where = _label(submodel, backend), "cpu"
        began = self.bench.clock()
        try:
            with self.bench.alone(f"{label}, at {self.bench.share(units)}"):
                worker = level.worker()
                where = worker.in_force.torch_device
                if why := why_not(backend, where):
                    self._refuse(submodel, trials, backend, why, remember=False)
                    return
                payload = packed(submodel, backend)
                began = self.bench.clock()
                self.bench.load(submodel, label, payload, worker, min(self.point_timeout_s, trials.prepare_s[slow]))
                level.loaded.add(label)
                prepare_s = self.bench.clock() - began
                trials.prepare_s[slow] -= prepare_s
                found = self.bench.timed(label, worker, trial_s, self.bench.clock() + self.point_timeout_s)
        except Cancelled:
            forget_trial(submodel, backend, where)
            raise
        except EsenError as problem:
            level.forget(label)
            note_end(submodel, backend, problem, where)
            self.bench.check()
            trials.prepare_s[slow] -= self.bench.clock() - began
            if isinstance(problem, WorkerTimeout):
                self._not_ready(submodel, backend, units, trials, self.bench.clock() - began, whole=whole)
            else:
                # A process that died may have died of something else, and so may what raised on a full disk.
                why = refusal(problem)
                lasting = isinstance(problem, ModelError) and not is_passing(why)
                self._refuse(submodel, trials, backend, why, remember=lasting)
        else:
            found = replace(found, readings={**found.readings, "prepare_s": round(prepare_s, 4)})
            point = as_point(found, submodel, units, trial_s, backend)
            self.store.put(self.key(submodel, units, backend), point)
            self._keep_backend(point, trials)

    def _keep_fastest(self, submodel: SubModel, units: int, trials: Trials, level: Level) -> None:
        """Of what is loaded, leave the one that may be measured in earnest; nothing of a large sub-model."""
        loaded = [name for name in trials.asked if _label(submodel, name) in level.loaded]
        loaded.sort(key=lambda name: trials.points[name, units].median_s)
        kept = 1 if submodel.memory_bytes <= _KEPT_BYTES else 0
        level.forget(*(_label(submodel, name) for name in loaded[kept:]))

    def _not_ready(
        self, submodel: SubModel, backend: str, units: int, trials: Trials, took_s: float, *, whole: bool
    ) -> None:
        """A backend was not ready in time: refused where it had all there is, else only left out at this share."""
        if whole or not any(tried == backend for tried, _ in trials.points):
            why = f"it was not ready within {format_seconds(took_s)}"
            self._refuse(submodel, trials, backend, why, remember=whole)
            return
        trials.untried.add(backend)
        self.note(
            f"{submodel.name}: {backend} is not tried with {self.bench.share(units)}, since it was not ready within "
            f"the {format_seconds(took_s)} that were left."
        )

    def _in_earnest(self, submodel: SubModel, leader: Point, trials: Trials, level: Level) -> bool:
        """Measure the backend that was best in its trial as eager is measured; the trial stands where that fails.

        Returns:
            Whether it was measured.
        """
        label = _label(submodel, leader.backend)
        try:
            with self.bench.alone(f"{label}, at {self.bench.share(leader.units)}"):
                worker = level.worker()
                if label not in level.loaded:
                    self.bench.load(submodel, label, packed(submodel, leader.backend), worker, self.point_timeout_s)
                    level.loaded.add(label)
                found = self.bench.timing(label, worker, self.budget_s, self.bench.clock() + self.point_timeout_s)
        except Cancelled:
            raise
        except EsenError as problem:
            level.forget(label)
            self.bench.check()
            self.note(
                f"{label}, at {self.bench.share(leader.units)}: known by its trial only, since {refusal(problem)}"
            )
            return False
        else:
            prepared = {name: value for name, value in leader.readings.items() if name == "prepare_s"}
            found = replace(found, readings={**found.readings, **prepared})
            point = as_point(found, submodel, leader.units, self.budget_s, leader.backend)
            self.store.put(self.key(submodel, leader.units, leader.backend), point)
            self._keep_backend(point, trials)
            return True

    def _refuse(self, submodel: SubModel, trials: Trials, backend: str, why: str, *, remember: bool) -> None:
        if remember:
            remember_refusal(
                backend,
                submodel.fingerprint,
                self.examples[submodel.name],
                why,
                self._where,
                calibration=submodel.calibration,
            )
        if backend not in trials.refused:
            trials.refused[backend] = why
            self.refuse(Refusal(name=submodel.name, backend=backend, why=why))

    def _keep_backend(self, point: Point, trials: Trials) -> None:
        trials.points[point.backend, point.units] = point
        self.keep(point)


def _label(submodel: SubModel, backend: str) -> str:
    """What a worker calls a sub-model by a backend."""
    return f"{submodel.name} by {backend}"
