"""All tests, in two runs side by side: those that drive a browser mostly wait, so the others need not wait for them.

    python tools/run_tests.py [arguments of pytest]

With arguments there is one run, as pytest does it. What the browser's run prints comes when both are done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest"]
NOTHING_COLLECTED = 5


def main(arguments: list[str]) -> int:
    """Run the tests; returns the exit status."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    began = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        environment = {**os.environ, "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider"}
        browser = subprocess.Popen(
            [*PYTEST, "-m", "browser"], cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            others = subprocess.run([*PYTEST, "-m", "not browser"], cwd=ROOT, check=False).returncode
            print("\nThe tests that drive a browser, which ran beside these:\n", flush=True)
            drove = browser.wait()
        finally:
            if browser.poll() is None:  # an interrupt
                browser.terminate()
                browser.wait()
            printed.seek(0)
            sys.stdout.write(printed.read().decode(errors="replace"))
    print(f"\nBoth runs took {(time.monotonic() - began) / 60:.1f} minutes.")
    return others or (0 if drove == NOTHING_COLLECTED else drove)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
