"""The half of a profile that tries other backends, against a bench on which time passes as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from points import POINT
from profiling_fakes import FakeClock, FakeDevice, FakeSubModel

from esen_lab.errors import EsenError, ModelError, WorkerTimeout
from esen_lab.profiler import backend_phase
from esen_lab.profiler.backend_phase import BackendPhase
from esen_lab.profiler.backend_trials import PREPARE_S, Trials
from esen_lab.profiler.records import Point, Refusal
from esen_lab.profiler.store import PointKey, ProfileStore
from esen_lab.profiler.timing import Timing

UNITS = (2, 1)
EAGER = [replace(POINT, name="a", units=units, median_s=0.02 / units) for units in UNITS]


@dataclass
class Bench:
    """Takes `preparing_s` to prepare (backend, share), a second where nothing is said, and finds `medians`."""

    clock: FakeClock = field(default_factory=FakeClock)
    preparing_s: dict[tuple[str, int], float] = field(default_factory=dict)
    medians: dict[tuple[str, int], float] = field(default_factory=dict)
    in_earnest: dict[tuple[str, int], float] = field(default_factory=dict)  # where a trial's figure was luck
    raises: dict[str, EsenError] = field(default_factory=dict)
    prepared: list[tuple[str, int]] = field(default_factory=list)
    settled: bool = True

    def check(self) -> None:
        pass

    def share(self, units: int) -> str:
        return f"{units} of 2 cores"

    @contextmanager
    def alone(self, _: str) -> Iterator[None]:
        yield

    def load(self, _: Any, label: str, __: bytes, worker: Any, timeout_s: float) -> None:
        backend = label.partition(" by ")[2]
        self.prepared.append((backend, worker.units))
        if backend in self.raises:
            raise self.raises[backend]
        took_s = self.preparing_s.get((backend, worker.units), 1.0)
        self.clock.sleep(min(took_s, timeout_s))
        if took_s > timeout_s:
            raise WorkerTimeout("the lane did not answer")

    def timed(self, label: str, worker: Any, _: float, __: float) -> Timing:
        seconds = self.medians.get((label.partition(" by ")[2], worker.units), 0.008)
        figures = {**POINT.figures(), "median_s": seconds, "settled": self.settled}
        return Timing(**figures, growth_bytes=None)

    def timing(self, label: str, worker: Any, budget_s: float, until_s: float) -> Timing:
        found = self.timed(label, worker, budget_s, until_s)
        seconds = self.in_earnest.get((label.partition(" by ")[2], worker.units), found.median_s)
        return replace(found, median_s=seconds)


@dataclass
class FakeLevel:
    """Its worker has a share, and never dies."""

    units: int
    loaded: set[str] = field(default_factory=set)

    def worker(self) -> Any:
        return SimpleNamespace(units=self.units, in_force=SimpleNamespace(torch_device="cpu"))

    def forget(self, *names: str) -> None:
        self.loaded -= set(names)


@dataclass
class Told:
    """What a job would be told, and what is kept for later ones."""

    points: list[Point] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remembered: list[str] = field(default_factory=list)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    made = Told()
    monkeypatch.setattr(backend_phase, "Level", contextmanager(lambda _, __, units, ___: iter([FakeLevel(units)])))
    for name in ("note_end", "forget_trial"):
        monkeypatch.setattr(backend_phase, name, lambda *_: None)
    for name in ("why_not", "refused_before"):
        monkeypatch.setattr(backend_phase, name, lambda *_, **__: "")
    monkeypatch.setattr(backend_phase, "packed", lambda *_: b"")
    monkeypatch.setattr(backend_phase, "remember_refusal", lambda backend, *_, **__: made.remembered.append(backend))
    return made


def tried(
    bench: Bench, told: Told, store: ProfileStore, *asked: str, point_timeout_s: float = 60.0, memory_bytes: int = 1000
) -> Trials:
    """What is known once both shares have been tried."""
    trials = Trials(asked=asked)
    phase = BackendPhase(
        submodels=(FakeSubModel(name="a", fingerprint="f", memory_bytes=memory_bytes),),  # type: ignore[arg-type]
        trials={"a": trials},
        device=FakeDevice(units=2),
        fork_server=None,  # type: ignore[arg-type]
        settings=None,
        store=store,
        levels=UNITS,
        budget_s=1.0,
        point_timeout_s=point_timeout_s,
        fresh=True,
        examples={"a": "float32[4]"},
        bench=bench,  # type: ignore[arg-type]
        key=lambda _, units, backend: PointKey(fingerprint="f", example="", device="", versions=backend, units=units),
        keep=told.points.append,
        refuse=told.refusals.append,
        note=told.notes.append,
    )
    for units in UNITS:
        phase.try_at(units, EAGER)
    return trials


def test_what_had_all_the_time_there_is_and_was_not_ready_is_refused_for_good(told: Told, store: ProfileStore) -> None:
    bench = Bench(preparing_s={("openvino", 2): 1000.0})
    tried(bench, told, store, "openvino")
    assert told.remembered == ["openvino"]
    assert [refusal.why for refusal in told.refusals] == ["it was not ready within 40.0 s"]


def test_what_had_only_the_time_that_was_left_is_not_refused_for_good(told: Told, store: ProfileStore) -> None:
    bench = Bench(preparing_s={("openvino", 2): PREPARE_S - 5, ("onnxruntime", 2): 10.0})
    tried(bench, told, store, "openvino", "onnxruntime")
    assert told.remembered == []
    assert [(refusal.backend, refusal.why) for refusal in told.refusals] == [
        ("onnxruntime", "it was not ready within 5.00 s")
    ]
    told.refusals.clear()
    tried(Bench(preparing_s={("openvino", 2): 1000.0}), told, store, "openvino", point_timeout_s=3.0)
    assert told.remembered == [], "somebody asked for less time"


def test_what_was_measured_at_one_share_and_not_ready_at_another_is_not_refused(
    told: Told, store: ProfileStore
) -> None:
    bench = Bench(preparing_s={("openvino", 2): PREPARE_S - 5, ("openvino", 1): 10.0})
    trials = tried(bench, told, store, "openvino")
    assert (told.refusals, told.remembered) == ([], [])
    assert trials.contenders() == ("openvino",)
    assert told.notes == [
        "a: openvino is not tried with 1 of 2 cores, since it was not ready within the 5.00 s that were left."
    ]


def test_what_a_full_disk_hindered_is_tried_again_in_another_session(told: Told, store: ProfileStore) -> None:
    rule, passing = "Sub-model 'a': openvino can execute the sub-model", "OSError: [Errno 28] No space left on device"
    for given, remembered in ((passing, []), ("it has no rule for aten::fft_rfft", ["openvino"])):
        tried(Bench(raises={"openvino": ModelError(rule, given=given)}), told, store, "openvino")
        assert told.remembered == remembered
    assert [refusal.why for refusal in told.refusals] == [passing, "it has no rule for aten::fft_rfft"]


def test_what_led_its_trial_is_measured_in_earnest_as_it_was_loaded_for_that(told: Told, store: ProfileStore) -> None:
    medians = {("openvino", 2): 0.004, ("openvino", 1): 0.009, ("onnxruntime", 2): 0.005}
    bench = Bench(medians=medians, settled=False)
    tried(bench, told, store, "openvino", "onnxruntime")
    assert bench.prepared == [(name, units) for units in UNITS for name in ("openvino", "onnxruntime")]
    earnest = {(point.backend, point.units) for point in told.points if point.budget_s == 1.0}
    assert earnest == {("openvino", 2), ("onnxruntime", 1)}


def test_where_a_trial_led_by_luck_the_next_best_is_measured_in_earnest_too(told: Told, store: ProfileStore) -> None:
    bench = Bench(medians={("openvino", 2): 0.004}, in_earnest={("openvino", 2): 0.0095}, settled=False)
    trials = tried(bench, told, store, "openvino", "onnxruntime")
    leader = trials.leader(2)
    assert leader is not None
    assert (leader.backend, leader.budget_s) == ("onnxruntime", 1.0), "another session has nothing to measure anew"


def test_a_heavy_sub_model_is_held_by_no_backend_while_another_is_tried(told: Told, store: ProfileStore) -> None:
    bench = Bench(settled=False)
    tried(bench, told, store, "openvino", "onnxruntime", memory_bytes=2**31)
    assert bench.prepared == [(name, units) for units in UNITS for name in ("openvino", "onnxruntime", "openvino")]
