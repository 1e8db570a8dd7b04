"""The background job with real worker processes on the real CPU: kills, raises, hangs, cancels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gates import Gate
from profiling_models import Fills, Misbehaves, Naps, TakesNoAutocast
from torch import nn
from waiting import gone, until

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, SubModel, make_combine, make_submodel
from esen_lab.errors import Cancelled, ModelError
from esen_lab.lanes import ForkServer
from esen_lab.profiler import JobState, Profile, ProfileJob, ProfileStore, start_profile

ROOT = Path(__file__).parents[2]
WAIT_S = 60
X = torch.ones(2, 8)
Start = Callable[..., ProfileJob]


@pytest.fixture(scope="module")
def real_fork_server() -> Iterator[ForkServer]:
    """One for the module: importing torch in it takes seconds."""
    fork_server = ForkServer()
    fork_server.warm()
    yield fork_server
    fork_server.close()


@pytest.fixture
def start(real_fork_server: ForkServer, store: ProfileStore) -> Iterator[Start]:
    jobs = []

    def start(*submodels: SubModel, **options: Any) -> ProfileJob:
        ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
        options = {"budget_s": 0.1, "shares": [1]} | options
        jobs.append(start_profile(ensemble, CpuDevice(), real_fork_server, store, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()
        assert job._over.wait(WAIT_S)
    assert [worker.pid for worker in real_fork_server._workers if worker.alive] == []


def mlp(name: str = "mlp") -> SubModel:
    return make_submodel(name, nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), X)


def misbehaves(how: str) -> SubModel:
    return make_submodel("bad", Misbehaves(how), X)


def until_measuring(job: ProfileJob, what: str) -> None:
    until(lambda: job.done or job.snapshot().current.startswith(what))
    assert not job.done


def names(profile: Profile) -> list[tuple[str, int]]:
    return [(point.name, point.units) for point in profile.points]


@pytest.mark.timing
def test_a_known_latency_is_found_at_every_share(start: Start) -> None:
    nap = make_submodel("nap", Naps(0.01), X)
    profile = start(nap, mlp(), shares=None).result(WAIT_S)
    units = CpuDevice().units
    assert names(profile) == [(name, k) for name in ("nap", "mlp") for k in range(1, units + 1)]
    for point in profile.of("nap"):
        assert 0.0100 <= point.median_s < 0.0125
    assert profile.examples == {"nap": "float32[2, 8]", "mlp": "float32[2, 8]"}
    assert profile.device == CpuDevice().identity.to_dict()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the counters of the Linux kernel")
def test_peak_memory_is_weights_plus_what_a_step_needs(start: Start) -> None:
    fills = make_submodel("fills", Fills(64), X)
    weights = make_submodel("weights", nn.Linear(8, 1 << 20, bias=False), X[:, :8])
    profile = start(fills, weights).result(WAIT_S)
    (of_fills,), (of_weights,) = profile.of("fills"), profile.of("weights")
    assert of_fills.peak_memory_bytes == pytest.approx(64 << 20, abs=12 << 20)
    assert weights.memory_bytes == 32 << 20
    assert of_weights.peak_memory_bytes == pytest.approx((32 + 8) << 20, abs=12 << 20)


def test_a_module_that_raises_in_the_worker_shows_its_traceback_and_its_log(start: Start) -> None:
    job = start(misbehaves("raise"), mlp(), shares=None)
    profile = job.result(WAIT_S)
    (failure,) = profile.failures
    units = CpuDevice().units
    assert failure.message.startswith(f"bad at {units} of {units} units: ")
    assert "ValueError: not in a worker" in failure.message
    assert "profiling_models.py" in failure.worker_traceback
    assert "about to raise" in failure.log
    assert profile.names == ("mlp",)
    assert job.snapshot().skipped == units - 1


def test_when_all_raise_the_traceback_reaches_who_waits(start: Start) -> None:
    with pytest.raises(ModelError, match="not in a worker") as caught:
        start(misbehaves("raise")).result(WAIT_S)
    assert "profiling_models.py" in caught.value.worker_traceback


def test_a_worker_killed_from_outside_during_a_point_is_replaced(
    start: Start, real_fork_server: ForkServer, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    gate.open()
    slow = make_submodel("slow", gate.member(1.0), X)
    gate.close()
    job = start(mlp("first"), slow, mlp("last"))
    gate.begun()
    (worker,) = [worker for worker in real_fork_server._workers if worker.alive]
    os.kill(worker.pid, signal.SIGKILL)
    profile = job.result(WAIT_S)
    (failure,) = profile.failures
    assert (failure.name, failure.units) == ("slow", 1)
    assert "killed by SIGKILL" in failure.message
    assert names(profile) == [("first", 1), ("last", 1)]


@pytest.mark.skipif(CpuDevice().units < 2, reason="compares two shares")
def test_a_submodel_that_dies_at_one_share_is_measured_at_the_others(start: Start) -> None:
    profile = start(misbehaves("kill alone"), mlp(), shares=[1, 2]).result(WAIT_S)
    assert [(f.name, f.units) for f in profile.failures] == [("bad", 1)]
    assert names(profile) == [("bad", 2), ("mlp", 1), ("mlp", 2)]


@pytest.mark.timing
@pytest.mark.parametrize("how", ["sleep", "sleep later"])
def test_a_point_that_hangs_is_given_up_and_the_job_goes_on(start: Start, how: str) -> None:
    began = time.monotonic()
    job = start(misbehaves(how), mlp(), point_timeout_s=5)
    until_measuring(job, "bad")
    profile = job.result(WAIT_S)
    assert time.monotonic() - began < 40, "it sleeps for a minute"
    (failure,) = profile.failures
    assert "no result within 5.00 s" in failure.message
    assert "about to sleep" in failure.log
    assert profile.names == ("mlp",)


@pytest.mark.timing
@pytest.mark.parametrize("how", ["sleep", "sleep later"])
def test_cancelling_in_the_middle_of_a_step_is_prompt_and_leaves_no_process(
    start: Start, real_fork_server: ForkServer, how: str
) -> None:
    job = start(mlp(), misbehaves(how), point_timeout_s=600)
    until_measuring(job, "bad")
    (pid,) = [worker.pid for worker in real_fork_server._workers if worker.alive]
    time.sleep(0.3)  # let it be inside the step
    began = time.monotonic()
    job.cancel()
    profile = job.result(WAIT_S)
    assert time.monotonic() - began < 1
    assert names(profile) == [("mlp", 1)]
    assert profile.failures == ()
    assert job.snapshot().state is JobState.CANCELLED
    until(lambda: gone(pid))


@pytest.mark.timing
def test_cancelling_while_a_submodel_is_built_is_prompt(start: Start, real_fork_server: ForkServer) -> None:
    slow = make_submodel("slow", "profiling_models:slow_to_build", X, kwargs={"home": os.getpid()})
    job = start(slow, point_timeout_s=600)
    until_measuring(job, "slow")
    time.sleep(0.3)  # let it be inside the factory
    began = time.monotonic()
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(WAIT_S)
    assert time.monotonic() - began < 1
    assert job.snapshot().failed == 0


def test_a_fork_server_that_a_job_started_outlives_the_jobs_thread(store: ProfileStore) -> None:
    fork_server = ForkServer()
    try:
        ensemble = Ensemble(submodels=(mlp(),), combine=make_combine("mean"))
        start_profile(ensemble, CpuDevice(), fork_server, store, shares=[1], budget_s=0.05).result(WAIT_S)
        helper = fork_server.pid
        (placement,) = CpuDevice().place([1])
        fork_server.worker(placement).close()
        assert fork_server.pid == helper
    finally:
        fork_server.close()


@pytest.mark.timing
def test_two_processes_share_one_store_and_measure_each_point_once(tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.path.insert(0, "tests/profiler")
        import torch
        from profiling_models import Naps
        from esen_lab.devices import CpuDevice
        from esen_lab.ensemble import Ensemble, make_combine, make_submodel
        from esen_lab.profiler import ProfileStore, start_profile
        from esen_lab.lanes import ForkServer
        x = torch.ones(2, 8)
        submodels = tuple(make_submodel(f"nap{i}", Naps(0.001 * i), x) for i in range(1, 6))
        fork_server = ForkServer()
        ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
        sys.stdin.readline()
        job = start_profile(ensemble, CpuDevice(), fork_server, ProfileStore(sys.argv[1]), shares=[1], budget_s=0.3)
        profile = job.result(100)
        fork_server.close()
        notes = [note for note in job.snapshot().notes if "other programs" not in note]  # tests run beside others
        print(len(profile.points), job.snapshot().reused, *notes)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "profiles.sqlite3")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(2)]
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, error = process.communicate(timeout=100)
        assert process.returncode == 0, error
        results.append(out.split())
    assert [len(result) for result in results] == [2, 2]  # no notes
    assert [result[0] for result in results] == ["5", "5"]
    assert sum(int(result[1]) for result in results) == 5


def test_what_is_set_while_a_job_runs_does_not_change_what_its_points_are_of(
    start: Start, real_fork_server: ForkServer, store: ProfileStore
) -> None:
    real_fork_server.look_at_session()
    two = make_submodel("strict", TakesNoAutocast(), X), mlp()
    job = start(*two, shares=[1])
    with torch.autocast("cpu", torch.bfloat16):
        real_fork_server.look_at_session()  # as a run of the notebook does between two points
    try:
        assert job.result(WAIT_S).failures == ()
    finally:
        real_fork_server.look_at_session()
    assert [point.reused for point in start(*two, shares=[1]).result(WAIT_S).points] == [True, True]
