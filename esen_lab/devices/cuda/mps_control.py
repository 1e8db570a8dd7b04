"""The control daemon of NVIDIA MPS (the Multi-Process Service; nothing to do with Apple's `mps` backend of PyTorch).

A private daemon serves one GPU: a fault on one GPU would otherwise shut out new clients on healthy ones. It lives as
long as its guard (`mps_guard.py`), and the guard as long as this process, so nothing is left behind by a kernel that is
killed. Compute mode, clocks and persistence are never touched.

What the daemon answers (seen with NVIDIA's own programs, without a GPU; `mps_protocol.py` tells answers from errors):

    get_server_list             one process id per line, or nothing
    get_server_status SERVER    INITIALIZING | ACTIVE | FAULT
    get_client_list SERVER      one process id per line, or nothing; "Server N not found"
    start_server -uid UID       nothing, also where the server ends at once
    terminate_client SERVER PID last line 0 when it is done, 1 when not
    quit                        ends the daemon once its servers are gone

It takes one question at a time: answers of others who ask meanwhile are refused, or lost without a word.

A client that cannot reach a daemon runs without MPS and without limits, and nobody says so. Hence `clients`: a lane
counts only once it is listed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from esen_lab.common.children import child_environment
from esen_lab.devices.cuda.mps_protocol import (
    LAST_QUESTION,
    answer_in,
    explained,
    own_words,
    servers_ended,
    without_mps,
)
from esen_lab.errors import DeviceError, UsageError

CONTROL = "nvidia-cuda-mps-control"
NO_DAEMON = "Cannot find MPS control daemon process"
SERVER = "nvidia-cuda-mps-server"
# Where the driver's packages put them when they are not on PATH.
USUAL_FOLDERS = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/nvidia/bin",
    "/usr/lib/nvidia/bin",
    "/opt/nvidia/bin",
    "/run/nvidia/driver/usr/bin",
)
LONGEST_SOCKET_PATH = 107  # of sockaddr_un, without its closing zero
_SOCKET_NAME = "control_privileged"  # the longest that the daemon makes in its folder
_LOOK_S = 0.05
_LISTED_WITHIN_S = 1.0
_COMES_UP_S = 20.0  # a new daemon's, on a busy machine
_SERVER_LISTED_S = 10.0
_SERVER_STAYS_S = 0.2  # one that finds no driver ends within milliseconds
_SERVER_STARTS_S = 3.0  # one that is refused the GPU ends while it makes its context
_TURN_S = 35.0  # a client that is being ended may take half a minute
_ASK_AGAIN_S = 0.05
_ANSWERS_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsPrograms:
    """Where the two programs of MPS are. They come with the driver, not with CUDA or PyTorch."""

    control: Path
    server: Path


def find_programs(folders: Sequence[str | Path] | None = None) -> MpsPrograms:
    """Find the programs of MPS.

    Args:
        folders: Where to look; None: PATH, then the usual folders of drivers.

    Raises:
        DeviceError: One is missing; the message says where was looked.
    """
    where = [str(folder) for folder in (folders or [*os.get_exec_path(), *USUAL_FOLDERS])]
    path = os.pathsep.join(where)
    found = {name: shutil.which(name, path=path) for name in (CONTROL, SERVER)}
    missing = [name for name, at in found.items() if at is None]
    if missing:
        raise DeviceError(
            "NVIDIA MPS needs two programs that come with the driver",
            given=f"no {' and no '.join(missing)} in {', '.join(dict.fromkeys(where))}",
            hint="Install the driver's compute utilities (Debian: nvidia-compute-utils), or use green contexts.",
        )
    return MpsPrograms(control=Path(found[CONTROL] or ""), server=Path(found[SERVER] or ""))


def daemon_state(folder: str | Path, *, programs: MpsPrograms | None = None) -> str:
    """What a daemon that may run in `folder` says, in words; starts nothing and never raises."""
    if not Path(folder).is_dir():
        return f"none in {folder}"
    try:
        daemon = MpsDaemon.at(folder, "", programs=programs or find_programs())
        states = [f"server {server} {daemon.status(server)}" for server in daemon.servers()]
        clients = daemon.clients()
    except DeviceError as problem:
        return f"none answers in {folder}: {problem.given or problem.rule}"
    return f"{folder}: {', '.join(states) or 'no server'}, {len(clients)} clients"


class MpsDaemon:
    """One control daemon, private or adopted. Made by `start` or `adopt`; use as a context manager or call `stop`."""

    def __init__(
        self, *, programs: MpsPrograms, folder: Path, gpu: str, guard: _Guard | None, clock: Callable[[], float]
    ) -> None:
        """Use `start`, `adopt` or `at`."""
        self._programs = programs
        self._control = programs.control
        self._folder = folder
        self._gpu = gpu
        self._guard = guard
        self._clock = clock

    @classmethod
    def start(
        cls,
        gpu: str,
        *,
        programs: MpsPrograms | None = None,
        parent: Path | None = None,
        timeout_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> MpsDaemon:
        """Start a private daemon for one GPU.

        Args:
            gpu: The GPU's UUID ("GPU-..."): indices change with CUDA_VISIBLE_DEVICES, UUIDs do not.
            programs: Where MPS is; None looks for it.
            parent: Where its folder is made, mode 0700; None: the user's runtime folder, else the temporary folder.
            timeout_s: Until it must answer.
            clock: Seconds that only go forward.

        Raises:
            DeviceError: MPS is missing, or the daemon did not come up; the message carries what it printed.
            UsageError: The folder's path is too long for a socket.
        """
        programs = programs or find_programs()
        folder = Path(tempfile.mkdtemp(prefix="esen", dir=parent or _short_folder()))  # mkdtemp makes mode 0700
        try:
            _check_length(folder)
            guard = _Guard(programs, folder, client_environment(folder) | {"CUDA_VISIBLE_DEVICES": gpu})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        daemon = cls(programs=programs, folder=folder, gpu=gpu, guard=guard, clock=clock)
        try:
            daemon._wait_until_it_answers(timeout_s)
            daemon._start_server()
        except BaseException:
            daemon.stop()
            raise
        return daemon

    @classmethod
    def adopt(cls, folder: str | Path, gpu: str, *, programs: MpsPrograms | None = None) -> MpsDaemon:
        """Use a daemon that already runs, such as the one of a cluster; `stop` leaves it alone.

        Args:
            folder: Its CUDA_MPS_PIPE_DIRECTORY.
            gpu: The GPU's UUID.
            programs: Where MPS is; None looks for it.

        Raises:
            DeviceError: No daemon answers there.
        """
        daemon = cls.at(folder, gpu, programs=programs or find_programs())
        daemon.servers()
        return daemon

    @classmethod
    def at(cls, folder: str | Path, gpu: str, *, programs: MpsPrograms) -> MpsDaemon:
        """A daemon that somebody else keeps, without asking whether it is there."""
        return cls(programs=programs, folder=Path(folder), gpu=gpu, guard=None, clock=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where it listens: what clients have as CUDA_MPS_PIPE_DIRECTORY."""
        return self._folder

    @property
    def programs(self) -> MpsPrograms:
        """The programs of MPS."""
        return self._programs

    @property
    def gpu(self) -> str:
        """The UUID of the GPU it serves."""
        return self._gpu

    @property
    def private(self) -> bool:
        """Whether it is ours to stop."""
        return self._guard is not None

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as can be seen without asking it."""
        return self._folder.is_dir() if self._guard is None else self._guard.alive

    def environment(self, percentage: int | None = None, *, memory_bytes: int | None = None) -> dict[str, str]:
        """What a lane's process must have in its environment before it starts CUDA.

        Args:
            percentage: Its share of the GPU's compute, 1..100; fixed for the life of the process. None: no limit.
            memory_bytes: Device memory that it may pin; None: no limit.

        Raises:
            UsageError: The percentage or the memory is out of range.
        """
        wanted = client_environment(self._folder) | {"CUDA_VISIBLE_DEVICES": self._gpu}
        if percentage is not None:
            if not isinstance(percentage, int) or isinstance(percentage, bool) or not 1 <= percentage <= 100:
                raise UsageError("A share under NVIDIA MPS is a whole percentage from 1 to 100", given=percentage)
            wanted["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(percentage)
        if memory_bytes is not None:
            if memory_bytes < 1 << 20:
                raise UsageError("A memory limit under NVIDIA MPS is at least 1 MB", given=f"{memory_bytes} bytes")
            wanted["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={memory_bytes >> 20}M"
        return wanted

    # --- asking --------------------------------------------------------------------------------------------------

    def ask(self, command: str, *, timeout_s: float = 10.0) -> str:
        """Send one command; returns what the daemon answers, stripped. Asks again while its answer is lost.

        Whether an answer is an error is for the caller to see: the daemon answers both alike.

        Raises:
            DeviceError: It does not answer in time, or there is none; the message carries its words.
        """
        verb = command.split(maxsplit=1)[0]
        until = self._clock() + timeout_s
        with self._turn(verb):
            while True:
                left_s = max(0.01, until - self._clock())
                # Ending a client takes as long as its work on the device; all else is answered at once, or never.
                done = self._run_control(command, left_s if verb == "terminate_client" else min(left_s, _ANSWERS_S))
                answer = None if done is None else answer_in(done.stdout)
                if answer is not None:
                    return answer
                # Another front end, such as an administrator's, took the turn: this question was lost, or refused
                # without a word, or "Cannot send command". Where there is no daemon, it says "Cannot find".
                dead = self._guard is not None and not self._guard.alive
                nobody = done is not None and NO_DAEMON in done.stderr + done.stdout
                if dead or nobody or self._clock() >= until:
                    break
                time.sleep(_ASK_AGAIN_S)
        if done is None:
            raise DeviceError(
                f"The MPS daemon answers {verb!r} within {timeout_s:g} s", given="no answer", hint=self._what_to_do()
            )
        said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode} and no answer"
        raise DeviceError(f"The MPS daemon answers {verb!r}", given=said + self._printed(), hint=self._what_to_do())

    def _run_control(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str] | None:
        """What the control program printed; None where it had not ended in time."""
        try:
            return subprocess.run(
                [str(self._control)],
                input=f"{command}\n{LAST_QUESTION}\n",
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env={**without_mps(os.environ), **client_environment(self._folder)},
                start_new_session=True,  # a notebook's interrupt must not cut a conversation in two
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        except OSError as problem:
            raise DeviceError(f"The MPS control program can be run: {problem}", hint="Reinstall the driver.") from None

    @contextlib.contextmanager
    def _turn(self, verb: str) -> Iterator[None]:
        """Lanes that start side by side ask one after another: the daemon takes one at a time."""
        if not self._folder.is_dir():
            yield
            return
        folder = os.open(self._folder, os.O_RDONLY)  # locked itself: nothing is written into what may be another's
        try:
            until = self._clock() + _TURN_S
            while not _locked(folder):
                if self._clock() >= until:
                    raise DeviceError(
                        f"The MPS daemon is free for {verb!r} within {_TURN_S:g} s",
                        given="another question was not answered yet",
                        hint=self._what_to_do(),
                    )
                time.sleep(0.002)
            yield
        finally:
            os.close(folder)

    def servers(self) -> tuple[int, ...]:
        """Process ids of its servers (one per user; none before the first client or `start_server`)."""
        return _numbers(self.ask("get_server_list"), "get_server_list")

    def status(self, server: int) -> str:
        """One of INITIALIZING, ACTIVE and FAULT; GONE where the daemon has no such server any more."""
        said = self.ask(f"get_server_status {server}")
        if _is_gone(said, server):
            return "GONE"
        if len(said.split()) != 1 or said.isdigit():
            raise DeviceError("The MPS daemon answers 'get_server_status' with one word", given=said or "nothing")
        return said.upper()

    def clients(self) -> tuple[int, ...]:
        """Process ids of every client of every server: who is really under MPS."""
        return tuple(client for server in self.servers() for client in self._clients_of(server))

    def _clients_of(self, server: int) -> tuple[int, ...]:
        said = self.ask(f"get_client_list {server}")
        return () if _is_gone(said, server) else _numbers(said, "get_client_list")

    def _start_server(self) -> None:
        """Start a server for this user, and see that it stays.

        Raises:
            DeviceError: There is none; the message carries the daemon's own words, for it answers the same either way.
        """
        before = servers_ended(self._words())
        said = self.ask(f"start_server -uid {os.getuid()}")
        until = self._clock() + _SERVER_LISTED_S
        since: float | None = None
        while not said:
            # One that ends between two questions is listed in the first and GONE in the second.
            found = {self.status(server) for server in self.servers()} - {"GONE"}
            if not found:
                since = None
                if servers_ended(self._words()) - before or self._clock() >= until:
                    break
            else:
                since = self._clock() if since is None else since
                stays_s = _SERVER_STARTS_S if "INITIALIZING" in found else _SERVER_STAYS_S
                if self._clock() - since >= stays_s:
                    return
            time.sleep(_LOOK_S)
        raise DeviceError(
            "The MPS daemon starts a server and lists it",
            given=(said or "none is listed") + self._printed(),
            hint=f"{SERVER} is at {self._programs.server}: see whether it and libcuda are of the driver that runs.",
        )

    def check_client(self, pid: int) -> None:
        """Make sure that a lane is under MPS.

        A client that has just started may take a moment to be listed.

        Raises:
            DeviceError: It is not listed: it would run without any limit.
        """
        until = self._clock() + _LISTED_WITHIN_S
        while pid not in (listed := self.clients()):
            if self._clock() < until:
                time.sleep(_LOOK_S)
                continue
            raise DeviceError(
                "A lane under NVIDIA MPS is listed by the daemon once it has started CUDA",
                given=f"process {pid} is not among {list(listed) or 'no clients'}",
                hint="It would run without its limit. Check that it got the daemon's environment before CUDA started.",
            )

    # --- when things go wrong ------------------------------------------------------------------------------------

    def terminate(self, client: int, *, timeout_s: float = 30.0) -> bool:
        """Have a client ended in an orderly way, its work on the device first; whether the daemon did it.

        Killing a client with work in flight is undefined behaviour for the others, so this comes before any SIGKILL.
        """
        for server in self.servers():
            if client in self._clients_of(server):
                said = ""
                with contextlib.suppress(DeviceError):
                    said = self.ask(f"terminate_client {server} {client}", timeout_s=timeout_s)
                # An empty answer is a lost one, and a question that was repeated may find that the first was enough.
                return said.splitlines()[-1:] == ["0"] or (bool(said) and client not in self._clients_of(server))
        return False

    def faulted(self) -> bool:
        """Whether a client's fatal fault has stopped a server: every client on the GPU is lost then."""
        return any(self.status(server) == "FAULT" for server in self.servers())

    def recover(self, *, timeout_s: float = 20.0, tell: Callable[[str], None] | None = None) -> None:
        """Make the daemon take clients again after a fault.

        The ladder: end the clients that are left (a server in FAULT refuses new ones until all are gone), wait for the
        server to become ACTIVE or to leave, start one again; when that does not help, a private daemon is started anew.

        Args:
            timeout_s: For each rung; a daemon that is started anew gets 20 s at least.
            tell: Called with each step, in words.

        Raises:
            DeviceError: It is an adopted daemon that stays in FAULT, or a private one that does not come up again.
        """
        say = tell or _silent
        for client in self.clients():
            say(f"ending client {client}")
            self.terminate(client)
        say("waiting for the server to be usable again")
        if self._becomes_usable(timeout_s):
            if not self.servers():
                say("starting a server")
                self._start_server()
            return
        if self._guard is None:
            raise DeviceError(
                "An MPS server leaves the state FAULT once its clients are gone",
                given=f"still in FAULT after {timeout_s:g} s",
                hint="The daemon belongs to somebody else: ask them to restart it, or let esen_lab start its own.",
            )
        say("starting the daemon anew")
        self._guard.restart()
        self._wait_until_it_answers(max(timeout_s, _COMES_UP_S))
        self._start_server()

    def _becomes_usable(self, timeout_s: float) -> bool:
        deadline = self._clock() + timeout_s
        while self._clock() < deadline:
            if not self.faulted():
                return True
            time.sleep(_LOOK_S)
        return False

    def stop(self) -> None:
        """End a private daemon and remove its folder; an adopted one is left as it is. May be called again."""
        if self._guard is not None:
            self._guard.stop()

    def __enter__(self) -> MpsDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        while True:
            try:
                self.ask("get_server_list", timeout_s=max(0.1, min(5.0, deadline - self._clock())))
                return
            except DeviceError as problem:
                dead = self._guard is not None and not self._guard.alive
                if dead or self._clock() >= deadline:
                    why = "it ended" if dead else f"no answer within {timeout_s:g} s"
                    raise DeviceError(
                        "The MPS daemon comes up",
                        given=why + self._printed(),
                        hint="Another MPS daemon of this user may hold the GPU: stop it, or adopt it.",
                    ) from problem
            time.sleep(_LOOK_S)

    def _words(self) -> str:
        return "" if self._guard is None else own_words(self._guard.printed())

    def _printed(self) -> str:
        text = explained(self._words())
        return f"; it printed: {text}" if text else ""

    def _what_to_do(self) -> str:
        if self._guard is not None and not self._guard.alive:
            return "The daemon has ended: open the device again."
        return "See whether a client has faulted: python -m esen_lab doctor."


class _Guard:
    """The guard process of a private daemon, and the pipe whose end tells it to finish."""

    def __init__(self, programs: MpsPrograms, folder: Path, environment: Mapping[str, str]) -> None:
        control = str(programs.control)
        self._command = [sys.executable, "-P", "-m", "esen_lab.devices.cuda.mps_guard", control, str(folder)]
        self._folder = folder
        self._environment = child_environment({**without_mps(os.environ), **environment})
        # Control looks for the server on its own PATH alone, and says nothing where it finds none.
        where = [str(programs.server.parent), str(programs.control.parent), *os.get_exec_path()]
        self._environment["PATH"] = os.pathsep.join(dict.fromkeys(where))
        self._begin()

    def _begin(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._popen = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _finish, self._popen, self._log, self._folder)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def printed(self) -> str:
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 8000, max(0, size - 8000)).decode(errors="replace")

    def restart(self) -> None:
        self._finalizer()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._begin()

    def stop(self) -> None:
        self._finalizer()


def _finish(popen: subprocess.Popen[bytes], log: IO[bytes], folder: Path) -> None:
    """Hang up, and wait for the guard to end the daemon and itself."""
    assert popen.stdin is not None
    with contextlib.suppress(OSError):
        popen.stdin.close()
    try:
        popen.wait(timeout=15.0)
    except subprocess.TimeoutExpired:
        popen.kill()  # the daemon goes with it: see mps_guard.py
        popen.wait()
    log.close()
    _end_servers(folder)  # a daemon that went with its guard leaves its server behind
    shutil.rmtree(folder, ignore_errors=True)


def _end_servers(folder: Path) -> None:
    """End the servers of MPS of the daemon whose folder this is, known by their environment. Does nothing off Linux."""
    mark = b"CUDA_MPS_PIPE_DIRECTORY=" + os.fsencode(folder)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "cmdline").read_bytes().split(b"\0", 1)[0]
            if name.endswith(b"nvidia-cuda-mps-server") and mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def client_environment(folder: Path) -> dict[str, str]:
    """How a process finds the daemon whose folder is `folder`."""
    return {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}


def _short_folder() -> Path:
    """The user's own runtime folder where there is one: private, in memory, and short."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())


def _check_length(folder: Path) -> None:
    longest = folder / _SOCKET_NAME
    if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH:
        raise UsageError(
            f"The sockets of the MPS daemon have paths of at most {LONGEST_SOCKET_PATH} bytes",
            given=f"{longest}",
            hint="Set TMPDIR or XDG_RUNTIME_DIR to a shorter folder.",
        )


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_gone(said: str, server: int) -> bool:
    return said.startswith(f"Server {server} not found")


def _numbers(text: str, command: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split())
    except ValueError:
        raise DeviceError(f"The MPS daemon answers {command!r} with process ids", given=text) from None


def _silent(step: str) -> None:
    """Progress that nobody watches."""
