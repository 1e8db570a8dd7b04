"""The daemon protocol and the fault ladder of NVIDIA MPS, against a scripted control program: no GPU is involved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from waiting import until

from esen_lab.common.children import child_environment
from esen_lab.devices.cuda.mps_control import CONTROL, SERVER, MpsDaemon, MpsPrograms, find_programs
from esen_lab.errors import DeviceError, UsageError

SCRIPTED = Path(__file__).parents[1] / "doubles" / "scripted_mps_control.py"
GPU = "GPU-00000000-1111-2222-3333-444444444444"
Start = Callable[..., MpsDaemon]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA MPS exists on Linux only")


@pytest.fixture
def programs(tmp_path: Path) -> MpsPrograms:
    """The scripted control program under the real one's name, beside a server program that is never run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (CONTROL, SERVER):
        text = SCRIPTED.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return find_programs([folder])


@pytest.fixture
def start(programs: MpsPrograms, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start daemons whose control program follows the given script."""
    started: list[MpsDaemon] = []
    short = Path("/tmp") if len(str(tmp_path_factory.getbasetemp())) > 60 else tmp_path_factory.mktemp("m")

    def start(*, timeout_s: float = 60.0, parent: Path | None = None, **script: object) -> MpsDaemon:
        (programs.control.parent / "script.json").write_text(json.dumps(script))
        daemon = MpsDaemon.start(GPU, programs=programs, parent=parent or short, timeout_s=timeout_s)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.stop()


def seen_by(programs: MpsPrograms) -> dict[str, str]:
    found: dict[str, str] = json.loads((programs.control.parent / "seen.json").read_text())
    return found


def scripted_processes(programs: MpsPrograms) -> list[psutil.Process]:
    marked = str(programs.control)
    return [p for p in psutil.process_iter(["cmdline"]) if marked in " ".join(p.info["cmdline"] or [])]


def wait_until_gone(programs: MpsPrograms) -> None:
    until(lambda: not scripted_processes(programs))


def test_a_private_daemon_serves_one_gpu_from_a_folder_of_its_own(start: Start, programs: MpsPrograms) -> None:
    with start() as daemon:
        assert daemon.private
        assert daemon.alive
        environment = seen_by(programs)
        assert environment["CUDA_VISIBLE_DEVICES"] == GPU
        folder = Path(environment["CUDA_MPS_PIPE_DIRECTORY"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert daemon.servers() == (4242,)
        assert daemon.status(4242) == "ACTIVE"
    assert not folder.exists()
    wait_until_gone(programs)


def test_a_lane_is_told_where_the_daemon_is_and_what_its_limits_are(start: Start) -> None:
    daemon = start()
    plain = daemon.environment()
    assert plain["CUDA_VISIBLE_DEVICES"] == GPU
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in plain
    limited = daemon.environment(30, memory_bytes=3 << 30)
    assert limited["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert limited["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=3072M"


@pytest.mark.parametrize("percentage", [0, 101, -5, 2.5, True, "30"])
def test_a_percentage_out_of_range_is_refused(start: Start, percentage: object) -> None:
    with pytest.raises(UsageError, match="1 to 100"):
        start().environment(percentage)  # type: ignore[arg-type]


def test_a_lane_that_the_daemon_does_not_list_is_refused(start: Start) -> None:
    daemon = start(clients=[101, 102])
    daemon.check_client(101)
    with pytest.raises(DeviceError, match=r"process 999 is not among \[101, 102\].*without its limit"):
        daemon.check_client(999)


def test_a_lane_that_is_listed_a_moment_late_is_not_refused(
    start: Start, programs: MpsPrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esen_lab.devices.cuda.mps_control._LISTED_WITHIN_S", 60.0)
    daemon = start(clients=[101])
    late = threading.Timer(0.2, (programs.control.parent / "connected").write_text, (f"{os.getpid()}\n",))
    late.start()
    daemon.check_client(os.getpid())
    late.join()


def test_a_client_is_ended_by_the_daemon(start: Start) -> None:
    daemon = start(clients=[101, 102])
    assert daemon.terminate(101)
    assert daemon.clients() == (102,)
    assert not daemon.terminate(999), "it is nobody's client"


def test_a_client_that_cannot_be_ended_is_said(start: Start) -> None:
    assert not start(clients=[101], ignores_terminate=True).terminate(101)


def test_after_a_fault_the_clients_are_ended_and_the_server_goes_on(start: Start, programs: MpsPrograms) -> None:
    daemon = start(clients=[101, 102], fault_until_clients_gone=True)
    assert daemon.faulted()
    steps: list[str] = []
    daemon.recover(tell=steps.append)
    assert not daemon.faulted()
    assert daemon.clients() == ()
    assert steps[:2] == ["ending client 101", "ending client 102"]
    assert (programs.control.parent / "starts").read_text() == "1", "the daemon itself stayed"


def test_a_server_that_stays_in_fault_costs_the_daemon_its_life(start: Start, programs: MpsPrograms) -> None:
    daemon = start(fault_for_ever=True)
    steps: list[str] = []
    daemon.recover(timeout_s=0.2, tell=steps.append)
    assert steps[-1] == "starting the daemon anew"
    assert (programs.control.parent / "starts").read_text() == "2"
    assert not daemon.faulted()


def test_an_adopted_daemon_is_used_and_left_alone(start: Start, programs: MpsPrograms) -> None:
    owner = start(clients=[7])
    folder = owner.environment()["CUDA_MPS_PIPE_DIRECTORY"]
    with MpsDaemon.adopt(folder, GPU, programs=programs) as adopted:
        assert not adopted.private
        assert adopted.clients() == (7,)
    assert owner.servers() == (4242,), "it still answers"


def test_an_adopted_daemon_that_stays_in_fault_is_its_owners_to_mend(start: Start, programs: MpsPrograms) -> None:
    owner = start(fault_for_ever=True)
    adopted = MpsDaemon.adopt(owner.environment()["CUDA_MPS_PIPE_DIRECTORY"], GPU, programs=programs)
    with pytest.raises(DeviceError, match="belongs to somebody else"):
        adopted.recover(timeout_s=0.1)


def test_no_daemon_to_adopt_is_said_in_its_own_words(programs: MpsPrograms, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Cannot find MPS control daemon"):
        MpsDaemon.adopt(tmp_path, GPU, programs=programs)


def test_a_daemon_that_does_not_come_up_says_what_it_printed(start: Start, programs: MpsPrograms) -> None:
    with pytest.raises(DeviceError, match="already running for this GPU"):
        start(refuses_to_start="An instance of this daemon is already running for this GPU")
    wait_until_gone(programs)


def test_a_daemon_that_hangs_is_given_up_at_the_deadline(start: Start, programs: MpsPrograms) -> None:
    with pytest.raises(DeviceError, match="no answer within"):
        start(hangs_on="get_server_list", timeout_s=2.0)
    wait_until_gone(programs)


def test_a_daemon_that_ignores_quit_is_killed(start: Start, programs: MpsPrograms) -> None:
    daemon = start(ignores_quit=True)
    daemon.stop()
    wait_until_gone(programs)
    daemon.stop()


def test_a_command_that_is_not_answered_names_itself(start: Start) -> None:
    daemon = start(hangs_on="ps")
    with pytest.raises(DeviceError, match="'ps' within"):
        daemon.ask("ps", timeout_s=0.2)


def test_a_daemon_that_dies_is_noticed(start: Start, programs: MpsPrograms) -> None:
    daemon = start()
    for process in scripted_processes(programs):
        if "-f" in process.cmdline():
            process.kill()
    until(lambda: not daemon.alive)
    with pytest.raises(DeviceError, match="open the device again"):
        daemon.servers()


@pytest.mark.parametrize("victim", ["owner", "guard"])
def test_nothing_is_left_when_the_notebook_or_the_guard_is_killed(
    victim: str, programs: MpsPrograms, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent = Path("/tmp")
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from esen_lab.devices.cuda.mps_control import MpsDaemon, find_programs\n"
        f"daemon = MpsDaemon.start({GPU!r}, programs=find_programs([{str(programs.control.parent)!r}]),"
        f" parent=Path({str(parent)!r}))\n"
        "print(daemon.environment()['CUDA_MPS_PIPE_DIRECTORY'], flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert folder.is_dir()
        guards = [p for p in psutil.Process(owner.pid).children() if "mps_guard" in " ".join(p.cmdline())]
        assert len(guards) == 1
        if victim == "guard":
            guards[0].kill()
            wait_until_gone(programs)  # the daemon goes with its guard
        os.kill(owner.pid, signal.SIGKILL)
    wait_until_gone(programs)
    if victim == "owner":
        until(lambda: not folder.exists())
    shutil.rmtree(folder, ignore_errors=True)  # nobody is left to do it when both are gone


def test_missing_programs_are_named_with_where_was_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=rf"no {CONTROL} and no {SERVER} in {tmp_path}.*green contexts"):
        find_programs([tmp_path])


def test_a_folder_too_deep_for_sockets_is_refused_before_anything_starts(programs: MpsPrograms, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    with pytest.raises(UsageError, match="107 bytes"):
        MpsDaemon.start(GPU, programs=programs, parent=deep)
    assert list(deep.iterdir()) == []


def test_the_server_is_found_where_it_lies_and_no_foreign_limit_gets_to_it(
    start: Start, programs: MpsPrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    monkeypatch.setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=1G")
    daemon = start()
    environment = seen_by(programs)
    assert environment["PATH"].split(os.pathsep)[0] == str(programs.server.parent)
    assert not {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"} & environment.keys()
    assert daemon.servers() == (4242,)


def test_a_server_that_ends_at_once_is_noticed_and_its_status_explained(start: Start, programs: MpsPrograms) -> None:
    with pytest.raises(DeviceError, match=r"Server 4242 exited with status 100 \(CUDA_ERROR_NO_DEVICE") as caught:
        start(server_exits=100)
    assert "Cmd:" not in str(caught.value)
    assert "2026" not in str(caught.value), "no time stamps"
    wait_until_gone(programs)


def test_a_server_that_is_refused_the_gpu_while_it_starts_is_noticed(start: Start, programs: MpsPrograms) -> None:
    with pytest.raises(DeviceError, match=r"exited with status 46 \(CUDA_ERROR_DEVICE_UNAVAILABLE"):
        start(server_starts_s=0.8, server_exits=46)
    wait_until_gone(programs)


def test_a_server_that_takes_its_time_to_start_is_waited_for(start: Start) -> None:
    daemon = start(server_starts_s=0.6)
    assert daemon.status(4242) == "ACTIVE"


def test_answers_that_are_lost_are_asked_for_again(start: Start, programs: MpsPrograms) -> None:
    daemon = start(clients=[7], loses_answers=3)
    assert daemon.clients() == (7,)
    assert (programs.control.parent / "lost").read_text() == "3"


def test_an_answer_that_stays_lost_is_no_answer_and_no_client_was_ended(start: Start, programs: MpsPrograms) -> None:
    daemon = start(clients=[7])
    (programs.control.parent / "script.json").write_text(json.dumps({"loses_answers": 10**6}))
    with pytest.raises(DeviceError, match="'ps'"):
        daemon.ask("ps", timeout_s=0.3)


def test_a_server_that_is_gone_has_no_clients_and_no_fault(start: Start) -> None:
    daemon = start()
    assert daemon.status(17) == "GONE"
    assert daemon._clients_of(17) == ()
    assert daemon.ask("nonsense") == 'Unknown command "nonsense"'


def test_those_who_ask_at_the_same_time_are_let_in_one_after_another(start: Start, programs: MpsPrograms) -> None:
    daemon = start(clients=[7])
    other = MpsDaemon.at(daemon.folder, GPU, programs=programs)  # as lanes see it, from processes of their own
    with ThreadPoolExecutor(max_workers=6) as pool:
        found = list(pool.map(lambda one: one.clients(), [daemon, other] * 3))
    assert found == [(7,)] * 6
    assert not (programs.control.parent / "overlapped").exists()
    assert sorted(path.name for path in daemon.folder.iterdir()) == ["control"], "nothing is written there"
