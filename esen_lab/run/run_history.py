"""What is known of the runs of one plan's lanes, from run to run; the report of each is made here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.lanes import Worker
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run.answered import Answered
from esen_lab.run.drift import Circumstances, drift
from esen_lab.run.recent_runs import RecentRuns
from esen_lab.run.report import RunReport, spans_and_lanes
from esen_lab.run.stage_report import StageReport

if TYPE_CHECKING:
    from esen_lab.devices.cpu.interference import Interference


def _no_doubts(_: Plan) -> Sequence[str]:
    return ()


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
        doubts: Asked for what is known against the measurements behind a plan, sentences.
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
        self.lanes_are(workers)
        self.doubts: Callable[[Plan], Sequence[str]] = _no_doubts
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
            for lane in plan.lanes
            for step, how in zip(lane.members, lane.backends, strict=True)
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
    ) -> RunReport:
        """Take in a run, and report it.

        Args:
            plan: What ran.
            at_s: For each sub-model, when it began and ended, in seconds since the batch was handed over.
            nan: Sub-models whose output held NaN.
            batch: What the input looked like.
            jct_s: See `RunReport`, as for the other times.
            copy_s: Likewise.
            combine_s: Likewise.
            notes: What is to be said of this run alone.
            stages: Of a plan in stages, what happened in each.
        """
        same_shape = not plan.example or batch == plan.example
        found = tuple(name for name in plan.steps if name in nan) if nan else ()
        told = self._told(plan, batch, found, same_shape=same_shape)
        predicted_s = plan.jct_s if same_shape else None
        # The JCT of a plan in stages is that of the rows that come: no single prediction holds for it.
        lately = None if stages else self._recent.ran(jct_s, predicted_s, plan, batch)
        in_force = self.in_force
        return RunReport.late(
            lambda: spans_and_lanes(plan, in_force, at_s, same_shape=same_shape),
            jct_s=jct_s,
            copy_s=copy_s,
            combine_s=combine_s,
            predicted_s=predicted_s,
            batch=batch,
            nan=found,
            notes=(*told, *notes),
            unmeasured=plan.unmeasured if predicted_s is not None else {},
            stages=stages,
            worst_s=plan.worst_s if same_shape else None,
            remark=None if lately is None else lambda report: self.far_off(report, plan, *lately),
        )

    def _told(self, plan: Plan, batch: str, nan: Sequence[str], *, same_shape: bool) -> list[str]:
        """What is to be said of lanes, members and input."""
        told = [*self.notes, *self.members]
        lower = [f"{name} ({how})" for name, how in self.executed(plan).items() if "@" in how]
        if lower:
            told.append(f"In another precision, as the plan says: {', '.join(lower)}.")
        if not same_shape:
            told.append(
                f"The plan was profiled for {plan.example}; this batch is {batch}, for which nothing is predicted. "
                "Register and profile with such an example to have a plan for it."
            )
        if nan:
            told.append(f"NaN in the output of {', '.join(nan)}.")
        return told

    def partial_report(
        self,
        plan: Plan,
        at_s: Mapping[str, tuple[float, float]],
        nan: Collection[str],
        batch: str,
        *,
        jct_s: float,
        copy_s: float,
        combine_s: float,
        answered: Answered,
        notes: Sequence[str],
        stages: tuple[StageReport, ...] = (),
    ) -> RunReport:
        """Report a run that may have been answered by some of the members; it says nothing of the plan's prediction.

        Args:
            plan: What ran.
            at_s: For each step that is done, when it began and ended, in seconds since the batch was handed over.
            nan: Steps whose output held NaN.
            batch: What the input looked like.
            jct_s: See `RunReport`, as for the other times.
            copy_s: Likewise.
            combine_s: Likewise.
            answered: Who answered.
            notes: What is to be said of this run alone.
            stages: Of a plan in stages, what happened in each.
        """
        same_shape = not plan.example or batch == plan.example
        found = tuple(name for name in plan.steps if name in nan) if nan else ()
        in_force = self.in_force
        predicted_s = plan.jct_s if same_shape else None
        return RunReport.late(
            lambda: spans_and_lanes(plan, in_force, at_s, same_shape=same_shape, until_s=jct_s - combine_s),
            jct_s=jct_s,
            copy_s=copy_s,
            combine_s=combine_s,
            predicted_s=predicted_s,
            batch=batch,
            nan=found,
            notes=(*self._told(plan, batch, found, same_shape=same_shape), *notes),
            unmeasured=plan.unmeasured if predicted_s is not None else {},
            answered=answered,
            stages=stages,
            worst_s=plan.worst_s if stages and same_shape else None,
        )

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
                doubts=tuple(self.doubts(plan)),
                interference=self._interference,
            )
        )

    @property
    def load(self) -> float | None:
        """What other programs took of the lanes' time since it was looked at last, 0 to 1; None where unknown."""
        return self._recent.load(look=True)
