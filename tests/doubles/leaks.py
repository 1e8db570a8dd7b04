"""What a test may leave behind: nothing. Snapshots of processes, threads, files, descriptors and switches of torch.

A snapshot takes well under a millisecond. Only when two differ is it worth waiting for what is about to end.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SHARED = Path("/dev/shm")
MARK = "ESEN_LAB_TEST_RUN"  # in the environment of every process that a test starts, however deep
PATIENCE_S = 30.0  # what ends by itself takes its time on a machine with other work
# Libraries open a few descriptors once and keep them (an epoll, a random device, a pipe to wake a loop).
MORE_DESCRIPTORS = 6
CUDAS_DESCRIPTORS = 200  # the driver's: devices, events, memory that is mapped; opened when CUDA starts, for good
# Made once by the standard library, torch and joblib (what estimators of tests compute with), and kept for the life of
# the process.
KEPT_FILES = ("pymp-", "torchinductor_", "ipython_", "pytest-", "cuda.shm.", "joblib_memmapping_folder_", "sem.loky-")
# Libraries change these when they are imported, for good; torch.compile the last one.
KEPT_SWITCHES = (
    "methods put into torch.nn.Module",
    "functions put into torch.nn.functional",
    "Python's recursion limit",
)
KEPT_PROCESSES = ("multiprocessing.resource_tracker", "joblib.externals.loky")
KEPT_PIDS: set[int] = set()  # of those that tests keep from one to the next: see `kept_helpers.py`


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What belongs to this process at one moment; each maps an identity to words about it."""

    processes: Mapping[int, str]
    threads: Mapping[int, str]
    files: Mapping[str, str]
    descriptors: Mapping[int, str]
    cuda: bool = False  # whether CUDA has been started in this process
    switches: Mapping[str, Any] = field(default_factory=dict)  # of torch, Python and NumPy; empty where none is loaded


def take() -> Snapshot:
    """What is there now."""
    return Snapshot(
        processes=dict.fromkeys(set(_children(os.getpid())) - KEPT_PIDS, ""),
        threads={
            thread.ident or 0: thread.name
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread()
        },
        files={**_listed(Path(tempfile.gettempdir())), **_listed(SHARED)},
        descriptors=_descriptors(),
        cuda=_cuda_started(),
        switches=_switches(),
    )


def left_since(before: Snapshot, patience_s: float = PATIENCE_S) -> list[str]:
    """What is there that was not there before, in words; [] when nothing is, or when it is gone within `patience_s`."""
    deadline = time.monotonic() + patience_s
    pause = 0.001
    while found := _difference(before, take()):
        if time.monotonic() >= deadline:
            break
        gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return found


def _difference(before: Snapshot, after: Snapshot) -> list[str]:
    found = []
    for pid in after.processes.keys() - before.processes.keys():
        words = _command(pid)
        if words and not any(kept in words for kept in KEPT_PROCESSES):
            found.append(f"process {pid}: {words}")
    found += [f"thread {name!r}" for key, name in after.threads.items() if key not in before.threads]
    for path in after.files.keys() - before.files.keys():
        if not Path(path).name.startswith(KEPT_FILES) and _is_ours(Path(path)):
            found.append(f"file {path}")
    opened = {key: name for key, name in after.descriptors.items() if before.descriptors.get(key) != name}
    allowed = MORE_DESCRIPTORS + (CUDAS_DESCRIPTORS if after.cuda and not before.cuda else 0)
    if len(after.descriptors) - len(before.descriptors) > allowed:
        found += [f"open descriptor {key}: {name or _target(key)}" for key, name in sorted(opened.items())]
    found += [
        f"switch: {name} is {after.switches[name]!r}, was {was!r}"
        for name, was in before.switches.items()
        if name in after.switches and after.switches[name] != was and name not in KEPT_SWITCHES
    ]
    return found


def _switches() -> Mapping[str, Any]:
    """What later tests would compute with, in this process and thread."""
    if "torch" not in sys.modules:
        return {}
    from esen_lab.lanes.settings import SessionSettings

    return SessionSettings().now().values


def orphans(mark: str) -> list[str]:
    """Processes anywhere on this machine that carry `mark`, other than this one and those that may stay."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get(MARK) != mark:
                continue
            words = " ".join(process.cmdline())
        except (psutil.Error, OSError):
            continue
        if words and not any(kept in words for kept in KEPT_PROCESSES):
            found.append(f"process {process.pid}: {words[:200]}")
    return found


def _children(pid: int) -> list[int]:
    if sys.platform != "linux":
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    # Much faster than looking at every process of the machine.
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for task in tasks:
            try:
                words = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
            except OSError:
                continue
            waiting += (children := [int(word) for word in words])
            found += children
    return found


def still_alive(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that have not ended within `within_s` seconds.

    An orphan that has ended but not been waited for counts as ended: waiting is the system's first process's business,
    which takes its time on a busy machine and in some containers never does it.
    """
    deadline = time.monotonic() + within_s
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "a zombie: it ended and nobody waited for it"
        return " ".join(process.cmdline())[:200] or process.name()
    except psutil.Error:
        return ""


def _listed(folder: Path) -> dict[str, str]:
    try:
        return {str(folder / name): "" for name in os.listdir(folder)}
    except OSError:
        return {}


def _is_ours(path: Path) -> bool:
    """Whether a file in a folder that all programs share may come from here: it is not held by a foreign process."""
    if path.parent != SHARED:
        return path.exists()
    try:
        if path.stat().st_uid != os.getuid():
            return False
    except OSError:
        return False
    family = {os.getpid(), *_children(os.getpid())}
    for process in psutil.process_iter():
        try:
            if process.pid not in family and str(path) in Path(f"/proc/{process.pid}/maps").read_text():
                return False
        except OSError:
            continue
    return path.exists()


def _cuda_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _descriptors() -> dict[int, str]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return {int(name): "" for name in os.listdir(folder)}
        except OSError:
            continue
    return {}


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "closed meanwhile"
