"""`lab.cluster`: the nodes of a cluster of Ray, for a plan over several machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.cluster import ClusterStatus, RayReach
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages import nodes
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import Plan
from esen_lab.profiler import Profile


class LabCluster:
    """The cluster of one lab."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def connect(
        self,
        address: str = "auto",
        *,
        runtime_env: Mapping[str, Any] | None = None,
        devices: Mapping[str, str] | None = None,
    ) -> ClusterStatus:
        """Reach a cluster of Ray: plans whose devices are its nodes can be put in force and run from now on.

        A process has one connection: where it has one already (`ray.init` was called), that is used, and stays.

        Args:
            address: As for `ray.init`: "auto" for the cluster that runs on this machine, or "HOST:6379".
            runtime_env: Of what runs on the nodes, as Ray has it: `{"working_dir": "."}` brings modules of yours,
                `{"env_vars": {...}}` is set before CUDA starts.
            devices: For nodes by name what lanes share there, such as "cuda:0 mps"; "cpu" for all others.

        Returns:
            The nodes, with the names that plans call them by.

        Raises:
            UsageError: Ray is not installed.
            DeviceError: There is no such cluster.
        """
        return nodes.connect(self._runtime, RayReach(address, runtime_env=runtime_env, devices=devices))

    def leave(self) -> None:
        """End what runs on the nodes, and leave the cluster. The plan stays, and cannot run meanwhile."""
        nodes.leave(self._runtime)

    def status(self) -> ClusterStatus | None:
        """The nodes as they are now, who runs on each, and Ray's dashboard; None where none is connected."""
        state = self._runtime.state
        return None if state.reach is None else nodes.look(self._runtime, state.reach)

    def glance(self) -> ClusterStatus | None:
        """The nodes as `status` told them last, with what is known here of those that run a plan. Asks no node.

        None where no cluster is connected.
        """
        return nodes.glance(self._runtime.state)

    def profile(
        self, on_progress: Callable[[int, int, str], object] | None = None, **options: Any
    ) -> dict[str, Profile]:
        """Measure the sub-models on one node of each kind: what `lab.studies.place` takes.

        Nodes are alike where they count as many cores and GPUs of one kind. What runs on the nodes for this lab ends.

        Args:
            on_progress: Called with (kinds that are measured, all, the node that is).
            **options: As for `esen_lab.profiler.start_profile`: `budget_s`, `shares`, `backends`, ...

        Returns:
            For each node, by name, the profile of its kind.

        Raises:
            UsageError: No cluster is connected, or nothing is registered.
            EsenError: A node could not measure.
        """
        return nodes.profile(self._runtime, on_progress, options)

    def transfers(self, x: Tree = None, *, repeats: int = 20) -> dict[str, NodeLink]:
        """Measure the way to each node and back: what a placement over nodes counts besides their lanes.

        What runs on the nodes for this lab ends.

        Args:
            x: An input of the size that will be sent; None: the example.
            repeats: How many calls of each kind are timed, at least 1.

        Returns:
            For each node, by name, its link: `lab.studies.place(..., links=...)` takes them.

        Raises:
            UsageError: No cluster is connected, nothing is registered, or the number is not possible.
            DeviceError: A node died meanwhile.
        """
        return nodes.transfers(self._runtime, x, repeats)

    def load(self, on_progress: Callable[[int, int, str], object] | None = None) -> ClusterStatus:
        """Have the plan in force loaded on its nodes; otherwise the first run does it.

        Args:
            on_progress: Called with (nodes that are ready, all, which one).

        Raises:
            UsageError: No plan for nodes of the connected cluster is in force.
            EsenError: A node could not load its part.
        """
        state = self._runtime.state
        if state.reach is None or not state.runs_on_nodes(state.plan):
            raise UsageError(
                "Nodes load a plan that is for them",
                given="no cluster" if state.reach is None else "a plan for this machine, or none",
                hint=f"{step('lab.cluster.connect()', '`%esen cluster auto`')} reaches them; then put a plan in force "
                "whose devices are its nodes.",
            )
        with self._runtime.turns.turn("nodes that load"):
            nodes.get_ready(self._runtime, on_progress=on_progress)
        return nodes.look(self._runtime, state.reach)

    def replan_without(self, node: str) -> Plan:
        """Go on without a node: its members run on the other nodes of the plan from the next run on.

        Args:
            node: Its name.

        Raises:
            UsageError: The plan has no such node, or no other one.
        """
        plan = self._runtime.state.need_plan("change")
        if node not in plan.devices:
            known = f"It has {', '.join(plan.devices)}." if plan.devices else "It is for this machine."
            raise unknown("A node of the plan is left out", node, plan.devices, given=node, hint=known)
        made = nodes.without_node(plan, node)
        put_in_force(self._runtime, made)
        return made
