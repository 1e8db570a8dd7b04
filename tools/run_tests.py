"""The tests: two processes side by side, then those that hold something to a time (marked `timing`), alone.

    python tools/run_tests.py                         everything but the tests marked `slow`
    python tools/run_tests.py --all                   everything
    python tools/run_tests.py [arguments of pytest]   one run, as pytest does it

The two share one list of modules (tests/conftest.py): whoever is free takes the next one, the first from its beginning,
where the rooms are that hold lanes to cores, the second from its end, where tests mostly wait for browsers, kernels and
scripts of their own, and before them those that only compute: few tests that hold lanes to cores run side by side, and
none of the two is done long before the other. The second begins with the tests of backends, in a process of their own:
engines leave threads in it. What it prints comes when the first is done. Each lists what took more than ten seconds:
such a test is to be marked `slow`.

With `--all`, a few tests that fail are run a second time, each file in a process of its own, with nothing beside it.
What passes then depends on what else the machine did: it is listed as unsteady, below its first failure, and does not
fail the whole. More than a few do, and a run that broke off, and whatever a test leaves behind.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest"]
DURATIONS = ["--durations=20", "--durations-min=10"]
WAITING = ("browser", "notebooks", "ui", "export")
BACKENDS = "lanes/backends"
COMPILED = ("esen_lab", "tests/doubles")
COMPUTING = ("common", "cost_model", "ensemble", "files", "history", "planner", "project")
PROGRAMS = ("benchmarks", "tools")
FAILED = "ESEN_LAB_TESTS_FAILED"  # names the file that tests/conftest.py writes into: the phase and id of what failed
SHARED = "ESEN_LAB_TESTS_SHARED"  # tells it how two processes share the modules
MOST_TRIED_AGAIN = 5
_DONE = (0, 1)  # statuses of pytest: tests passed, or some failed


class Following(threading.Thread):
    """Runs commands one after the other.

    Args:
        commands: A title, the words and the environment of each.
        printed: Where titles and output go.

    Attributes:
        statuses: Their exit statuses.
    """

    def __init__(self, commands: Sequence[tuple[str, list[str], Mapping[str, str]]], printed: IO[bytes]) -> None:
        super().__init__()
        self._commands = commands
        self._printed = printed
        self._stopped = False
        self._running: subprocess.Popen[bytes] | None = None
        self.statuses: list[int] = []

    def run(self) -> None:
        """See the class."""
        for title, words, environment in self._commands:
            if self._stopped:
                return
            self._printed.write(f"\n{title}\n\n".encode())
            self._printed.flush()
            self._running = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=self._printed, stderr=subprocess.STDOUT
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
    for folder in COMPILED:  # once: where PYTHONDONTWRITEBYTECODE is set, each of hundreds of processes would do so
        compileall.compile_dir(ROOT / folder, quiet=2)
    with tempfile.NamedTemporaryFile("r", prefix="esen-failed-") as failed:
        status = _all(arguments, {**os.environ, FAILED: failed.name})
        status = status if status != 1 or not arguments else _again(failed.read().splitlines())
    print(f"\nAll runs took {(time.monotonic() - began) / 60:.1f} minutes.")
    return status


def _all(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run everything that these arguments name; returns the worst exit status."""
    kind = "" if arguments else " and not slow"
    untimed = [*PYTEST, *DURATIONS, "-m", f"not timing{kind}"]
    names = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() or path.name.startswith("test_")}
    rooms = [*sorted(names - {*COMPUTING, *PROGRAMS, *WAITING}), *COMPUTING, *PROGRAMS, *WAITING]
    # By what is left out: named one by one, the folders' conftest.py files would be mixed up.
    every = [*untimed, f"--ignore=tests/{BACKENDS}"]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryDirectory(prefix="esen-shared-") as taken:
        uncached = {**environment, "PYTEST_ADDOPTS": f"{environment.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider"}
        first, last = ({SHARED: json.dumps({"rooms": rooms, "end": end, "taken": taken})} for end in ("first", "last"))
        following = [
            (
                "The tests of backends, whose engines leave threads in the process that loads them:",
                [*untimed, f"tests/{BACKENDS}"],
                uncached,
            ),
            ("The modules from the end of the list:", every, {**uncached, **last}),
        ]
        second = Following(following, printed)
        second.start()
        try:
            others = _status(every, {**environment, **first})
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
