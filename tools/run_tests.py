"""The tests: two runs side by side, then those that hold something to a time (marked `timing`), alone.

    python tools/run_tests.py                         everything but the tests marked `slow`
    python tools/run_tests.py --all                   everything
    python tools/run_tests.py [arguments of pytest]   one run, as pytest does it

The second of the two has the tests with browsers, kernels and scripts of their own, which mostly wait for them, those
that only compute, and programs in processes of their own: few tests that hold lanes to cores run side by side. After it
come the tests of backends, in a process of their own: engines leave threads in it. What these print comes when the
first is done. Each run lists what took more than ten seconds: such a test is to be marked `slow`.

With `--all`, a few tests that fail are run a second time, each file in a process of its own, with nothing beside it.
What passes then depends on what else the machine did: it is listed as unsteady, below its first failure, and does not
fail the whole. More than a few do, and a run that broke off, and whatever a test leaves behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest"]
DURATIONS = ["--durations=20", "--durations-min=10"]
WAITING = ("browser", "notebooks", "ui", "export")
BACKENDS = "lanes/backends"
COMPUTING = ("common", "cost_model", "ensemble", "files", "history", "planner", "project")
PROGRAMS = ("benchmarks", "tools")
FAILED = "ESEN_LAB_TESTS_FAILED"  # names the file that tests/conftest.py writes into: the phase and id of what failed
MOST_TRIED_AGAIN = 5
_DONE = (0, 1)  # statuses of pytest: tests passed, or some failed


class Following(threading.Thread):
    """Runs commands one after the other.

    Args:
        commands: A title and the words of each.
        environment: Theirs.
        printed: Where titles and output go.

    Attributes:
        statuses: Their exit statuses.
    """

    def __init__(
        self, commands: Sequence[tuple[str, list[str]]], environment: Mapping[str, str], printed: IO[bytes]
    ) -> None:
        super().__init__()
        self._commands = commands
        self._environment = environment
        self._printed = printed
        self._stopped = False
        self._running: subprocess.Popen[bytes] | None = None
        self.statuses: list[int] = []

    def run(self) -> None:
        """See the class."""
        for title, words in self._commands:
            if self._stopped:
                return
            self._printed.write(f"\n{title}\n\n".encode())
            self._printed.flush()
            self._running = subprocess.Popen(
                words, cwd=ROOT, env=self._environment, stdout=self._printed, stderr=subprocess.STDOUT
            )
            self.statuses.append(self._running.wait())

    def stop(self) -> None:
        """End what runs, and begin no more; at once where all is done."""
        self._stopped = True
        while self.is_alive():
            if self._running is not None:
                self._running.terminate()
            self.join(timeout=0.1)


def main(arguments: list[str]) -> int:
    """Run the tests; returns the exit status."""
    if arguments not in ([], ["--all"]):
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r", prefix="esen-failed-") as failed:
        status = _all(arguments, {**os.environ, FAILED: failed.name})
        status = status if status != 1 or not arguments else _again(failed.read().splitlines())
    print(f"\nAll runs took {(time.monotonic() - began) / 60:.1f} minutes.")
    return status


def _all(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run everything that these arguments name; returns the worst exit status."""
    kind = "" if arguments else " and not slow"
    untimed = [*PYTEST, *DURATIONS, "-m", f"not timing{kind}"]
    beside = WAITING + COMPUTING + PROGRAMS
    with tempfile.TemporaryFile() as printed:
        uncached = {**environment, "PYTEST_ADDOPTS": f"{environment.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider"}
        # By what is left out: named one by one, the folders' conftest.py files would be mixed up.
        rest = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() or path.name.startswith("test_")]
        following = [
            (f"The tests of {', '.join(beside)}", _without(sorted(set(rest) - set(beside)))),
            (
                "The tests of backends, whose engines leave threads in the process that loads them",
                [f"tests/{BACKENDS}"],
            ),
        ]
        second = Following([(f"{title}:", [*untimed, *which]) for title, which in following], uncached, printed)
        second.start()
        try:
            others = _status([*untimed, *_without((*beside, BACKENDS))], environment)
            print("\nWhat ran beside these.", flush=True)
            second.join()
        finally:
            second.stop()  # of an interrupt
            printed.seek(0)
            sys.stdout.write(printed.read().decode(errors="replace"))
    print("\nThe tests that hold something to a time, alone:\n", flush=True)
    timed = _status([*PYTEST, *DURATIONS, "-m", f"timing{kind}"], environment)
    statuses = [others, *second.statuses, timed]
    return next((status for status in statuses if status not in _DONE), max(statuses))


def _again(failed: Sequence[str]) -> int:
    """Run tests that failed once more, alone; returns the exit status of it all."""
    phases = {name: phase for phase, name in (line.split(" ", 1) for line in failed)}
    if not 0 < len(phases) <= MOST_TRIED_AGAIN or "teardown" in phases.values():
        return 1
    print("\nWhat failed, once more and alone:\n", flush=True)
    for _, ids in groupby(sorted(phases), key=lambda name: name.partition("::")[0]):
        status = _status([*PYTEST, *DURATIONS, *ids], os.environ)
        if status:
            return status
    print("\nUNSTEADY: failed at first (above) and passed alone. Look into what they depend on:")
    print("".join(f"    {name}\n" for name in sorted(phases)), flush=True)
    return 0


def _status(words: Sequence[str], environment: Mapping[str, str]) -> int:
    return subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode


def _without(names: Iterable[str]) -> list[str]:
    return [f"--ignore=tests/{name}" for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
