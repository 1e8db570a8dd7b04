"""The tests: two runs side by side, then those that hold something to a time (marked `timing`), alone.

    python tools/run_tests.py                         everything but the tests marked `slow`
    python tools/run_tests.py --all                   everything
    python tools/run_tests.py [arguments of pytest]   one run, as pytest does it

The second of the two has the tests with browsers, kernels and scripts of their own, which mostly wait for them, those
that only compute, and programs in processes of their own: few tests that hold lanes to cores run side by side. What the
second run prints comes when the first is done. Tests of backends come after both, in a process of their own: engines
leave threads in it. Each run lists what took more than ten seconds: such a test is to be marked `slow`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest"]
DURATIONS = ["--durations=20", "--durations-min=10"]
WAITING = ("browser", "notebooks", "ui", "export")
BACKENDS = "lanes/backends"
COMPUTING = ("common", "cost_model", "ensemble", "files", "history", "planner", "project")
PROGRAMS = ("benchmarks", "tools")


def main(arguments: list[str]) -> int:
    """Run the tests; returns the exit status."""
    if arguments not in ([], ["--all"]):
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    kind = "" if arguments else " and not slow"
    untimed = [*PYTEST, *DURATIONS, "-m", f"not timing{kind}"]
    beside = WAITING + COMPUTING + PROGRAMS
    began = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        environment = {**os.environ, "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider"}
        # By what is left out: named one by one, the folders' conftest.py files would be mixed up.
        rest = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() or path.name.startswith("test_")]
        second = subprocess.Popen(
            [*untimed, *_without(sorted(set(rest) - set(beside)))],
            cwd=ROOT,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            others = subprocess.run([*untimed, *_without((*beside, BACKENDS))], cwd=ROOT, check=False).returncode
            print(f"\nThe tests of {', '.join(beside)}, which ran beside these:\n", flush=True)
            beside_status = second.wait()
        finally:
            if second.poll() is None:  # an interrupt
                second.terminate()
                second.wait()
            printed.seek(0)
            sys.stdout.write(printed.read().decode(errors="replace"))
    print("\nThe tests of backends, whose engines leave threads in the process that loads them:\n", flush=True)
    engines = subprocess.run([*untimed, f"tests/{BACKENDS}"], cwd=ROOT, check=False).returncode
    print("\nThe tests that hold something to a time, alone:\n", flush=True)
    timed = subprocess.run([*PYTEST, *DURATIONS, "-m", f"timing{kind}"], cwd=ROOT, check=False).returncode
    print(f"\nAll runs took {(time.monotonic() - began) / 60:.1f} minutes.")
    return others or beside_status or engines or timed


def _without(names: Iterable[str]) -> list[str]:
    return [f"--ignore=tests/{name}" for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
