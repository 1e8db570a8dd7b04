"""The scripted control program and NVIDIA's own through one test; the real one over a stub of `libcuda`, no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from cuda_doubles import scripted_programs
from real_parts import real_mps, stub_libcuda

from esen_lab.devices.cuda.mps_control import MpsDaemon, MpsPrograms
from esen_lab.errors import DeviceError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA MPS exists on Linux only")
GPU = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A control program, double or real, and how to keep its server from starting."""

    programs: MpsPrograms
    real: bool
    patch: pytest.MonkeyPatch

    def start(self) -> MpsDaemon:
        return MpsDaemon.start(GPU, programs=self.programs, parent=Path("/tmp"))

    def refuse_servers(self) -> None:
        if self.real:
            self.patch.setenv("STUB_TABLES", "")
        else:
            scripted_programs(self.programs.control.parent, server_exits=1)


# Fetching the real part may take a while, once.
@pytest.fixture(params=["the double", pytest.param("NVIDIA's", marks=pytest.mark.slow)])
def part(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Part]:
    real = request.param == "NVIDIA's"
    if real:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_libcuda(tmp_path)))
        monkeypatch.setenv("STUB_TABLES", "hang")  # a server that never becomes ready, but is there
    programs = real_mps(request.config.cache) if real else scripted_programs(tmp_path / "bin")
    before = set(running(programs))
    yield Part(programs=programs, real=real, patch=monkeypatch)
    assert not ended_within(8, programs, before), "a daemon or a server was left"


def running(programs: MpsPrograms) -> list[psutil.Process]:
    names = {str(programs.control), str(programs.server), programs.server.name}
    return [p for p in psutil.process_iter(["cmdline"]) if names & set(p.info["cmdline"] or [])]


def ended_within(seconds: float, programs: MpsPrograms, before: set[psutil.Process]) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := [p for p in running(programs) if p not in before]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def test_a_server_is_listed_with_its_state_and_its_clients(part: Part) -> None:
    with part.start() as daemon:
        (server,) = daemon.servers()
        assert daemon.status(server) in {"INITIALIZING", "ACTIVE"}
        assert daemon.clients() == ()
        assert not daemon.faulted()
        folder = daemon.folder
    assert not folder.exists()


def test_errors_are_told_from_answers_though_both_come_alike(part: Part) -> None:
    with part.start() as daemon:
        assert daemon.status(1) == "GONE"
        assert daemon._clients_of(1) == ()
        assert daemon.ask("nonsense") == 'Unknown command "nonsense"'
        assert daemon.ask("start_server").startswith("A user id (UID) is required")
        assert daemon.ask("terminate_client 1 2").splitlines()[-1] == "1"
        assert not daemon.terminate(2), "nobody's client"


def test_a_server_that_cannot_start_is_noticed(part: Part) -> None:
    part.refuse_servers()
    with pytest.raises(DeviceError, match=r"lists it.*none is listed; it printed:.*Server \d+ exited with status 1"):
        part.start()


def test_the_server_is_found_where_path_does_not_lead(part: Part) -> None:
    part.patch.setenv("PATH", "/usr/bin:/bin")
    with part.start() as daemon:
        assert len(daemon.servers()) == 1


def test_a_limit_in_this_process_does_not_become_everybodys(part: Part) -> None:
    part.patch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    with part.start() as daemon:
        assert daemon.ask("get_default_active_thread_percentage") == "100.0"


def test_many_who_ask_at_a_time_get_the_right_answer_also_beside_a_stranger(part: Part) -> None:
    with part.start() as daemon:
        servers = daemon.servers()
        strangers = [
            subprocess.Popen(
                ["bash", "-c", f"for i in $(seq 30); do echo get_server_list | '{part.programs.control}'; done"],
                env={**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(daemon.folder)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        ]
        with ThreadPoolExecutor(max_workers=6) as pool:
            found = list(pool.map(lambda _: daemon.servers(), range(30)))
        for stranger in strangers:
            stranger.wait(60)
    assert found == [servers] * 30


def test_a_second_daemon_in_one_folder_is_refused_and_a_killed_one_can_be_replaced(part: Part) -> None:
    with part.start() as daemon:
        environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(daemon.folder)}
        second = subprocess.run(
            [str(part.programs.control), "-f"], env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert "An instance of this daemon is already running" in second.stdout + second.stderr
        assert daemon._guard is not None
        (first,) = daemon.servers()
        daemon._guard.restart()
        daemon._wait_until_it_answers(20)
        daemon._start_server()
        assert (daemon.servers() != (first,)) == part.real


def test_when_the_guard_is_killed_the_daemon_goes_with_it_and_its_server_is_ended(part: Part) -> None:
    before = set(running(part.programs))
    daemon = part.start()
    assert daemon._guard is not None
    mine = [p for p in running(part.programs) if p not in before and str(part.programs.control) in p.cmdline()]
    daemon._guard._popen.send_signal(signal.SIGKILL)
    try:
        assert mine
        assert not [p for p in psutil.wait_procs(mine, timeout=8)[1] if p.status() != psutil.STATUS_ZOMBIE]
    finally:
        daemon.stop()  # the fixture sees whether a server stayed


def test_where_no_daemon_is_that_is_said(part: Part, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Cannot find MPS control daemon process"):
        MpsDaemon.adopt(tmp_path, GPU, programs=part.programs)
