"""Fakes for the profiling tests: a clock, an ensemble, a device and a fork server without processes."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from esen_lab.devices import Device, DeviceIdentity
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import Cancelled, ModelError, WorkerDied


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, kw_only=True)
class FakeSubModel:
    name: str
    fingerprint: str
    example: Any = 1.0
    memory_bytes: int = 1000
    traits: Traits = field(default_factory=Traits)
    calibration: Any = None

    def payload(self) -> bytes:
        return b"a model"


@dataclass(frozen=True)
class FakeEnsemble:
    submodels: tuple[FakeSubModel, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.submodels)

    def as_run(self, submodel: FakeSubModel) -> FakeSubModel:
        return submodel  # all have one example


@dataclass(frozen=True)
class FakePlacement:
    units: int


@dataclass(frozen=True)
class FakeDevice(Device):
    units: int = 4
    name: str = "fake"

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(kind="fake", name=self.name, units=self.units, unit="core", simulated=True)

    def place(self, shares: Any) -> tuple[FakePlacement, ...]:
        return tuple(FakePlacement(units) for units in shares)


Behave = Callable[[int], None]  # called with the share for each step; raises, blocks, or returns


class FakeWorker:
    """Runs everything in this process; `fork_server.behave[name]` says what a step does."""

    def __init__(self, fork_server: FakeForkServer, units: int) -> None:
        self.fork_server = fork_server
        self.units = units
        self.alive = True
        self.closed = False
        self.loaded: set[str] = set()
        self.pid = 0

    def load(self, name: str, payload: bytes, example: Any, *, traits: Traits, timeout_s: float) -> tuple[str, ...]:
        assert payload == b"a model"
        self.fork_server.log.append(("load", name, self.units))
        if name in self.fork_server.unbuildable:
            raise ModelError(f"Sub-model {name!r} raised ValueError: no", worker_traceback="Traceback: no", log="hello")
        self.loaded.add(name)
        return ()

    def kill(self) -> None:
        self.alive = False

    def unload(self, name: str) -> None:
        self.loaded.discard(name)

    def call(
        self, function: str, name: str, *, timeout_s: float, cancelled: threading.Event | None, **kwargs: Any
    ) -> Any:
        assert name in self.loaded
        module, _, attribute = function.partition(":")
        target = getattr(importlib.import_module(module), attribute)
        behave = self.fork_server.behave.get(name, lambda units: None)

        def step() -> None:
            behave(self.units)
            if cancelled is not None and cancelled.is_set():
                raise Cancelled("stopped on request")

        try:
            return target(step, **kwargs)
        except Exception as problem:
            if not isinstance(problem, ModelError):
                self.alive = False
            raise

    def close(self, timeout_s: float = 2.0) -> None:
        self.alive = False
        self.closed = True


@dataclass
class FakeForkServer:
    settings: None = None
    behave: dict[str, Behave] = field(default_factory=dict)
    unbuildable: set[str] = field(default_factory=set)
    refuses: dict[int, Exception] = field(default_factory=dict)  # share -> why no worker starts
    workers: list[FakeWorker] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)

    def worker(self, placement: FakePlacement, *, label: str, settings: Any = None) -> FakeWorker:
        if placement.units in self.refuses:
            raise self.refuses[placement.units]
        self.workers.append(FakeWorker(self, placement.units))
        return self.workers[-1]


def dies(units: int) -> None:
    raise WorkerDied("the lane ended: killed by SIGKILL", log="last words")


def raises(units: int) -> None:
    raise ModelError("It raised ValueError: boom", worker_traceback="Traceback ...\nValueError: boom", log="said")
