"""What every way to nodes keeps to: the same checks are made of threads (quick) and of a cluster of Ray (slow).

Each check is a function that takes a `Cluster` and raises where something does not hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from gates import Gate
from models import Sleeper, mlp

from esen_lab import Lab
from esen_lab.cluster import NodeReach, PlanOnNodes, key_of, nodes_call
from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeadlineMissed, DeviceError, EsenError, UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Deadline, RunOptions

PATIENCE_S = 600.0  # nodes that start on a busy machine


class Cluster(Protocol):
    """Nodes "left" and "right", of one unit each."""

    reach: NodeReach
    pace: float
    """How many times longer than among threads things are given here."""

    def kill_worker(self, running: PlanOnNodes, node: str) -> None:
        """As kill -9 of what runs on a node."""

    def kill_node(self, running: PlanOnNodes, node: str) -> None:
        """As kill -9 of the node."""


X = torch.linspace(-1, 1, 32).reshape(4, 8)


def plan_for(left: tuple[str, ...], right: tuple[str, ...]) -> Plan:
    lanes = (Lane(units=1, members=left, device="left"), Lane(units=1, members=right, device="right"))
    return Plan(lanes=lanes, units=1, devices={"left": 1, "right": 1})


def staged_plan(*stages: tuple[tuple[str, ...], tuple[str, ...]], threshold: float | tuple[float, ...]) -> Plan:
    """For each stage who is asked on "left" and who on "right"; nobody, or a lane for all of them."""
    lanes = [
        Lane(units=1, members=members, device=device, stage=number)
        for number, both in enumerate(stages)
        for device, members in zip(("left", "right"), both, strict=True)
        if members
    ]
    reach = tuple(1 / (number + 1) for number in range(len(stages)))
    return Plan(lanes=tuple(lanes), units=1, devices={"left": 1, "right": 1}, reach=reach, threshold=threshold)


def on_one_machine(plan: Plan) -> Plan:
    """The same lanes here."""
    return replace(plan, lanes=tuple(replace(lane, device="") for lane in plan.lanes), units=2, devices={})


def ensemble_of(lab: Lab, d: torch.nn.Module | None = None) -> Ensemble:
    """Members a, b, c, d."""
    for name in "abc":
        lab.register(name, mlp(seed=ord(name), outputs=8), example=X)
    lab.register("d", d or mlp(seed=4, outputs=8), example=X)
    return lab.ensemble


class Started:
    """An ensemble in a lab, and its plan on the nodes; with `slow_s`, d takes that long, or is held by `gate`."""

    def __init__(
        self, cluster: Cluster, plan: Plan | None = None, *, slow_s: float = 0.0, gate: Gate | None = None
    ) -> None:
        self._cluster = cluster
        self._d = gate.member(2.0) if gate else Sleeper(slow_s) if slow_s else None
        self._plan = plan or plan_for(("a", "b"), ("c", "d"))

    def __enter__(self) -> Started:
        self.lab = Lab("cpu")
        self.ensemble = ensemble_of(self.lab, self._d)
        self.told: list[tuple[int, int, str]] = []
        self.nodes = PlanOnNodes.start(
            self._plan,
            self.ensemble,
            self._cluster.reach,
            deadline=Deadline(PATIENCE_S),
            on_progress=lambda *told: self.told.append(told),
        )
        return self

    def __exit__(self, *problem: object) -> None:
        self.nodes.close()
        self.lab.close()

    def here(self, plan: Plan, x: torch.Tensor) -> Any:
        """What a plan for this machine answers, and its report."""
        self.lab.plan = plan
        answer = self.lab.run(x)
        return answer, self.lab.report

    def run(self, x: Any = X, **options: Any) -> Any:
        return self.nodes.run(x, deadline=Deadline(PATIENCE_S), options=RunOptions(**options) if options else None)


def answers_are_those_of_one_machine(cluster: Cluster) -> None:
    with Started(cluster) as started:
        here = started.lab.run(X)
        run = started.run()
        assert torch.equal(run.output, here)
        assert [told[0] for told in started.told] == [0, 1, 2]
        assert {report.name for report in run.report.nodes} == {"left", "right"}
        assert {span.name for span in run.report.spans} == {"a", "b", "c", "d"}
        assert [lane.device for lane in run.report.lanes] == ["left", "right"]
        assert all(report.network_s >= 0 and report.took_s > 0 for report in run.report.nodes)
        large = torch.linspace(-1, 1, 40_000).reshape(5_000, 8)
        assert torch.equal(started.run(large).output, started.lab.run(large))
        assert "uncertainty" not in str(run.report)
        spread = started.run(uncertainty=True).output
        assert torch.equal(spread.answer, here)


def settings_of_the_session_hold_on_the_nodes(cluster: Cluster) -> None:
    with Started(cluster) as started, torch.autocast("cpu", dtype=torch.bfloat16):
        from esen_lab.cluster import NodeSettings

        found = started.lab._runtime.fork_server.look_at_session()
        settings = NodeSettings(process=found.process, thread=found.thread)
        run = started.nodes.run(X, deadline=Deadline(PATIENCE_S), settings=settings)
        assert run.output.dtype == torch.bfloat16
        assert torch.equal(run.output, started.lab.run(X))


def changed_weights_are_sent_anew(cluster: Cluster) -> None:
    with Started(cluster) as started:
        before = started.run().output
        started.lab.register("b", mlp(seed=77, outputs=8), example=X)
        started.nodes.keep_to(started.nodes.plan, started.lab.ensemble)
        after = started.run().output
        assert not torch.equal(before, after)
        assert torch.equal(after, started.lab.run(X))


def a_killed_lane_fails_the_call_by_name_and_the_next_is_right(cluster: Cluster) -> None:
    with a_gate() as gate, Started(cluster, gate=gate) as started:
        here = started.run().output
        lane = started.nodes.loaded["right"].lane_pids[0]
        once_begun(gate, lambda: os.kill(lane, signal.SIGKILL))
        problem = fails(started.run)
        assert isinstance(problem, DeviceError)
        assert "right" in str(problem)
        assert "c, d" in str(problem)
        run = started.run()
        assert torch.equal(run.output, here)
        assert any("started anew" in note for note in run.report.notes)


def a_killed_worker_fails_the_call_by_name_and_starts_again(cluster: Cluster) -> None:
    with a_gate() as gate, Started(cluster, gate=gate) as started:
        here = started.run().output
        once_begun(gate, lambda: cluster.kill_worker(started.nodes, "right"))
        problem = fails(started.run)
        assert isinstance(problem, DeviceError)
        assert "right" in str(problem)
        assert "c, d" in str(problem)
        assert torch.equal(started.run().output, here)
        assert started.nodes.nodes[1].state == "ready"


def a_killed_worker_is_left_out_where_that_is_asked_for(cluster: Cluster) -> None:
    with a_gate() as gate, Started(cluster, gate=gate) as started:
        here = started.run().output
        once_begun(gate, lambda: cluster.kill_worker(started.nodes, "right"))
        run = started.run(on_failure="leave-out")
        assert run.report.answered.names == ("a", "b")
        assert {missing.name for missing in run.report.answered.missing} == {"c", "d"}
        assert "right" in str(run.report)
        only = started.ensemble.only(("a", "b"))
        with Lab("cpu") as other:
            for submodel in only.submodels:
                other.register(submodel.name, mlp(seed=ord(submodel.name), outputs=8), example=X)
            assert torch.equal(run.output, other.run(X))
        assert torch.equal(started.run().output, here)


def a_deadline_leaves_out_who_is_late(cluster: Cluster) -> None:
    pace = cluster.pace
    with Started(cluster, slow_s=3.0 * pace) as started:
        started.run()
        begun = time.monotonic()
        run = started.run(deadline_s=1.5 * pace, at_least=3)
        assert time.monotonic() - begun < 3.0 * pace
        assert run.report.answered.names == ("a", "b", "c")
        assert run.report.answered.ended in ("all", "deadline")
        missed = fails(lambda: started.run(deadline_s=1.0 * pace, at_least=4))
        assert isinstance(missed, DeadlineMissed)
        assert [name for name, _ in missed.missing][-1] == "d"
        first = started.run(deadline_s=0.5 * pace, at_least=4, otherwise="first")
        assert first.report.answered.names == ("a", "b", "c", "d")


def large_outputs_are_combined_on_the_node_that_has_most_of_them(cluster: Cluster) -> None:
    with Started(cluster) as started, combined_there_from(0):
        here = started.lab.run(X)
        first = started.run()
        assert not any("Combined on node" in note for note in first.report.notes), "how large they are is not known yet"
        for _ in range(2):
            run = started.run()
            assert torch.equal(run.output, here)
            assert any("Combined on node" in note for note in run.report.notes)
        assert sum(report.received_bytes for report in run.report.nodes) == 0
        large = torch.linspace(-1, 1, 40_000).reshape(5_000, 8)
        assert torch.equal(started.run(large).output, started.lab.run(large))
        assert torch.equal(started.run(uncertainty=True).output.answer, here)


def a_death_before_outputs_are_combined_is_that_of_the_node_that_died(cluster: Cluster) -> None:
    with Started(cluster) as started, combined_there_from(0):
        here = started.run().output
        combining = started.nodes._held.all[0].link
        for node in ("left", "right"):
            ask, asked = combining.call, []

            def call(method: str, *arguments: Any, node: str = node, ask: Any = ask, asked: list[str] = asked) -> Any:
                if method == "combine":
                    asked.append(method)
                    cluster.kill_worker(started.nodes, node)
                return ask(method, *arguments)

            combining.call = call  # type: ignore[method-assign]
            try:
                problem = fails_or_none(started.run)
            finally:
                del combining.call
            assert asked
            assert problem is None or (isinstance(problem, DeviceError) and f"node {node}" in str(problem)), problem
            until_right(started, here)


def what_nodes_do_can_be_read_while_they_run(cluster: Cluster) -> None:
    with Started(cluster, slow_s=0.2) as started:
        keys = {key_of("left"), key_of("right")}
        begun = time.monotonic()
        values: dict[str, Any] = {}
        while not all(isinstance(values.get(key), float) for key in keys):
            assert time.monotonic() - begun < PATIENCE_S, values
            started.run()
            channels, values = started.nodes.readings.read()
        labels = {channel.label for channel in channels}
        assert {"left, cores", "right, cores", "lane 1 on left, CPU", "lane 2 on right, CPU"} <= labels
        started.nodes.readings.rest()


THREE = staged_plan((("a",), ()), (("b",), ("c",)), ((), ("d",)), threshold=(0.18, 0.142))
ROWS = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))


def a_plan_in_stages_answers_as_on_one_machine_and_sends_open_rows_only(cluster: Cluster) -> None:
    with Started(cluster, THREE) as started:
        for x in (ROWS, ROWS[:5], ROWS[:1], torch.cat([ROWS] * 3)):
            run = started.run(x)
            here, report = started.here(on_one_machine(THREE), x)
            assert torch.equal(run.output, here)
            told = [(stage.names, stage.rows, stage.left, stage.ran, stage.of) for stage in run.report.stages]
            assert told == [(stage.names, stage.rows, stage.left, stage.ran, stage.of) for stage in report.stages]
            assert all(stage.duration_s > 0 for stage in run.report.stages if stage.rows)
            asked = [len(x) + run.report.stages[1].rows, run.report.stages[1].rows + run.report.stages[2].rows]
            sent = {node.name: node.sent_bytes for node in run.report.nodes}
            assert [sent.get("left", 0), sent.get("right", 0)] == [rows * 8 * 4 for rows in asked]
            assert [lane.members for lane in run.report.lanes] == [lane.members for lane in report.lanes]
            assert {span.name for span in run.report.spans} == {span.name for span in report.spans}
        stages = started.run(ROWS).report.stages
        assert all(stage.left > 0 for stage in stages), "rows leave after every stage"
        assert [stage.predicted_reach for stage in stages] == list(THREE.reach)
        assert torch.equal(started.run(ROWS, deadline_s=PATIENCE_S).output, started.run(ROWS).output)


def stages_that_nobody_is_left_for_are_not_asked(cluster: Cluster) -> None:
    with Started(cluster, THREE) as started:
        pids = {name: loaded.pid for name, loaded in started.nodes.loaded.items()}
        started.nodes.keep_to(replace(THREE, threshold=0.01), started.ensemble)
        report = started.run(ROWS).report
        assert [stage.left for stage in report.stages] == [16, 0, 0]
        assert [node.name for node in report.nodes] == ["left"]
        assert [lane.members for lane in report.lanes] == [("a",)]
        assert pids == {name: loaded.pid for name, loaded in started.nodes.loaded.items()}, "thresholds load nothing"


def rows_that_are_open_at_a_deadline_have_the_answer_so_far(cluster: Cluster) -> None:
    pace = cluster.pace
    with Started(cluster, THREE, slow_s=1.6 * pace) as started:
        run = started.run(ROWS, deadline_s=0.8 * pace)
        answered = run.report.answered
        assert (answered.names, answered.ended) == (("a", "b", "c"), "deadline")
        assert [missing.why for missing in answered.missing] == ["late"]
        assert answered.cut_rows == run.report.stages[2].rows > 0
        without = [lane for lane in on_one_machine(THREE).lanes if lane.members != ("d",)]
        shorter = replace(THREE, lanes=tuple(without), devices={}, reach=(1.0, 0.5), threshold=0.18, left_out=("d",))
        assert torch.equal(run.output, started.here(replace(shorter, units=2), ROWS)[0])
        missed = fails(lambda: started.run(ROWS, deadline_s=0.6 * pace, at_least=4))
        assert isinstance(missed, DeadlineMissed)
        assert "3 in earlier stages" in str(missed)
        late = started.run(ROWS, deadline_s=0.3 * pace, at_least=4, otherwise="first")
        assert late.report.answered.names == ("a", "b", "c", "d")


def a_stage_whose_node_dies_hands_its_rows_on_where_that_is_asked_for(cluster: Cluster) -> None:
    plan = staged_plan((("a",), ()), ((), ("d",)), (("b", "c"), ()), threshold=1.0)
    with a_gate() as gate, Started(cluster, plan, gate=gate) as started:
        here = started.run(ROWS).output
        once_begun(gate, lambda: cluster.kill_worker(started.nodes, "right"))
        run = started.run(ROWS, on_failure="leave-out")
        assert run.report.answered.names == ("a", "b", "c")
        assert "LEFT OUT" in str(run.report)
        assert [stage.rows for stage in run.report.stages] == [16, 16, 16]
        until_right(started, here, ROWS)
        once_begun(gate, lambda: cluster.kill_worker(started.nodes, "right"))
        problem = fails(lambda: started.run(ROWS))
        assert isinstance(problem, DeviceError)
        assert "node right (d)" in str(problem)


def a_later_member_whose_answer_depends_on_other_rows_is_refused_before_the_first_run(cluster: Cluster) -> None:
    plan = staged_plan((("a", "b", "c"), ()), ((), ("d",)), threshold=0.9)
    with Lab("cpu") as lab:
        ensemble_of(lab)
        lab.register("d", torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Softmax(dim=0)), example=X)
        ensemble, reach = lab.ensemble, cluster.reach
        problem = fails(lambda: PlanOnNodes.start(plan, ensemble, reach, deadline=Deadline(PATIENCE_S)))
        assert isinstance(problem, UsageError)
        assert "does not depend on the other rows" in str(problem)
        assert "'d'" in str(problem)


def a_node_that_is_gone_fails_calls_and_can_be_left_out(cluster: Cluster) -> None:
    with Started(cluster) as started:
        started.run()
        cluster.kill_node(started.nodes, "right")
        begun = time.monotonic()
        while not started.nodes.gone and time.monotonic() - begun < PATIENCE_S:
            with contextlib.suppress(DeviceError):  # what ran there may answer until it notices
                started.run()
        problem = fails(started.run)
        assert isinstance(problem, DeviceError)
        assert "right" in str(problem)
        assert "c, d" in str(problem)
        assert "replan_without" in str(problem)
        run = started.run(on_failure="leave-out")
        assert run.report.answered.names == ("a", "b")
        assert [node.state for node in started.nodes.nodes] == ["ready", "gone"]


CHECKS: tuple[Callable[[Cluster], None], ...] = (
    answers_are_those_of_one_machine,
    settings_of_the_session_hold_on_the_nodes,
    changed_weights_are_sent_anew,
    a_killed_lane_fails_the_call_by_name_and_the_next_is_right,
    a_killed_worker_fails_the_call_by_name_and_starts_again,
    a_killed_worker_is_left_out_where_that_is_asked_for,
    a_deadline_leaves_out_who_is_late,
    large_outputs_are_combined_on_the_node_that_has_most_of_them,
    a_death_before_outputs_are_combined_is_that_of_the_node_that_died,
    what_nodes_do_can_be_read_while_they_run,
    a_plan_in_stages_answers_as_on_one_machine_and_sends_open_rows_only,
    stages_that_nobody_is_left_for_are_not_asked,
    rows_that_are_open_at_a_deadline_have_the_answer_so_far,
    a_stage_whose_node_dies_hands_its_rows_on_where_that_is_asked_for,
    a_later_member_whose_answer_depends_on_other_rows_is_refused_before_the_first_run,
    a_node_that_is_gone_fails_calls_and_can_be_left_out,  # last: it takes a node
)


def fails(act: Callable[[], object]) -> EsenError:
    """What something raises."""
    try:
        act()
    except EsenError as problem:
        return problem
    raise AssertionError("it did not fail")


def fails_or_none(act: Callable[[], object]) -> EsenError | None:
    """What something raises, if it does."""
    try:
        act()
    except EsenError as problem:
        return problem
    return None


def until_right(started: Started, wanted: torch.Tensor, x: torch.Tensor = X) -> None:
    """Run until what was killed is there again; every answer until then is right."""
    begun = time.monotonic()
    while True:
        assert time.monotonic() - begun < PATIENCE_S
        with contextlib.suppress(DeviceError):
            assert torch.equal(started.run(x).output, wanted)
            return


@contextlib.contextmanager
def combined_there_from(size_bytes: int) -> Iterator[None]:
    """Inside, outputs of other machines that are as large together are combined on a node; of 0 bytes, any are."""
    before, nodes_call.COMBINED_THERE_BYTES = nodes_call.COMBINED_THERE_BYTES, size_bytes
    try:
        yield
    finally:
        nodes_call.COMBINED_THERE_BYTES = before


@contextlib.contextmanager
def a_gate() -> Iterator[Gate]:
    """Open, in a folder of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder) / "gate")
        gate.open()
        yield gate


def once_begun(gate: Gate, act: Callable[[], object]) -> None:
    """Have something done while a call is under way that the member behind the gate holds."""
    gate.close()

    def work() -> None:
        try:
            gate.begun()
            act()
        finally:
            gate.open()

    threading.Thread(target=work, daemon=True).start()
