"""Runs one plan over several nodes: each holds warm lanes, and is asked for its members' answers once per call.

    1. The input is packed; a large one is put into the cluster's store once, from where every node takes it.
    2. Every node runs its lanes, as on one machine, and answers with the outputs of its members.
    3. The combine rule makes one answer of them here, in the order of the ensemble: equal to the bit to one machine's.

What dies takes its members' answers along: the call fails with an error that names node and members, or is answered
without them where that was asked for. What died starts again by itself, and the next call finds or awaits it.

A plan in stages goes through this stage by stage, for the rows that are open (`stages_call.py`).

    held_nodes.py     the nodes, between calls
    nodes_call.py     one call; stages_call.py one of a plan in stages
    nodes_run.py      one run of it: every node is asked once
    nodes_report.py   the report
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from esen_lab.cluster.held_nodes import HeldNode, HeldNodes
from esen_lab.cluster.node_messages import NodeLoaded, NodeSettings
from esen_lab.cluster.node_readings import NodeReadings
from esen_lab.cluster.nodes import ClusterNode, NodeReach, sizes
from esen_lab.cluster.nodes_call import NodesCall
from esen_lab.cluster.parts import parts_of
from esen_lab.cluster.requests import CallRequest
from esen_lab.cluster.stages_call import StagesCall
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Plan
from esen_lab.run import Deadline, Run, RunOptions
from esen_lab.run.stage_checks import StagesPrepared, check_stages
from esen_lab.run.start import silent

RESTARTS = 20


class PlanOnNodes:
    """The warm lanes of one plan on the nodes of a cluster. Made by `start`; one thread at a time runs.

    Attributes:
        plan: What runs.
        ensemble: Its sub-models, and the combine rule.
        readings: What its nodes are doing, for who watches.
    """

    def __init__(self, plan: Plan, ensemble: Ensemble, held: HeldNodes) -> None:
        """Use `start`."""
        self.plan = plan
        self.ensemble = ensemble
        self._held = held
        self._prepared = StagesPrepared(has_engines=any(lane.stage and not lane.all_eager for lane in plan.lanes))
        self._threads = CallersThreads()
        self.readings = NodeReadings(held)

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        reach: NodeReach,
        *,
        deadline: Deadline,
        on_progress: Callable[[int, int, str], object] | None = None,
    ) -> PlanOnNodes:
        """Start what runs on each node, and wait until all have loaded their part.

        Args:
            plan: Its devices are names of nodes.
            ensemble: The members that it runs, and no others.
            reach: The way to the nodes.
            deadline: Of all of it.
            on_progress: Called with (nodes that are ready, all, which one).

        Raises:
            UsageError: The plan does not fit these nodes, a sub-model cannot be sent, or one of a later stage cannot be
                asked for some rows.
            EsenError: A node could not load its part; what was started has been ended again.
        """
        check_stages(plan, ensemble)
        there = {node.name: node for node in reach.nodes() if node.alive}
        parts = parts_of(plan, sizes(list(there.values())))
        bundles = [part.bundle(ensemble) for part in parts]
        held = HeldNodes(reach)
        made = cls(plan, ensemble, held)
        try:
            for part, bundle in zip(parts, bundles, strict=True):
                value = reach.put(bundle)
                node = there[part.node]
                link = reach.start(node, value, part.units, restarts=RESTARTS)
                one = HeldNode(part=part, node=node, link=link, bundle=bundle, value=value, begun_with=value)
                held.all += (one,)
                one.loading = link.call("what_is_loaded")
            held.wait_until_loaded(deadline, on_progress or silent)
            if plan.staged and not made.keeping:  # on the example, as lanes of one machine; it counts to no run
                made.run(ensemble.example, deadline=deadline)
        except BaseException:
            made.close()
            raise
        return made

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """Its nodes, as they are now."""
        return tuple(
            replace(
                node.node,
                alive=not node.gone,
                state=node.state,
                members=node.part.members,
                notes=(*node.node.notes, *([node.gone] if node.gone else [])),
            )
            for node in self._held.all
        )

    @property
    def told(self) -> tuple[str, ...]:
        """For each node, a sentence: what it is doing, and who runs there."""
        return tuple(f"{node.name} {node.state} ({', '.join(node.part.members)})" for node in self._held.all)

    @property
    def loaded(self) -> dict[str, NodeLoaded]:
        """What each node has loaded, as of the last time it was asked."""
        return {node.name: node.loaded for node in self._held.all if node.loaded is not None}

    @property
    def gone(self) -> tuple[str, ...]:
        """Nodes that are gone for good."""
        return tuple(node.name for node in self._held.all if node.gone)

    @property
    def keeping(self) -> tuple[str, ...]:
        """Members that keep state between calls."""
        return tuple(name for loaded in self.loaded.values() for name in loaded.keeping)

    def holds(self, plan: Plan, reach: NodeReach) -> bool:
        """Whether it runs these very lanes, on nodes that are reached in this way."""
        return (
            bool(self._held.all)
            and self._held.reach is reach
            and (self.plan.lanes, self.plan.devices) == (plan.lanes, plan.devices)
        )

    def keep_to(self, plan: Plan, ensemble: Ensemble) -> None:
        """Go on with a plan of the same lanes, and sub-models that may have changed: nodes load theirs anew then.

        Args:
            plan: Its lanes are those of now; thresholds may be other ones.
            ensemble: Its sub-models, and the combine rule from now on.

        Raises:
            UsageError: One cannot be sent.
        """
        for node in self._held.all:
            names = node.part.members
            if any(not ensemble.get(name).same_as(self.ensemble.get(name)) for name in names):
                bundle = node.part.bundle(ensemble)
                if bundle.key != node.bundle.key:
                    node.bundle, node.value = bundle, self._held.reach.put(bundle)
                    self._prepared.forget()
        self.plan, self.ensemble = plan, ensemble

    def close(self) -> None:
        """End what runs on the nodes. May be called again."""
        self.readings.close()
        nodes, self._held.all = self._held.all, ()
        for node in nodes:
            node.link.close()

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(
        self,
        x: Tree,
        *,
        deadline: Deadline,
        options: RunOptions | None = None,
        due: Deadline | None = None,
        settings: NodeSettings | None = None,
    ) -> Run:
        """Run the ensemble once.

        Args:
            x: The input.
            deadline: Of the whole call.
            options: What is asked for besides the answer of all members; see `RunOptions`.
            due: When the answer is due, where `options` has a deadline that has begun earlier.
            settings: What the session has set.

        Raises:
            DeadlineMissed: Fewer members than were asked for were done when the answer was due.
            UsageError: The options cannot be had, or the input cannot go in.
            DeviceError: A node, what runs on it or one of its lanes is gone; the message names it and its members.
            ModelError: A sub-model raised; a note says where.
            WorkerTimeout: The deadline passed. What was at work is ended, and starts again.
        """
        options = None if options is None or options.plain else options
        if options is not None:
            self._check(options)
            if due is None and options.deadline_s is not None:
                due = Deadline(options.deadline_s)
        asked = CallRequest(
            plan=self.plan,
            ensemble=self.ensemble,
            held=self._held,
            x=x,
            deadline=deadline,
            options=options,
            due=due,
            settings=settings or NodeSettings(),
        )
        call = StagesCall(asked, self._prepared, self._threads) if self.plan.staged else NodesCall(asked)
        return call.run()

    def _check(self, options: RunOptions) -> None:
        options.check(self.ensemble, self.plan.names, self.keeping)
        if self.plan.staged:
            options.check_stages()
        if options.stop_early is not None:
            raise UsageError(
                "Answers that end early are those of one machine: nodes answer with all of their members at once",
                given=f"stop_early={options.stop_early!r}",
                hint="Give deadline_s, or run on one machine.",
            )
