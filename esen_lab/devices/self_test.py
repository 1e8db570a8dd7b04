"""Tries one device in a process of its own, so that whatever goes wrong there stays there.

python -m esen_lab.devices.self_test "cuda:0 mps"     prints one JSON object: {"passed": ..., "text": ...}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from esen_lab.devices.offer import Verdict
from esen_lab.errors import EsenError

SELF_TEST_S = 90.0  # importing torch, starting a daemon and CUDA may take half a minute on a cold machine
_MARK = "self-test: "


def run_self_test(name: str, *, timeout_s: float = SELF_TEST_S, module: str = __name__) -> Verdict:
    """Try the device called `name` in a child process; never raises.

    Args:
        name: The device.
        timeout_s: Until it is given up and everything it has started is ended.
        module: The program to run: this one.
    """
    environment = dict(os.environ)
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), root]))
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, name],
            env=environment,
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
            # Asked first: it then ends its daemon and lanes itself. A guard and a nursery end theirs on SIGKILL too.
            child.terminate()
            try:
                child.communicate(timeout=5.0)
            except subprocess.TimeoutExpired:
                child.kill()
            return Verdict(passed=False, text=f"no result within {timeout_s:g} s")
        except BaseException:
            child.kill()
            raise
    lines = [line.removeprefix(_MARK) for line in printed.splitlines() if line.startswith(_MARK)]
    if not lines:
        last = errors.strip().splitlines()[-1:] or ["nothing printed"]
        return Verdict(passed=False, text=f"it ended with status {child.returncode}: {last[0]}")
    found = json.loads(lines[-1])
    return Verdict(passed=bool(found["passed"]), text=str(found["text"]))


def main() -> int:
    """Try the device that the command line names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` and exit hooks run
    try:
        from esen_lab.devices.catalogue import try_device

        verdict = Verdict(passed=True, text=try_device(sys.argv[1]))
    except EsenError as problem:
        verdict = Verdict(passed=False, text=" ".join(str(problem).split()))
    except Exception as problem:
        verdict = Verdict(passed=False, text=f"{type(problem).__name__}: {' '.join(str(problem).split())}")
    sys.stdout.write(_MARK + json.dumps({"passed": verdict.passed, "text": verdict.text}) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
