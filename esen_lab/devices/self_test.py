"""Tries one device in a process of its own, so that whatever goes wrong there stays there."""

from __future__ import annotations

import json
import subprocess
import sys

from esen_lab.common.children import child_environment
from esen_lab.devices.offer import Verdict

SELF_TEST_S = 90.0  # importing torch, starting a daemon and CUDA may take half a minute on a cold machine
MARK = "self-test: "
"""Before the line that the program prints: one JSON object, {"passed": ..., "text": ...}."""
_PROGRAM = "esen_lab.devices.self_test_program"


def run_self_test(name: str, *, timeout_s: float = SELF_TEST_S, module: str = _PROGRAM) -> Verdict:
    """Try the device called `name` in a child process; never raises.

    Args:
        name: The device.
        timeout_s: Until it is given up and everything it has started is ended.
        module: The program to run.
    """
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, name],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as problem:
        return Verdict(passed=False, text=f"it could not be started: {problem}")
    with child:
        try:
            printed, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # Asked first: it then ends its daemon and lanes itself. Guards and fork servers end theirs on SIGKILL too.
            child.terminate()
            try:
                child.communicate(timeout=5.0)
            except subprocess.TimeoutExpired:
                child.kill()
            return Verdict(passed=False, text=f"no result within {timeout_s:g} s")
        except BaseException:
            child.kill()
            raise
    lines = [line.removeprefix(MARK) for line in printed.splitlines() if line.startswith(MARK)]
    if not lines:
        last = errors.strip().splitlines()[-1:] or ["nothing printed"]
        return Verdict(passed=False, text=f"it ended with status {child.returncode}: {last[0]}")
    try:
        found = json.loads(lines[-1])
        return Verdict(passed=bool(found["passed"]), text=str(found["text"]))
    except (ValueError, KeyError, TypeError):  # it was ended while it printed
        return Verdict(passed=False, text=f"it ended with status {child.returncode} in the middle of its verdict")
