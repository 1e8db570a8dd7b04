"""All tests: two runs side by side, then those that hold something to a time (marked `timing`), alone.

The second of the two has the tests with browsers, kernels and scripts of their own, which mostly wait for them.

    python tools/run_tests.py [arguments of pytest]

With arguments there is one run, as pytest does it. What the second run prints comes when the first is done.
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
UNTIMED = ["-m", "not timing"]
# About as long as all others together, on two cores.
WAITING = ("browser", "notebooks", "notebook", "export")


def main(arguments: list[str]) -> int:
    """Run the tests; returns the exit status."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    began = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        environment = {**os.environ, "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider"}
        # By what is left out: named one by one, the folders' conftest.py files would be mixed up.
        rest = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() or path.name.startswith("test_")]
        waiting = subprocess.Popen(
            [*PYTEST, *UNTIMED, *_without(sorted(set(rest) - set(WAITING)))],
            cwd=ROOT,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            others = subprocess.run([*PYTEST, *UNTIMED, *_without(WAITING)], cwd=ROOT, check=False).returncode
            print(f"\nThe tests of {', '.join(WAITING)}, which ran beside these:\n", flush=True)
            waited = waiting.wait()
        finally:
            if waiting.poll() is None:  # an interrupt
                waiting.terminate()
                waiting.wait()
            printed.seek(0)
            sys.stdout.write(printed.read().decode(errors="replace"))
    print("\nThe tests that hold something to a time, alone:\n", flush=True)
    timed = subprocess.run([*PYTEST, "-m", "timing"], cwd=ROOT, check=False).returncode
    print(f"\nAll runs took {(time.monotonic() - began) / 60:.1f} minutes.")
    return others or waited or timed


def _without(names: Iterable[str]) -> list[str]:
    return [f"--ignore=tests/{name}" for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
