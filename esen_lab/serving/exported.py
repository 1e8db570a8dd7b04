"""An exported folder as it is served: its lanes are started, and started anew when one of them has ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.devices import name_for, open_device
from esen_lab.ensemble import Ensemble
from esen_lab.export import open_bundle
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer, Switched
from esen_lab.run.report import RunReport
from esen_lab.serving.served import RUN_TIMEOUT_S, AskedBatch

log = logging.getLogger("esen_lab.serving")


@dataclass(slots=True, kw_only=True)
class ExportedFolder:
    """See `Served`. Made by `open`.

    Attributes:
        plan: By which it runs.
        ensemble: Its sub-models and combine rule.
        device: Where.
        graphs: What engines have made of sub-models.
        switches: Switches of torch that it was exported under, and runs under: see `Bundle`.
    """

    plan: Plan
    ensemble: Ensemble
    device: Any
    graphs: Any
    switches: Mapping[str, Any] = field(default_factory=dict)
    _fork_server: ForkServer = field(default_factory=ForkServer)
    _executor: Executor | None = None
    _began: bool = False
    _anew: bool = False  # and nobody was told yet
    _under: Switched = field(init=False)

    def __post_init__(self) -> None:
        """Know the switches."""
        self._under = Switched(self.switches)

    @classmethod
    def open(cls, folder: Path, *, device: str | None = None, trust: bool = False, digest: str = "") -> ExportedFolder:
        """Read a folder; starts nothing.

        Args:
            folder: What was exported.
            device: The name of another device than the plan's.
            trust: Run its code although nobody here exported it.
            digest: What `content_digest` gives for the files that the caller vouches for.

        Raises:
            NotTrusted: It holds code that nobody has said may run.
            EsenError: It cannot be read, or the device cannot be had.
        """
        found = open_bundle(folder, trust=trust, digest=digest)
        chosen = open_device(device or name_for(found.plan.device))
        return cls(
            plan=found.plan, ensemble=found.ensemble, device=chosen, graphs=found.graphs, switches=found.switches
        )

    @property
    def stands_for(self) -> tuple[object, ...]:
        """See `Served`: a folder stays what it is."""
        return (self.ensemble, self.plan)

    @property
    def begins_anew(self) -> bool:
        """See `Served`."""
        return self._executor is not None and self._executor.begins_anew

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """See `Served`."""
        return () if self._executor is None else tuple(self._executor.history.fallen_back)

    def run(self, x: Tree, asked: AskedBatch) -> tuple[Tree, RunReport | None]:
        """See `Served`."""
        self._have_lanes()
        assert self._executor is not None
        options = None if asked.at_least is None else asked.options
        # What prepares the server leaves no trace in members that keep state: the first request is their first.
        with self._under(), self._executor.measuring() if asked.trial else nullcontext():
            ran = self._executor.run(x, timeout_s=RUN_TIMEOUT_S, options=options)
        return ran.output, ran.report

    def mend(self) -> bool:
        """See `Served`."""
        self._have_lanes()
        anew, self._anew = self._anew, False
        return anew

    def _have_lanes(self) -> None:
        executor = self._executor
        if executor is not None and not executor.notice_ended():
            return
        self._executor = None
        if executor is not None:
            executor.close()
        start = partial(Executor.start, graphs=self.graphs, exported_under=self.switches)
        with self._under():
            self._fork_server.look_at_session()
            self._executor = start(self.plan, self.ensemble, self.device, self._fork_server)
        for told in self._executor.unlike.values():
            log.warning("a member answers otherwise than where it was exported", extra={"problem": str(told)})
        self._anew, self._began = self._began, True

    def close(self) -> None:
        """See `Served`."""
        executor, self._executor = self._executor, None
        try:
            if executor is not None:
                executor.close()
        finally:
            self._fork_server.close()
            self.device.close()
