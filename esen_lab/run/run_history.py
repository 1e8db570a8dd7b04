"""What is known of the runs of one plan's lanes, from run to run; the report of each is made here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.devices.cpu.contention import LoadSample, load_between, sample_load
from esen_lab.lanes import Worker
from esen_lab.planner.plan import Plan, backends_of
from esen_lab.planner.steps import members_of
from esen_lab.run.answered import Answered
from esen_lab.run.drift import FAR, RECENT, Circumstances, drift
from esen_lab.run.report import RunReport, spans_and_lanes
from esen_lab.run.stage_report import StageReport

if TYPE_CHECKING:
    from esen_lab.devices.cpu.interference import Interference

_LOOK_S = 0.2  # between readings of the load while runs are far off
_IDLE_S = 10.0  # between readings else
_LEAST_S = 0.005  # a load over less running time than this is chance


class RunHistory:
    """The last runs, and what every report says. Under the executor's lock, but for what a report makes late.

    Args:
        workers: The lanes.
        device: The identity of the device, as plain data; empty where that is not known.
        notes: What disturbs lanes on it.
        fallen_back: For each sub-model that is executed eagerly against the plan, a sentence why.
        interference: Asked for what its lanes take of each other's memory bandwidth, which may take a second.

    Attributes:
        in_force: For each lane, what its worker found in force.
        doubts: Asked for what is known against the measurements behind a plan, sentences; None where no lab knows.
        fallen_back: As given, and what was loaded since.
        news: What has become of the lanes since the last run, a sentence for the next report, or "".
        members: What every report says of sub-models: whose lanes are not what the notebook is, who keeps state.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        device: Mapping[str, Any],
        notes: tuple[str, ...] = (),
        fallen_back: Mapping[str, str],
        interference: Callable[[], Interference | None],
    ) -> None:
        self._device = device
        self._notes = notes
        self._interference = interference
        self._lower: tuple[object, object, str] = (None, None, "")
        self.lanes_are(workers)
        self.doubts: Callable[[Plan], Sequence[str]] | None = None
        self.fallen_back = dict(fallen_back)
        self.members: tuple[str, ...] = ()
        self.news = ""

    def take_news(self) -> tuple[str, ...]:
        """The news, which are told once."""
        news, self.news = self.news, ""
        return (news,) if news else ()

    def lanes_are(self, workers: Sequence[Worker]) -> None:
        """These are the lanes from now on."""
        self._recent = RecentRuns([worker.pid for worker in workers if worker.own_process])
        self.in_force = tuple(worker.in_force.description for worker in workers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every report says of the lanes: what disturbs them, and who is not executed as the plan says."""
        return (*self._notes, *self.fallen_back.values())

    def executed(self, plan: Plan) -> Mapping[str, str]:
        """For each sub-model how it is really executed: "eager" where what the plan says could not be had."""
        return {
            name: "eager" if step in self.fallen_back else how
            for step, how in backends_of(plan).items()
            for name in members_of([step])
        }

    def loaded_anew(self, names: Collection[str], fallen_back: Mapping[str, str]) -> None:
        """These sub-models were loaded anew, and some of them could not be executed as the plan says."""
        kept = {name: why for name, why in self.fallen_back.items() if name not in names}
        self.fallen_back = {**kept, **fallen_back}

    def forget(self) -> None:
        """Count anew: what ran until now does not stand for what comes."""
        self._recent.forget()

    def report(
        self,
        plan: Plan,
        at_s: Mapping[str, tuple[float, float]],
        nan: Collection[str],
        batch: str,
        *,
        jct_s: float,
        copy_s: float,
        combine_s: float,
        notes: Sequence[str],
        stages: tuple[StageReport, ...] = (),
        answered: Answered | None = None,
    ) -> RunReport:
        """Take in a run, and report it.

        Args:
            plan: What ran.
            at_s: For each step that is done, when it began and ended, in seconds since the batch was handed over.
            nan: Steps whose output held NaN.
            batch: What the input looked like.
            jct_s: See `RunReport`, as for the other times.
            copy_s: Likewise.
            combine_s: Likewise.
            notes: What is to be said of this run alone.
            stages: Of a plan in stages, what happened in each.
            answered: Who answered, of a run that may have been answered by some of the members: it says nothing of the
                plan's prediction. None: all have.
        """
        same_shape = not plan.example or batch == plan.example
        found = tuple(name for name in plan.steps if name in nan) if nan else ()
        told = self._told(plan, batch, found, same_shape=same_shape)
        predicted_s = plan.jct_s if same_shape else None
        # The JCT of a plan in stages is that of the rows that come: no single prediction holds for it.
        counts = not stages and answered is None
        lately = self._recent.ran(jct_s, predicted_s, plan, batch) if counts else None
        in_force = self.in_force
        until_s = None if answered is None else jct_s - combine_s
        return RunReport.late(
            lambda: spans_and_lanes(plan, in_force, at_s, same_shape=same_shape, until_s=until_s),
            jct_s=jct_s,
            copy_s=copy_s,
            combine_s=combine_s,
            predicted_s=predicted_s,
            batch=batch,
            nan=found,
            notes=(*told, *notes),
            unmeasured=plan.unmeasured if predicted_s is not None else {},
            answered=answered,
            stages=stages,
            worst_s=plan.worst_s if same_shape else None,
            remark=None if lately is None else lambda report: self.far_off(report, plan, *lately),
        )

    def _told(self, plan: Plan, batch: str, nan: Sequence[str], *, same_shape: bool) -> list[str]:
        """What is to be said of lanes, members and input."""
        told = [*self.notes, *self.members]
        lower = self._in_lower_precision(plan)
        if lower:
            told.append(f"In another precision, as the plan says: {lower}.")
        if not same_shape:
            told.append(
                f"The plan was profiled for {plan.example}; this batch is {batch}, for which nothing is predicted. "
                "Register and profile with such an example to have a plan for it."
            )
        if nan:
            told.append(f"NaN in the output of {', '.join(nan)}.")
        return told

    def _in_lower_precision(self, plan: Plan) -> str:
        """Who computes in less than its own precision, for people; looked at once for each plan."""
        of, fallen_back, told = self._lower
        if of is not plan or fallen_back is not self.fallen_back:
            told = ", ".join(f"{name} ({how})" for name, how in self.executed(plan).items() if "@" in how)
            self._lower = plan, self.fallen_back, told
        return told

    def far_off(self, report: RunReport, plan: Plan, runs_s: tuple[float, ...], load: float | None) -> tuple[str, ...]:
        """What to say where runs of a plan are far from its prediction: see `drift`.

        Args:
            report: Of one of them.
            plan: The plan, as it was then.
            runs_s: Their JCTs.
            load: What other programs took of the lanes' time meanwhile.
        """
        return drift(
            Circumstances(
                plan=plan,
                runs_s=runs_s,
                spans=report.spans,
                overhead_s=report.overhead_s,
                copy_s=report.copy_s,
                load=load,
                device=self._device,
                fallen_back=tuple(self.fallen_back),
                doubts=() if self.doubts is None else tuple(self.doubts(plan)),
                of_lab=self.doubts is not None,
                interference=self._interference,
            )
        )

    @property
    def load(self) -> float | None:
        """What other programs took of the lanes' time since it was looked at last, 0 to 1; None where unknown."""
        return self._recent.load(look=True)


class RecentRuns:
    """The last few runs of one plan and shape, and what other programs took of its lanes meanwhile.

    It is told of every run, so it costs next to nothing: an append, two comparisons. How long the lanes waited for a
    core (`esen_lab.devices.cpu.contention`) is read when a run was far from its prediction, a few times a second at
    most, and else every ten seconds, so that the count begins shortly before.

    Args:
        pids: The lanes' processes; none where lanes are threads of this one.
        clock: Seconds that only go forward.
        read: Counts how long they ran and waited.
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[Sequence[int]], LoadSample | None] = sample_load,
    ) -> None:
        self._pids = tuple(pids)
        self._clock = clock
        self._read = read
        self._of: tuple[object, str] = (None, "")
        self._runs_s: deque[float] = deque(maxlen=RECENT)
        self._read_at = clock()
        self._sample = self._look()
        self._load: float | None = None

    def ran(
        self, jct_s: float, predicted_s: float | None, plan: Plan, batch: str
    ) -> tuple[tuple[float, ...], float | None] | None:
        """Take in a run; returns the last runs and the load where this one was far from its prediction, else None."""
        if self._of[0] is not plan or self._of[1] != batch:
            self._of = (plan, batch)
            self._runs_s.clear()
        self._runs_s.append(jct_s)
        if not predicted_s:  # nothing to be far from
            return None
        now = self._clock()
        if predicted_s < jct_s * FAR and jct_s < predicted_s * FAR:
            if now - self._read_at > _IDLE_S:
                self._begin(now)
            return None
        return tuple(self._runs_s), self.load(look=now - self._read_at > _LOOK_S or self._load is None)

    def forget(self) -> None:
        """Count anew: what ran until now does not stand for what comes."""
        self._runs_s.clear()
        self._begin(self._clock())

    def load(self, *, look: bool) -> float | None:
        """What other programs took of the lanes' time, 0 to 1."""
        if look:
            sample = self._look()
            before, self._read_at = self._sample, self._clock()
            if before is None or sample is None or sample.ran_s - before.ran_s >= _LEAST_S:
                self._load = load_between(before, sample)
                self._sample = sample
        return self._load

    def _begin(self, now: float) -> None:
        self._sample, self._read_at, self._load = self._look(), now, None

    def _look(self) -> LoadSample | None:
        return self._read(self._pids) if self._pids else None
