"""A plan in the processes of somebody else's server: one lane in this very process, and the combine rule in another.

A server that starts, pins and wakes its processes itself (docs/triton.md) needs no lanes of ours. It has a process for
each lane run `LaneInPlace`, and one run `CombineInPlace`; the answers are those of `Executor.run`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, TreeSpec, tree_spec, unflatten
from esen_lab.common.units import backend_parts, format_units
from esen_lab.devices import InForce
from esen_lab.devices.cpu.affinity import ranges
from esen_lab.devices.cpu.device import CpuPlacement
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.ensemble.chance import generators_kept
from esen_lab.errors import EsenError
from esen_lab.lanes.dispatch import engine_for
from esen_lab.lanes.engine import InSubModel
from esen_lab.lanes.problems import described, error_from
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.steps import Step, derived_of
from esen_lab.run.fidelity import unlike_export
from esen_lab.run.lane_steps import answers_of_members, steps_of
from esen_lab.run.start import load_as_planned

if TYPE_CHECKING:
    from esen_lab.run.start import Graphs


class LaneInPlace:
    """One lane of a plan for the CPU, in this process and thread. Not safe for several threads.

    The process is on its cores already: whoever started it has pinned it. This takes as many threads as the lane has
    units, loads the lane's sub-models and runs each once on its example.

    Args:
        plan: The plan.
        ensemble: All its sub-models.
        number: Which lane, from 0.
        graphs: For each sub-model what engines have made of it, by name.

    Attributes:
        notes: What is not as the plan says, or as it was where it was exported: cores, backends, answers. To be shown
            to whoever runs the server.

    Raises:
        EsenError: A sub-model cannot be loaded.
    """

    def __init__(self, plan: Plan, ensemble: Ensemble, number: int, graphs: Graphs | None = None) -> None:
        lane = plan.lanes[number]
        cpus = _cpus_here()
        self._said = f"lane {number + 1}: {', '.join(lane.members)} on {_where(cpus)}"
        placement = CpuPlacement(cores=tuple((cpu,) for cpu in range(lane.units)), pin=False)
        placement.use(lane.units)
        self._said += f", {format_units(lane.units, 'thread')}"
        self._engine = engine_for(placement, InForce(units=lane.units, description=self._said))
        notes = []
        if cpus is not None and len(cpus) < lane.units:
            notes.append(f"lane {number + 1} has {format_units(lane.units, 'thread')} on {_where(cpus)}")
        steps = steps_of(plan, ensemble)
        for name, active, how in zip(lane.members, lane.active_units, lane.backends, strict=True):
            model = steps.get(name)
            load = partial(self._load, model, active)
            own = (graphs or {}).get(name)
            _, why = load_as_planned(load, model, how, own_threads=lane.mode == "async", graphs=own)
            notes += [why] if why else []
        self._engine.arrange(lane.members, lane.mode)
        notes += self._unlike(ensemble, lane)
        self.notes = tuple(notes)

    def _load(self, model: SubModel, active_units: int, payload: bytes) -> tuple[str, ...]:
        try:
            return self._engine.load(model.name, memoryview(payload), model.example, active_units, model.traits)
        except InSubModel as problem:
            raise error_from(described(problem)) from problem

    def _unlike(self, ensemble: Ensemble, lane: Lane) -> list[str]:
        """Members that answer otherwise than where they were exported, a sentence each. Leaves no trace in them."""
        how = dict(zip(lane.members, lane.backends, strict=True))
        # What a part of the batch is answered is not known, nor what a member answers that never does the same.
        members = {name: Step.of(name).members for name in lane.members if Step.of(name).parts == 1}
        known = {name: ensemble.get(name).answer for names in members.values() for name in names}
        wanted = {name: answer for name, answer in known.items() if answer is not None}
        if not wanted:
            return []
        precisions = {name: backend_parts(how[step])[1] for step, names in members.items() for name in names}
        with generators_kept():
            self._engine.put_state("aside")
            try:
                answers = dict(zip(lane.members, self.run(ensemble.example), strict=True))
                found = answers_of_members({step: answers[step] for step in members}, derived_of(members))
                unlike = [unlike_export(name, found[name], wanted[name], precisions[name]) for name in wanted]
            except EsenError:  # the first request will hear it
                unlike = []
            finally:
                self._engine.put_state("back")
        return [str(one) for one in unlike if one is not None]

    def __str__(self) -> str:
        """Who runs here, on what, in one line."""
        return self._said

    def run(self, x: Tree) -> list[Tree]:
        """What each of its steps answers to an input, as views that the next run overwrites.

        Args:
            x: The input of the ensemble, or the keys of it that the lane's sub-models take.

        Raises:
            ModelError: A sub-model raised.
            UsageError: The input does not fit.
        """
        self._engine.take_input(x)
        try:
            self._engine.run()
        except InSubModel as problem:
            raise error_from(described(problem)) from problem
        outputs = self._engine.outputs
        return [outputs.read(index) for index in range(len(outputs.layouts))]

    def close(self) -> None:
        """Let go of what it holds."""
        self._engine.close()
        self._engine.outputs.close()


class CombineInPlace:
    """The combine rule over what the lanes of a plan answered elsewhere, computed by one thread."""

    def __init__(self, plan: Plan, ensemble: Ensemble) -> None:
        import torch

        torch.set_num_threads(1)
        self._steps = plan.steps
        self._derived = derived_of(plan.steps)
        self._ensemble = ensemble

    def run(self, answers: Sequence[Tree]) -> Tree:
        """The ensemble's answer.

        Args:
            answers: What each step answered, in the order of the plan's steps.

        Raises:
            UsageError: The answers do not fit the rule.
        """
        import torch

        found: Mapping[str, Tree] = dict(zip(self._steps, answers, strict=True))
        if self._derived:
            found = answers_of_members(found, self._derived)
        with torch.no_grad():
            return self._ensemble.combine({name: found[name] for name in self._ensemble.names if name in found})


def answer_spec(ensemble: Ensemble) -> TreeSpec:
    """What the ensemble's answer to its example looks like: the combine rule over the members' own answers.

    Raises:
        UsageError: The rule does not take them.
    """
    import torch

    answers = {
        model.name: unflatten(
            model.output_spec.structure,
            [
                torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device="cpu")
                for spec in model.output_spec.tensors
            ],
        )
        if model.answer is None
        else model.answer
        for model in ensemble.submodels
    }
    with torch.no_grad(), ensemble.combine.kept():
        return tree_spec(ensemble.combine(answers), "the answer")


def _cpus_here() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _where(cpus: set[int] | None) -> str:
    return "CPUs that cannot be read" if cpus is None else f"CPUs {ranges(cpus)}"
