"""What lives on a node: the lanes of its part of a plan, asked for one run after another.

An actor of Ray holds one of these; in tests a thread does. It holds nothing that only Ray has.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from esen_lab.cluster.orders import NodeAnswer, NodeBundle, NodeCores, NodeLoaded, NodeOrder, NodeSettings
from esen_lab.cluster.packing import PackedTree, pack_output, unpack
from esen_lab.common.trees import Tree
from esen_lab.devices import Device, open_device
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.errors import DeadlineMissed, EsenError, UsageError
from esen_lab.export import open_bundle
from esen_lab.export.bundle import Bundle
from esen_lab.lanes.settings import take_over
from esen_lab.profiler import Profile, ProfileStore, start_profile
from esen_lab.run import Executor, ForkServer, Missing, Run


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
        self._executor: Executor | None = None
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
        if self._executor is None or self._bundle is None or self._device is None:
            raise UsageError("A node answers once it has loaded its part of a plan", given=f"{self.name}: nothing yet")
        return NodeLoaded(
            key=self._bundle.key,
            pid=os.getpid(),
            lane_pids=self._executor.pids,
            in_force=self._executor.in_force,
            units=self._device.units,
            random=self._executor.random,
            keeping=self._executor.keeping,
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
            ensemble = found.ensemble.with_combine(_PLAIN)
            self._executor = Executor.start(found.plan, ensemble, device, fork_server, graphs=found.graphs)
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
        """Run once; whatever goes wrong is in the answer."""
        begun = time.perf_counter()
        if self._bundle is None or self._bundle.key != order.key or self._fork_server is None:
            return NodeAnswer(other=True)
        try:
            answer = self._run(packed, order, self._fork_server)
        except DeadlineMissed as missed:
            missing = tuple(Missing(name=name, why="late") for name, _ in missed.missing)
            answer = NodeAnswer(missing=missing)
        except EsenError as problem:
            answer = NodeAnswer(problem=problem)
        return replace(answer, took_s=time.perf_counter() - begun)

    def _run(self, packed: PackedTree, order: NodeOrder, fork_server: ForkServer) -> NodeAnswer:
        take_over(order.settings.process, order.settings.thread)
        fork_server.look_at_session()
        executor, restarted = self._executor, False
        if executor is None or executor.notice_ended():  # a lane may have died while nobody asked it
            self._start()
            executor, restarted = self._executor, True
        assert executor is not None
        plain = order.options is None
        executor.ensemble = _with(executor.ensemble, _PLAIN if plain else _PARTLY)
        x = unpack(packed)
        self._kept = {}
        made = executor.run(x, timeout_s=order.timeout_s, seed=order.seed, options=order.options)
        answer = _answer(made, restarted)
        if order.keep:
            self._kept = answer.outputs
            answer = replace(answer, outputs={})
        return answer

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

        Args:
            bundle: Its sub-models count, its plan does not.
            settings: What the session has set.
            asked: What `start_profile` takes besides.

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
        executor, self._executor = self._executor, None
        server, self._fork_server = self._fork_server, None
        try:
            if executor is not None:
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


def _answer(made: Run, restarted: bool) -> NodeAnswer:
    report = made.report
    outputs = {name: pack_output(tree) for name, tree in made.output.items()}
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
