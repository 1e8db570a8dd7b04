"""What lives on a node: the lanes of its part of a plan, asked for one run after another.

An actor of Ray holds one of these; in tests a thread does. It holds nothing that only Ray has.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esen_lab.cluster.node_messages import NodeAnswer, NodeBundle, NodeCores, NodeLoaded, NodeOrder, NodeSettings
from esen_lab.cluster.tensor_packing import PackedTree, pack_output, packed_rows, unpack
from esen_lab.common.trees import Tree, map_tensors
from esen_lab.devices import Device, open_device
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.errors import DeadlineMissed, EsenError, UsageError
from esen_lab.export import open_bundle
from esen_lab.export.bundle import Bundle
from esen_lab.lanes.settings import take_over
from esen_lab.profiler import Profile, ProfileStore, start_profile
from esen_lab.run import Executor, ForkServer, Missing, Run
from esen_lab.run.stage_checks import Change, check_rows
from esen_lab.run.stage_rows import (
    SIZES_OF_ENGINES,
    first_rows,
    padded,
    rows_in,
    sizes_for,
    sizes_of,
)


def _each(outputs: Mapping[str, Tree]) -> Tree:
    return dict(outputs)


class EachMember(Combine):
    """Not one answer but that of each member: they are combined where those of all nodes are."""

    def __call__(self, outputs: Mapping[str, Tree]) -> Tree:
        """Every output as it is; read before the next run."""
        return dict(outputs)

    def ahead(self, outputs: Mapping[str, Tree]) -> None:
        """Nothing is prepared."""

    def for_members(self, names: Any, of_names: Any) -> EachMember:  # noqa: ARG002  the same face as all rules
        """The same for any of them."""
        return self


_PLAIN = Combine(name="each", function=_each)
"""For runs of all members: a function is called in this process, also where lanes compute on a GPU."""
_PARTLY = EachMember(name="each")
"""For runs that may leave members out, which take no function."""


class NodeWorker:
    """The lanes of one node. Asked by one thread at a time.

    Args:
        name: The node's name in the plan.
        device: The name of its device: see `esen_lab.open_device`.
        cores: Which cores it uses.
        bundle: What it loads at once; None: when it is told.
    """

    def __init__(
        self, name: str, device: str = "cpu", cores: NodeCores | None = None, bundle: NodeBundle | None = None
    ) -> None:
        self.name = name
        self._device_name = device
        self._cores = cores or NodeCores()
        self._device: Device | None = None
        self._fork_server: ForkServer | None = None
        self._executors: dict[int, Executor] = {}  # by stage of the whole plan
        self._bundle: NodeBundle | None = None
        self._problem: EsenError | None = None
        self._kept: Mapping[str, PackedTree] = {}
        if bundle is not None:
            self.load(bundle, NodeSettings())

    # --- what it holds -------------------------------------------------------------------------------------------

    def load(self, bundle: NodeBundle, settings: NodeSettings) -> NodeLoaded | EsenError:
        """Start lanes for a bundle, in the place of those that run.

        Returns:
            What was loaded, or why it could not be.
        """
        try:
            take_over(settings.process, settings.thread)
            self._bundle, self._problem = bundle, None
            self._start()
        except EsenError as problem:
            self._problem = problem
        return self.what_is_loaded()

    def what_is_loaded(self) -> NodeLoaded | EsenError:
        """What is loaded, or why it could not be."""
        try:
            return self._loaded()
        except EsenError as problem:
            return problem

    def _loaded(self) -> NodeLoaded:
        if self._problem is not None:
            raise self._problem
        executors = self._executors.values()
        if not executors or self._bundle is None or self._device is None:
            raise UsageError("A node answers once it has loaded its part of a plan", given=f"{self.name}: nothing yet")
        return NodeLoaded(
            key=self._bundle.key,
            pid=os.getpid(),
            lane_pids=tuple(pid for executor in executors for pid in executor.pids),
            in_force=tuple(told for executor in executors for told in executor.in_force),
            units=self._device.units,
            random=any(executor.random for executor in executors),
            keeping=tuple(name for executor in executors for name in executor.keeping),
            notes=self._device.notes,
        )

    def _start(self) -> None:
        assert self._bundle is not None
        self._end_lanes()
        self._kept = {}
        device, fork_server = self._open(), ForkServer()
        self._fork_server = fork_server
        folder = Path(tempfile.mkdtemp(prefix="esen_lab-node-"))
        try:
            found = _opened(self._bundle, folder / "bundle")
            fork_server.look_at_session()
            for stage, numbers in self._bundle.stages.items():
                plan = replace(found.plan, lanes=tuple(found.plan.lanes[number] for number in numbers))
                ensemble = found.ensemble.only(plan.names).with_combine(_PLAIN)
                self._executors[stage] = Executor.start(plan, ensemble, device, fork_server, graphs=found.graphs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _open(self) -> Device:
        """The device, with this process and all that it starts held to the node's cores: Ray does not pin."""
        if self._device is None:
            if sys.platform == "linux" and self._device_name.startswith("cpu"):
                os.sched_setaffinity(0, self._cores.among(sorted(os.sched_getaffinity(0))))
            self._device = open_device(self._device_name)
        return self._device

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(self, packed: PackedTree, order: NodeOrder) -> NodeAnswer:
        """Run once, lanes of one stage; whatever goes wrong is in the answer."""
        return self._answered(self._run, packed, order)

    def prepare(self, packed: PackedTree, order: NodeOrder) -> NodeAnswer:
        """Before the first run of a plan in stages, with a whole batch: see that rows do not depend on each other.

        Members of later stages are looked at, and engines of theirs prepared for the sizes at which they will run.
        Whatever goes wrong is in the answer.
        """
        return self._answered(self._prepare, packed, order)

    def _answered(
        self, do: Callable[[PackedTree, NodeOrder], NodeAnswer], packed: PackedTree, order: NodeOrder
    ) -> NodeAnswer:
        begun = time.perf_counter()
        if self._bundle is None or self._bundle.key != order.key or self._fork_server is None:
            return NodeAnswer(other=True)
        try:
            take_over(order.settings.process, order.settings.thread)
            self._fork_server.look_at_session()
            answer = do(packed, order)
        except DeadlineMissed as missed:
            missing = tuple(Missing(name=name, why="late") for name, _ in missed.missing)
            answer = NodeAnswer(missing=missing)
        except EsenError as problem:
            answer = NodeAnswer(problem=problem)
        return replace(answer, took_s=time.perf_counter() - begun)

    def _run(self, packed: PackedTree, order: NodeOrder) -> NodeAnswer:
        executor, restarted = self._alive(order.stage)
        plain = order.options is None
        executor.ensemble = _with(executor.ensemble, _PLAIN if plain else _PARTLY)
        x = unpack(_filled_up(packed, order.ran))
        self._kept = {}
        made = executor.run(x, timeout_s=order.timeout_s, seed=order.seed, options=order.options)
        answer = _answer(made, rows_in(packed.spec) if order.ran else 0, order.ran, restarted=restarted)
        if order.keep:
            self._kept = answer.outputs
            answer = replace(answer, outputs={})
        return answer

    def _alive(self, stage: int) -> tuple[Executor, bool]:
        """The lanes of a stage, and whether all were started anew, since one may have died while nobody asked it."""
        if stage in self._executors and not self._executors[stage].notice_ended():
            return self._executors[stage], False
        self._start()
        return self._executors[stage], True

    def _prepare(self, packed: PackedTree, order: NodeOrder) -> NodeAnswer:
        rows = rows_in(packed.spec)
        for stage in sorted(self._executors.keys() - {0}):
            executor, _ = self._alive(stage)
            executor.ensemble = _with(executor.ensemble, _PLAIN)
            ask = partial(_members_of_rows, executor, unpack(packed), order.timeout_s)
            if rows > 1:
                check_rows(executor.history.executed(executor.plan), executor.ensemble, rows, ask)
            many = sizes_for(executor.plan.lanes)
            for size in sizes_of(rows, many) if many == SIZES_OF_ENGINES else ():
                ask(size, None)
        return NodeAnswer()

    def outputs(self) -> Mapping[str, PackedTree]:
        """What was kept of the last run."""
        return self._kept

    def combine(
        self, rule: Combine, names: Sequence[str], *others: Mapping[str, PackedTree]
    ) -> PackedTree | EsenError | tuple[str, ...]:
        """Combine what was kept of the last run here and on other nodes.

        Args:
            rule: How.
            names: Whose outputs, in the order of the ensemble.
            others: What was kept elsewhere.

        Returns:
            The answer, or why there is none; or those whose outputs are lost, since their node has started anew.
        """
        found = dict(self._kept)
        for other in others:
            found.update(other)
        self._kept = {}
        lost = tuple(name for name in names if name not in found)
        if lost:
            return lost
        try:
            with torch.no_grad():
                return pack_output(rule({name: unpack(found[name]) for name in names}))
        except EsenError as problem:
            return problem

    # --- a profile -----------------------------------------------------------------------------------------------

    def profile(self, bundle: NodeBundle, settings: NodeSettings, asked: Mapping[str, Any]) -> Profile | EsenError:
        """Measure the bundle's sub-models on this node, as `lab.profile` does on one machine.

        Returns:
            The profile, or why there is none.
        """
        folder = Path(tempfile.mkdtemp(prefix="esen_lab-node-"))
        fork_server = ForkServer()
        store = ProfileStore(folder / "profile.db")
        try:
            take_over(settings.process, settings.thread)
            self._end_lanes()
            found = _opened(bundle, folder / "bundle")
            fork_server.look_at_session()
            return start_profile(found.ensemble, self._open(), fork_server, store, **asked).result()
        except EsenError as problem:
            return problem
        finally:
            store.close()
            fork_server.close()
            shutil.rmtree(folder, ignore_errors=True)

    def echo(self, packed: PackedTree | None, answer_bytes: int) -> bytes:
        """Take an input and answer with so many bytes: what the way there and back takes is measured with it."""
        if packed is not None:
            unpack(packed)
        return bytes(answer_bytes)

    def close(self) -> None:
        """End the lanes. May be called again."""
        self._end_lanes()
        if self._device is not None:
            self._device.close()
            self._device = None

    def _end_lanes(self) -> None:
        executors, self._executors = self._executors, {}
        server, self._fork_server = self._fork_server, None
        try:
            for executor in executors.values():
                executor.close()
        finally:
            if server is not None:
                server.close()


def _opened(bundle: NodeBundle, folder: Path) -> Bundle:
    folder.mkdir()
    for name, content in bundle.files.items():
        (folder / name).write_bytes(content)
    return open_bundle(folder, trust=True)  # whoever may start an actor here may run anything here


def _with(ensemble: Ensemble, rule: Combine) -> Ensemble:
    return ensemble if ensemble.combine is rule else ensemble.with_combine(rule)


def _filled_up(packed: PackedTree, ran: int) -> PackedTree:
    """Rows of a later stage, filled up to the size at which it runs; 0: as they are."""
    return packed_rows(packed, padded(torch.arange(rows_in(packed.spec)), ran)) if ran else packed


def _members_of_rows(executor: Executor, x: Tree, timeout_s: float, count: int, change: Change) -> Mapping[str, Tree]:
    """See `AskRows`, of the batch `x`."""
    if change:
        x = map_tensors(change, x)
    return executor.run_members(map_tensors(lambda leaf: leaf[:count], x), timeout_s=timeout_s).members


def _answer(made: Run, count: int, ran: int, *, restarted: bool) -> NodeAnswer:
    """What a run has come to; of a later stage, the first `count` of the `ran` rows that it ran."""
    report = made.report
    answers = first_rows(made.output, count, ran) if ran else made.output
    outputs = {name: pack_output(tree) for name, tree in answers.items()}
    return NodeAnswer(
        outputs=outputs,
        sizes={name: packed.size_bytes for name, packed in outputs.items()},
        spans=tuple(report.spans),
        lanes=tuple(report.lanes),
        nan=report.nan,
        missing=() if report.answered is None else report.answered.missing,
        notes=tuple(note for note in report.notes if note not in report.far),
        restarted=restarted,
    )
