"""The background job against a fake fork server: order, reuse, failures, waiting, cancelling."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from profiling_fakes import FakeClock, FakeDevice, FakeEnsemble, FakeForkServer, FakeSubModel, dies, raises
from waiting import until

from esen_lab.devices import DeviceIdentity
from esen_lab.errors import Cancelled, DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.files.machine_lock import MachineLock
from esen_lab.profiler.job import ProfileJob, start_profile
from esen_lab.profiler.progress import JobState
from esen_lab.profiler.store import ProfileStore
from esen_lab.profiler.timing import Timing

WAIT_S = 60
Start = Callable[..., ProfileJob]


@pytest.fixture
def start(
    ensemble: FakeEnsemble, device: FakeDevice, fork_server: FakeForkServer, store: ProfileStore
) -> Iterator[Start]:
    jobs = []

    def start(**options: Any) -> ProfileJob:
        known = {"ensemble": ensemble, "device": device, "fork_server": fork_server, "store": store, "budget_s": 0.02}
        known.update(options)
        four = [known.pop(key) for key in ("ensemble", "device", "fork_server", "store")]
        jobs.append(start_profile(*four, **known))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()
        assert job._over.wait(WAIT_S)
        job._thread.join(WAIT_S)
        assert not job._thread.is_alive()


def measured(fork_server: FakeForkServer) -> list[tuple[str, int]]:
    return [(name, units) for what, name, units in fork_server.log if what == "load"]


def finished(start: Start) -> ProfileJob:
    job = start(shares=[1])
    job.result(WAIT_S)
    return job


# --- the plain course -------------------------------------------------------------------------------------------------


def test_every_submodel_is_measured_at_every_share(start: Start, device: FakeDevice) -> None:
    profile = start().result(WAIT_S)
    assert [(p.name, p.units) for p in profile.points] == [(name, k) for name in "abc" for k in (1, 2, 3, 4)]
    assert profile.failures == ()
    assert (profile.units, profile.device) == (4, device.identity.to_dict())
    assert profile.fingerprints == {"a": "f-a", "b": "f-b", "c": "f-c"}
    assert profile.examples == {"a": "1.0", "b": "1.0", "c": "1.0"}
    assert {(p.reused, p.budget_s) for p in profile.points} == {(False, 0.02)}


def test_useful_answers_come_early_all_submodels_at_the_extremes_first(
    start: Start, fork_server: FakeForkServer
) -> None:
    job = start()
    job.result(WAIT_S)
    assert measured(fork_server)[:6] == [("a", 4), ("b", 4), ("c", 4), ("a", 1), ("b", 1), ("c", 1)]
    assert [(p.name, p.units) for p in job.snapshot().points] == measured(fork_server)


def test_one_worker_serves_all_submodels_of_a_share_and_is_closed_after(
    start: Start, fork_server: FakeForkServer
) -> None:
    start().result(WAIT_S)
    assert [worker.units for worker in fork_server.workers] == [4, 1, 2, 3]
    assert all(worker.closed and not worker.loaded for worker in fork_server.workers)


def test_names_and_shares_can_be_chosen(start: Start, fork_server: FakeForkServer) -> None:
    profile = start(names=["c", "a"], shares=[2, 4, 2]).result(WAIT_S)
    assert [(p.name, p.units) for p in profile.points] == [("a", 2), ("a", 4), ("c", 2), ("c", 4)]


def test_one_name_may_be_given_alone(start: Start) -> None:
    assert start(names="b").result(WAIT_S).names == ("b",)


def test_peak_memory_counts_the_weights_and_is_absent_where_it_cannot_be_read(start: Start) -> None:
    peaks = [point.peak_memory_bytes for point in start(shares=[1]).result(WAIT_S).points]
    if sys.platform == "linux":
        assert all(peak is not None and peak >= 1000 for peak in peaks)
    else:
        assert peaks == [None] * 3


def test_starting_returns_while_measuring_goes_on(start: Start, fork_server: FakeForkServer) -> None:
    go = threading.Event()
    fork_server.behave["a"] = lambda units: go.wait(WAIT_S) and None
    job = start(shares=[1])
    until(lambda: job.snapshot().current == "a at 1 of 4 units")
    progress = job.snapshot()
    assert (progress.state, progress.done, progress.total) == (JobState.RUNNING, 0, 3)
    assert progress.message == "0 of 3 points; measuring a at 1 of 4 units"
    assert not job.done
    go.set()
    job.result(WAIT_S)
    assert job.done
    assert job.snapshot().message == "3 of 3 points; finished"
    plain = json.loads(json.dumps(job.snapshot().to_dict()))
    assert (plain["state"], len(plain["points"])) == ("finished", 3)


def test_waiting_for_a_result_has_an_end_and_the_job_goes_on(start: Start, fork_server: FakeForkServer) -> None:
    go = threading.Event()
    fork_server.behave["a"] = lambda units: go.wait(WAIT_S) and None
    job = start(shares=[1])
    with pytest.raises(WorkerTimeout, match="not finished yet"):
        job.result(timeout=0.01)
    go.set()
    assert len(job.result(WAIT_S).points) == 3


def test_the_time_left_is_estimated_from_the_points_so_far(
    ensemble: FakeEnsemble, device: FakeDevice, fork_server: FakeForkServer, store: ProfileStore
) -> None:
    clock = FakeClock()
    etas: dict[str, float | None] = {}

    def advance(units: int) -> None:
        """The first step of each point takes ten seconds."""
        progress = job.snapshot()
        if progress.current not in etas:
            etas[progress.current] = progress.eta_s
            clock.sleep(10)

    fork_server.behave = dict.fromkeys("abc", advance)
    job = ProfileJob(
        ensemble.submodels,
        device,
        fork_server,
        store,
        levels=(2, 1),
        budget_s=0.02,
        point_timeout_s=60,
        fresh=False,
        backends={},
        device_lock=nullcontext,
        clock=clock,
    )
    job.start()
    job.result(WAIT_S)
    assert list(etas.values()) == [None, 50, 40, 30, 20, 10]
    assert (job.snapshot().eta_s, job.snapshot().elapsed_s) == (0, 60)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": FakeEnsemble(())}, "at least one sub-model"),
        ({"names": ["a", "nobody"]}, "Given: nobody. Registered: a, b, c"),
        ({"names": []}, "Given: none"),
        ({"shares": [0]}, "between 1 and 4"),
        ({"shares": [5]}, "between 1 and 4"),
        ({"shares": [1.5]}, "whole number"),
        ({"shares": []}, "one share or more"),
        ({"budget_s": 0}, "budget_s is a number of seconds above 0"),
        ({"point_timeout_s": float("nan")}, "point_timeout_s is a number of seconds above 0"),
        ({"point_timeout_s": 3e6}, "point_timeout_s is a number of seconds above 0 and below 1,000,000"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    start: Start, fork_server: FakeForkServer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        start(**options)
    assert message in str(caught.value)
    assert fork_server.workers == []


# --- stored points ----------------------------------------------------------------------------------------------------


def test_a_second_job_reuses_all_points_starts_no_worker_and_says_so(start: Start, fork_server: FakeForkServer) -> None:
    first = start().result(WAIT_S)
    workers = len(fork_server.workers)
    job = start()
    second = job.result(WAIT_S)
    assert len(fork_server.workers) == workers
    assert list(second.points) == [replace(point, reused=True) for point in first.points]
    assert job.snapshot().reused == 12
    assert job.snapshot().message == "12 of 12 points, 12 stored before; finished"


def test_only_the_missing_points_are_measured(start: Start, fork_server: FakeForkServer) -> None:
    start(names=["a", "c"], shares=[2]).result(WAIT_S)
    fork_server.log.clear()
    start(shares=[2, 4]).result(WAIT_S)
    assert measured(fork_server) == [("a", 4), ("b", 4), ("c", 4), ("b", 2)]


def test_a_fresh_job_measures_everything_again(start: Start, fork_server: FakeForkServer) -> None:
    start(shares=[2]).result(WAIT_S)
    fork_server.log.clear()
    assert not any(point.reused for point in start(shares=[2], fresh=True).result(WAIT_S).points)
    assert len(measured(fork_server)) == 3


def test_a_changed_submodel_or_device_is_measured_again(start: Start, fork_server: FakeForkServer) -> None:
    start(shares=[2]).result(WAIT_S)
    changed = FakeEnsemble((FakeSubModel(name="a", fingerprint="other"), FakeSubModel(name="b", fingerprint="f-b")))
    fork_server.log.clear()
    assert [p.reused for p in start(shares=[2], ensemble=changed).result(WAIT_S).points] == [False, True]
    assert [p.reused for p in start(shares=[2], device=FakeDevice(name="new")).result(WAIT_S).points] == [False] * 3


def test_a_point_goes_by_what_was_measured_and_not_by_its_name(start: Start) -> None:
    start(shares=[2]).result(WAIT_S)
    renamed = FakeEnsemble((FakeSubModel(name="renamed", fingerprint="f-a"),))
    (point,) = start(shares=[2], ensemble=renamed).result(WAIT_S).points
    assert (point.name, point.reused) == ("renamed", True)


def test_an_unsettled_point_is_measured_again_when_more_time_is_given(
    start: Start, fork_server: FakeForkServer
) -> None:
    durations = iter([0.0, 0.004] * 100_000)
    fork_server.behave["a"] = lambda units: time.sleep(next(durations))
    first = start(names="a", shares=[1], budget_s=0.02).result(WAIT_S).points[0]
    assert not first.settled
    assert start(names="a", shares=[1], budget_s=0.01).result(WAIT_S).points[0].reused
    again = start(names="a", shares=[1], budget_s=0.1).result(WAIT_S).points[0]
    assert (again.reused, again.budget_s) == (False, 0.1)


def test_a_point_that_another_process_stores_meanwhile_is_not_measured_again(
    start: Start, store: ProfileStore, fork_server: FakeForkServer, ensemble: FakeEnsemble, tmp_path: Path
) -> None:
    other = ProfileStore(tmp_path / "other" / "profiles.sqlite3")
    start(names="b", shares=[1], store=other).result(WAIT_S)
    fork_server.log.clear()
    go = threading.Event()
    fork_server.behave["a"] = lambda units: go.wait(WAIT_S) and None
    job = start(names=["a", "b"], shares=[1])
    until(lambda: job.snapshot().current.startswith("a"))
    key = job._tasks[1][1].key
    point = other.get(key)
    assert point is not None
    ProfileStore(store.path).put(key, point)
    go.set()
    job.result(WAIT_S)
    assert measured(fork_server) == [("a", 1)]
    assert job.snapshot().reused == 1


def test_a_store_that_cannot_be_written_does_not_stop_profiling(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ProfileStore(tmp_path / "file" / "profiles.sqlite3")
    job = start(store=store)
    assert len(job.result(WAIT_S).points) == 12
    notes = job.snapshot().notes
    assert sum("stay in memory" in note for note in notes) == 1
    assert start(store=store).result(WAIT_S).points[0].reused


def test_a_damaged_store_is_noted_and_does_not_stop_profiling(start: Start, store: ProfileStore) -> None:
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(b"rubbish" * 1000)
    with pytest.warns(UserWarning, match="damaged"):
        job = finished(start)
    assert "moved to" in job.snapshot().notes[0]
    assert start(shares=[1]).result(WAIT_S).points[0].reused


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_point_names_itself_shows_the_workers_traceback_and_loses_nothing_else(
    start: Start, fork_server: FakeForkServer
) -> None:
    fork_server.behave["b"] = lambda units: raises(units) if units == 2 else None
    job = start()
    profile = job.result(WAIT_S)
    assert len(profile.points) == 11
    (failure,) = profile.failures
    assert (failure.name, failure.units) == ("b", 2)
    assert failure.message == "b at 2 of 4 units: It raised ValueError: boom."
    assert "ValueError: boom" in failure.worker_traceback
    assert failure.log == "said"
    assert job.snapshot().message == "11 of 12 points, 1 failed; finished"
    assert [worker.units for worker in fork_server.workers] == [4, 1, 2, 3]


def test_a_submodel_that_raises_everywhere_is_tried_once(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.behave["b"] = raises
    job = start()
    profile = job.result(WAIT_S)
    assert [(f.name, f.units) for f in profile.failures] == [("b", 4)]
    progress = job.snapshot()
    assert (progress.done, progress.failed, progress.skipped, progress.total) == (8, 1, 3, 12)
    assert progress.notes == ("b: its other shares are not tried, since it raised at 4 of 4 units.",)
    assert progress.eta_s == 0


def test_a_submodel_that_cannot_be_built_fails_by_itself(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.unbuildable.add("a")
    profile = start(shares=[1, 2]).result(WAIT_S)
    assert [(f.name, f.worker_traceback, f.log) for f in profile.failures] == [("a", "Traceback: no", "hello")]
    assert profile.names == ("b", "c")


def test_a_submodel_that_cannot_be_packed_fails_by_itself(start: Start) -> None:
    class Unpackable(FakeSubModel):
        def payload(self) -> bytes:
            raise TypeError("cannot pickle a lock")

    ensemble = FakeEnsemble((Unpackable(name="u", fingerprint="u"), FakeSubModel(name="b", fingerprint="b")))
    profile = start(ensemble=ensemble, shares=[1, 2]).result(WAIT_S)
    (failure,) = profile.failures
    assert "cannot be packed for a worker: TypeError: cannot pickle a lock" in failure.message
    assert "Traceback" in failure.worker_traceback
    assert profile.names == ("b",)


def test_a_killed_worker_is_replaced_and_the_job_goes_on(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.behave["b"] = lambda units: dies(units) if units == 4 else None
    profile = start().result(WAIT_S)
    assert [(f.name, f.units, f.log) for f in profile.failures] == [("b", 4, "last words")]
    assert len(profile.points) == 11
    assert [worker.units for worker in fork_server.workers] == [4, 4, 1, 2, 3]


def test_a_submodel_that_kills_every_worker_is_given_up_after_two(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.behave["b"] = dies
    job = start()
    profile = job.result(WAIT_S)
    assert [(f.name, f.units) for f in profile.failures] == [("b", 1), ("b", 4)]
    assert job.snapshot().skipped == 2
    assert "ended its worker 2 times" in job.snapshot().notes[0]


def test_after_a_timeout_smaller_shares_are_not_tried(start: Start, fork_server: FakeForkServer) -> None:
    def too_slow(units: int) -> None:
        if units <= 2:
            raise WorkerTimeout("no answer", log="thinking")

    fork_server.behave["a"] = too_slow
    job = start(shares=[1, 2, 4], names=["a"])
    profile = job.result(WAIT_S)
    assert [p.units for p in profile.points] == [4]
    assert [(f.units, f.log) for f in profile.failures] == [(1, "thinking"), (2, "thinking")]
    assert "no result within 60.0 s, in which it is built and runs at least 5 times" in profile.failures[0].message

    fork_server.behave["a"] = lambda units: too_slow(1)
    again = start(shares=[1, 2, 3, 4], names=["a", "b"], fresh=True)
    assert [(f.name, f.units) for f in again.result(WAIT_S).failures] == [("a", 4)]
    assert again.snapshot().skipped == 3


def test_when_nothing_could_be_measured_the_first_failure_is_raised(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.behave = dict.fromkeys("abc", raises)
    job = start()
    with pytest.raises(ModelError, match=r"No point could be measured: a at 4 of 4 units: .*boom") as caught:
        job.result(WAIT_S)
    assert "ValueError: boom" in caught.value.worker_traceback
    assert caught.value.log == "said"
    assert job.snapshot().failed == 3


def test_a_share_without_a_worker_fails_alone(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.refuses[1] = DeviceError("Lanes are pinned", given="CPU 7 is offline")
    profile = start().result(WAIT_S)
    assert [(f.name, f.units) for f in profile.failures] == [("a", 1), ("b", 1), ("c", 1)]
    assert "CPU 7 is offline" in profile.failures[0].message
    assert len(profile.points) == 9


def test_a_device_that_gives_no_worker_ends_the_job_early(start: Start, fork_server: FakeForkServer) -> None:
    fork_server.refuses = {units: WorkerDied("The fork server ended", log="no memory") for units in range(1, 5)}
    job = start()
    with pytest.raises(WorkerDied, match="The fork server ended") as caught:
        job.result(WAIT_S)
    assert caught.value.log == "no memory"
    assert job.snapshot().state is JobState.FAILED
    assert job.snapshot().failed == 6


def test_a_fault_of_ours_is_not_hidden(start: Start, device: FakeDevice) -> None:
    class Broken(FakeDevice):
        def place(self, shares: Any) -> Any:
            raise ZeroDivisionError("ours")

    job = start(device=Broken())
    with pytest.raises(ZeroDivisionError, match="ours"):
        job.result(WAIT_S)
    assert job.snapshot().state is JobState.FAILED


# --- cancelling -------------------------------------------------------------------------------------------------------


def blocks(fork_server: FakeForkServer, name: str) -> threading.Event:
    """Let steps of `name` block until cancelled; the event says that one has begun."""
    begun = threading.Event()

    def behave(units: int) -> None:
        begun.set()
        time.sleep(0.001)

    fork_server.behave[name] = behave
    return begun


def test_cancelling_stops_in_the_middle_of_a_point_and_keeps_finished_ones(
    start: Start, fork_server: FakeForkServer, store: ProfileStore
) -> None:
    begun = blocks(fork_server, "b")
    job = start(budget_s=1000, shares=[4], names=["a", "b", "c"])
    assert begun.wait(WAIT_S)
    job.cancel()
    profile = job.result(WAIT_S)
    assert profile.names == ("a",)
    assert profile.failures == ()
    assert job.snapshot().state is JobState.CANCELLED
    assert job.snapshot().message == "1 of 3 points; cancelled"
    fork_server.behave.clear()
    assert start(shares=[4]).snapshot().total == 3
    assert store.get(job._tasks[4][0].key) is not None


def test_cancelling_before_the_first_point_leaves_nothing(start: Start, fork_server: FakeForkServer) -> None:
    begun = blocks(fork_server, "a")
    job = start(budget_s=1000)
    assert begun.wait(WAIT_S)
    job.cancel()
    with pytest.raises(Cancelled, match="before a point was measured"):
        job.result(WAIT_S)


def test_cancelling_a_finished_job_changes_nothing(start: Start) -> None:
    job = start(shares=[1])
    job.result(WAIT_S)
    job.cancel()
    assert len(job.result(WAIT_S).points) == 3
    assert job.snapshot().state is JobState.FINISHED


@pytest.mark.timing
def test_cancelling_while_another_process_measures_is_prompt(start: Start) -> None:
    other = start(shares=[1])
    other.result(WAIT_S)
    with other._measuring.held(threading.Event()):
        job = start(shares=[2])
        until(lambda: job.snapshot().state is JobState.WAITING)
        assert "waiting: another measurement or run is under way" in job.snapshot().message
        began = time.monotonic()
        job.cancel()
        with pytest.raises(Cancelled):
            job.result(WAIT_S)
        assert time.monotonic() - began < 1


def test_measuring_goes_on_when_the_other_process_is_done(start: Start) -> None:
    other = start(shares=[1])
    other.result(WAIT_S)
    with other._measuring.held(threading.Event()):
        job = start(shares=[2])
        until(lambda: job.snapshot().state is JobState.WAITING)
        assert job.snapshot().current == "a at 2 of 4 units"
    assert len(job.result(WAIT_S).points) == 3


def test_another_device_is_measured_at_the_same_time(start: Start) -> None:
    other = start(shares=[1])
    other.result(WAIT_S)
    with other._measuring.held(threading.Event()):
        assert len(start(shares=[2], device=FakeDevice(name="another")).result(WAIT_S).points) == 3


def test_an_unprotected_measurement_is_noted_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MachineLock, "_open", lambda self, suffix: setattr(self, "note", "no locks here"))
    job = start()
    job.result(WAIT_S)
    assert job.snapshot().notes == ("Another notebook that measures now would spoil the figures: no locks here.",)


# --- the device lock -------------------------------------------------------------------------------------------------


def test_the_gate_is_held_around_each_measured_point_and_only_then(start: Start, fork_server: FakeForkServer) -> None:
    lock = threading.Lock()
    held_in_steps = set()
    entered = []

    @contextmanager
    def device_lock() -> Iterator[None]:
        with lock:
            entered.append(1)
            yield

    fork_server.behave = dict.fromkeys("abc", lambda units: held_in_steps.add(lock.locked()))
    start(shares=[1, 2], device_lock=device_lock).result(WAIT_S)
    assert held_in_steps == {True}
    assert len(entered) == 6
    start(shares=[1, 2], device_lock=device_lock).result(WAIT_S)
    assert len(entered) == 6


def test_a_run_that_holds_the_gate_is_waited_for(start: Start, fork_server: FakeForkServer) -> None:
    lock = threading.Lock()
    with lock:
        job = start(shares=[1], device_lock=lambda: lock)
        until(lambda: job.snapshot().state is JobState.WAITING)
        assert measured(fork_server) == []
    assert len(job.result(WAIT_S).points) == 3


def test_who_waits_for_another_process_does_not_hold_the_gate(start: Start) -> None:
    other = start(shares=[1])
    other.result(WAIT_S)
    lock = threading.Lock()
    with other._measuring.held(threading.Event()):
        start(shares=[2], device_lock=lambda: lock)
        assert lock.acquire(timeout=WAIT_S)
        lock.release()


# --- the interpreter's end --------------------------------------------------------------------------------------------


def test_a_running_job_never_keeps_the_interpreter_from_exiting(tmp_path: Path) -> None:
    code = """if True:
        import sys, threading, time
        sys.path.insert(0, "tests/profiler")
        from profiling_fakes import FakeDevice, FakeEnsemble, FakeForkServer, FakeSubModel
        from esen_lab.profiler import ProfileStore, start_profile
        begun = threading.Event()
        def endless(units):
            begun.set()
            time.sleep(0.01)
        fork_server = FakeForkServer(behave={"a": endless})
        ensemble = FakeEnsemble((FakeSubModel(name="a", fingerprint="f"),))
        start_profile(ensemble, FakeDevice(), fork_server, ProfileStore(sys.argv[1]), budget_s=1000)
        assert begun.wait(120)
        print("leaving")
    """
    command = [sys.executable, "-c", code, str(tmp_path / "profiles.sqlite3")]
    ended = subprocess.run(
        command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "leaving\n", "")


def test_the_device_of_a_profile_is_plain_data(start: Start) -> None:
    json.dumps(dict(start(shares=[1]).result(WAIT_S).device))


# --- a device that shrinks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shrunken(FakeDevice):
    """A device that loses cores when the first point has been measured: a test double."""

    gone: list[str] = field(default_factory=list)

    def lost(self) -> str:
        return "".join(self.gone)

    def place(self, shares: Any) -> Any:
        if self.gone:
            raise DeviceError("Lanes run on cores that this process may use", given=self.lost())
        return super().place(shares)


def test_a_device_that_shrinks_while_it_is_measured_gives_no_further_points(
    start: Start, fork_server: FakeForkServer
) -> None:
    device = Shrunken()
    fork_server.behave = {
        "a": lambda units: device.gone.append("cores 0-1 of 0-3 are left.") if not device.gone else None
    }
    profile = start(device=device).result(WAIT_S)
    assert [point.name for point in profile.points] == ["a"]
    assert "cores 0-1 of 0-3 are left." in profile.failures[0].message


def test_where_the_device_is_at_fault_nobody_is_told_to_mend_a_sub_model(start: Start) -> None:
    with pytest.raises(DeviceError, match="cores that this process may use") as problem:
        start(device=Shrunken(gone=["cores 0-1 of 0-3 are left."])).result(WAIT_S)
    assert "sub-model" not in str(problem.value)


# --- a busy machine ---------------------------------------------------------------------------------------------------


class Busy(FakeForkServer):
    """Every measurement finds the next of these loads, and latencies that grow with it."""

    def __init__(self, *loads: float | None) -> None:
        super().__init__()
        self.loads = list(loads)
        self.asked: list[bool] = []

    def worker(self, placement: Any, *, label: str, settings: Any = None) -> Any:
        worker = super().worker(placement, label=label, settings=settings)

        def call(function: str, name: str, *, load: bool, **_: Any) -> Timing:
            self.asked.append(load)
            taken = self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]
            readings = {} if taken is None else {"load": taken}
            figures = {"median_s": 0.01 / (1 - (taken or 0.0)), "spread_s": 0.0, "quantile_90_s": 0.02}
            counts = {"repeats": 9, "warmups": 2, "settled": True, "growth_bytes": 0}
            return Timing(**figures, **counts, readings=readings)

        worker.call = call  # type: ignore[method-assign]
        return worker


@dataclass(frozen=True)
class RealDevice(FakeDevice):
    """A device of which nobody says that it is simulated."""

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(kind="cpu", name=self.name, units=self.units, unit="core", simulated=False)


ONE = FakeEnsemble((FakeSubModel(name="a", fingerprint="f-a"),))


@pytest.fixture
def busy(start: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProfileJob]:
    monkeypatch.setattr("esen_lab.profiler.point_bench._MOMENT_S", 0.001)

    def busy(*loads: float | None, now: float | None = None, **known: Any) -> ProfileJob:
        monkeypatch.setattr("esen_lab.profiler.job.ProfileJob._busy_now", lambda _: now)
        given = {"ensemble": ONE, "device": RealDevice(), "fork_server": Busy(*loads), "shares": [1], **known}
        job = start(**given)
        job.result(WAIT_S)
        return job

    return busy


@pytest.mark.load
def test_a_point_measured_under_load_is_measured_again_and_the_quietest_counts(busy: Any) -> None:
    job = busy(0.6, 0.5, 0.02, 0.9)
    assert job.snapshot().points[0].load == 0.02
    assert job.snapshot().notes == ()


@pytest.mark.load
def test_a_machine_that_stays_busy_is_tried_three_times_and_then_said(busy: Any) -> None:
    fork_server = Busy(0.6, 0.4, 0.5)
    job = busy(fork_server=fork_server)
    assert len(fork_server.asked) == 3
    assert job.snapshot().points[0].load == 0.4
    (told,) = job.snapshot().notes
    assert "a at 1" in told
    assert "40.0 %" in told
    assert "1 measured on a busy machine" in job.snapshot().message


@pytest.mark.load
def test_after_two_points_that_stayed_loaded_a_job_measures_each_once(busy: Any) -> None:
    fork_server = Busy(0.5)
    busy(fork_server=fork_server, shares=[1, 2, 3, 4])
    assert len(fork_server.asked) == 3 + 3 + 1 + 1


@pytest.mark.load
def test_a_stored_loaded_point_is_measured_again_on_a_quieter_machine_and_replaced(
    busy: Any, store: ProfileStore
) -> None:
    busy(0.5)
    again = busy(0.01).result(WAIT_S).points[0]
    assert (again.reused, again.load) == (False, 0.01)
    third = busy(0.9).result(WAIT_S).points[0]
    assert (third.reused, third.load) == (True, 0.01), "a point of a quiet machine is reused"


@pytest.mark.load
def test_the_quieter_of_two_loaded_points_is_kept(busy: Any) -> None:
    busy(0.3)
    again = busy(0.8).result(WAIT_S).points[0]
    assert (again.reused, again.load) == (True, 0.3)


@pytest.mark.load
def test_on_a_machine_that_is_as_busy_as_then_a_loaded_point_is_not_measured_in_vain(busy: Any) -> None:
    busy(0.5)
    fork_server = Busy(0.5)
    assert busy(fork_server=fork_server, now=0.6).result(WAIT_S).points[0].reused
    assert fork_server.asked == []


@pytest.mark.load
def test_where_the_load_cannot_be_read_nothing_is_doubted_and_nothing_tried_twice(busy: Any) -> None:
    fork_server = Busy(None)
    job = busy(fork_server=fork_server)
    assert (job.snapshot().points[0].load, len(fork_server.asked)) == (None, 1)
    assert job.snapshot().notes == ()


@pytest.mark.load
def test_the_load_of_this_machine_is_no_matter_for_replayed_times(busy: Any) -> None:
    fork_server = Busy(None)
    busy(fork_server=fork_server, device=FakeDevice())
    assert fork_server.asked == [False]
