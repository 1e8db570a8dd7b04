"""Keeps a control daemon of NVIDIA MPS for exactly as long as the process that asked for it lives.

The daemon runs in the foreground as this process's child. Who dies, and what follows:

    1. The notebook's process, even by SIGKILL: standard input ends here; the daemon is asked to quit, then ended.
    2. This process: the kernel ends the daemon (PR_SET_PDEATHSIG). Its server stays: the notebook's process ends it.
    3. The daemon: this process leaves with status 1, which the notebook's process sees.

Usage: python -m esen_lab.devices.cuda.mps_guard CONTROL_PROGRAM FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_QUIT_S = 3.0
_LOOK_MS = 200


def main() -> int:
    """Run the daemon until standard input ends or the daemon does."""
    control, folder = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = os.getpid()
    libc = ctypes.CDLL(None)  # before the fork: the child must not import or load anything

    def die_with_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)

    daemon = subprocess.Popen(
        [control, "-f"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_guard if sys.platform == "linux" else None,  # noqa: PLW1509  this process has one thread
    )
    try:
        line = select.poll()
        line.register(0, select.POLLIN | select.POLLHUP)
        while daemon.poll() is None:
            if line.poll(_LOOK_MS) and not os.read(0, 4096):
                return 0
        sys.stderr.write(f"the daemon left with status {daemon.returncode}\n")
        return 1
    finally:
        _end(control, daemon)
        shutil.rmtree(folder, ignore_errors=True)


def _end(control: str, daemon: subprocess.Popen[bytes]) -> None:
    """Ask it to quit, then terminate, then kill it and all it has started."""
    asked = False
    if daemon.poll() is None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([control], input=b"quit\n", timeout=_QUIT_S, check=False, stdout=subprocess.DEVNULL)
            asked = True
    for act in (None, signal.SIGTERM, signal.SIGKILL) if asked else (signal.SIGTERM, signal.SIGKILL):
        if act is not None:
            with contextlib.suppress(OSError):
                os.killpg(daemon.pid, act)
        try:
            daemon.wait(timeout=_QUIT_S if act is None else 2.0)
            break
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(OSError):  # servers that outlived it
        os.killpg(daemon.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
