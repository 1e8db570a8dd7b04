"""One run whose answer may be made before all members have answered: by a deadline, early, without who failed.

    1. The input goes where no late lane reads (`LaneInput.leave_to`), and lanes that are at rest are woken.
    2. Each lane tells each step as it is done (`member_collector.py`).
    3. It ends when all that can answer have, when the deadline has come and enough are done, or early.
    4. Lanes that are at work then end the step at hand and are late; nobody waits for them, and what they tell later is
       dropped by its number. The answer is made of the outputs of this run's number alone.

A late lane writes into its own memory and reads its own input; neither is touched before it has ended its run. So two
runs never mix, and the next one waits for a late lane only where it needs it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.run.answered import Answered, Ended
from esen_lab.run.early import Confidence, confidence, decided
from esen_lab.run.host_combine import combined
from esen_lab.run.lane_group import LaneGroup
from esen_lab.run.lane_runner import LaneRunner
from esen_lab.run.member_collector import CombineTime, MemberCollector
from esen_lab.run.members_done import MembersDone
from esen_lab.run.options import RunOptions, needs_all, weightless
from esen_lab.run.outcome import Run
from esen_lab.run.request import RunRequest
from esen_lab.run.run_history import RunHistory
from esen_lab.run.uncertainty import uncertain


class PartialRunner:
    """Runs one input at a time. Under the executor's lock.

    Args:
        group: The lanes, as one.
        lanes: Has the input, and runs what waits for all members.
        history: Makes the reports.
    """

    def __init__(self, group: LaneGroup, lanes: LaneRunner, history: RunHistory) -> None:
        self._group = group
        self._lanes = lanes
        self._history = history
        self._combine = CombineTime()

    def rehearse(self, ensemble: Ensemble) -> None:
        """Combine once what the last run left: the first deadline then knows how long that takes, and finds it warm."""
        if needs_all(ensemble.combine):
            return
        outputs = self._group.outputs(ensemble.names)
        for _ in range(2):
            began = time.perf_counter()
            self._made(ensemble, tuple(outputs), outputs)
            took_s = time.perf_counter() - began
        self._combine.took(took_s, self._lanes.input.size)

    def run(self, asked: RunRequest) -> Run:
        """Run once.

        Raises:
            DeadlineMissed: Fewer members than were asked for were done when the answer was due.
            EsenError: See `Executor.run`.
        """
        ensemble = asked.ensemble
        own = [name for name in ensemble.names if name in asked.plan.names]
        members = MembersDone(asked.plan.lanes, own, weightless(ensemble.combine, ensemble.names))
        members.leave_out(asked.failed)
        try:
            return self._run(asked, members)
        finally:
            members.forget()  # an error that is kept keeps its frames, and they the memory of outputs

    def _run(self, asked: RunRequest, members: MembersDone) -> Run:
        ensemble, options, due, begin_ns = asked.ensemble, asked.options, asked.due, asked.begin_ns
        group = self._group.stepwise
        lane_input = self._lanes.input
        collector = MemberCollector(self._group, lane_input, members, options, due, seed=asked.seed)
        collector.begin()
        if not group.late:
            self._lanes.where.stop()  # outputs lie on the host, each as soon as it is there
        self._lanes.hand_over(ensemble, asked.x, asked.deadline, late=group.late, at_once=False)
        copied = time.perf_counter_ns()
        busy = tuple(name for index in sorted(group.late) for name in members.of_lane(index))
        due_s = self._combine.begins_s(due, lane_input.size)
        found: Ended | Confidence = collector.collect(
            asked.deadline, due_s, lambda: self._early(ensemble, members, options), asked.meanwhile
        )
        self._check_probabilities(ensemble, members, options)
        done = time.perf_counter_ns()
        sure = found if isinstance(found, Confidence) else None
        ended: Ended = "confident" if isinstance(found, Confidence) else found
        names = members.done
        output = self._made(ensemble, names, members.outputs(names))
        if options.uncertainty:
            with self._lanes.threads.alone():
                output = uncertain(output, members.outputs(names), ensemble.combine, ensemble.names)
        end = time.perf_counter_ns()
        self._combine.took((end - done) / 1e9, lane_input.size)
        answered = Answered(
            names=names,
            missing=members.missing(ended),
            ended=ended,
            at_s=(end - begin_ns) / 1e9 if due is None else due.since_s,
            deadline_s=options.deadline_s,
            confidence=None if sure is None else sure.least,
            certain_rows=None if sure is None else sure.certain_rows,
            rows=None if sure is None else sure.rows,
            busy=busy,
        )
        jct_s = (end - begin_ns) / 1e9
        report = self._history.report(
            asked.plan,
            members.spans_s(begin_ns),
            members.nan,
            str(self._lanes.input.spec),
            jct_s=jct_s,
            copy_s=(copied - begin_ns) / 1e9,
            combine_s=(end - done) / 1e9,
            answered=answered,
            notes=[note for note in (group.told_caught_up(),) if note],
        )
        return Run(output=output, report=report)

    def _check_probabilities(self, ensemble: Ensemble, members: MembersDone, options: RunOptions) -> None:
        """Refuse outputs of which no answer can be confident, also where nothing was left to stop.

        Raises:
            UsageError: They are no probabilities.
        """
        if isinstance(options.stop_early, float):
            self._early(ensemble, members, options)

    def _early(self, ensemble: Ensemble, members: MembersDone, options: RunOptions) -> Ended | Confidence | None:
        """Why a run may end early, or None."""
        if options.stop_early is None:
            return None
        outputs = members.outputs(members.done)
        with self._lanes.threads.alone():
            if options.stop_early == "decided":
                return "decided" if decided(outputs, len(members.open)) else None
            expected = [name for name in ensemble.names if name in outputs or name in members.open]
            sure = confidence(outputs, ensemble.combine, expected, ensemble.names)
        return sure if sure.least >= float(options.stop_early) else None

    def _made(self, ensemble: Ensemble, names: Sequence[str], outputs: Mapping[str, Tree]) -> Tree:
        """The answer of these members, the caller's own."""
        return combined(ensemble.combine.for_members(names, ensemble.names), outputs, self._lanes.threads)
