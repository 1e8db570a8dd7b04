"""Signals at random instants, full disks, closed descriptors, small limits: what a lab survives, counted.

    make chaos                                           two minutes
    make chaos CHAOS_ARGS="--minutes 20 --seed 7"        longer, other instants
    make chaos CHAOS_ARGS="--scenario interrupts --seed 7 --lives 1"    one again
    make chaos CHAOS_ARGS="--write docs/reliability.md"  put the table there

Each life of a driver (`chaos_driver.py`) has a seed, which is printed; what it does and when signals come depends on
it, as far as the machine's timing allows. The exit status is 1 where something was broken, lost, wrong or left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from marked_page import Marks  # noqa: E402

MARK = "ESEN_LAB_CHAOS"
SILENT_S = 90.0  # without an event for so long, it hangs
LIFE_S = 20.0
FAULTS = ("wrong", "broken", "escaped", "lost", "hung", "orphans", "files")
MARKS = Marks(name="chaos", title="Reliability")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the lives of one scenario."""

    scenario: str
    lives: int = 0
    signals: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, str]] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is done to a driver.

    Attributes:
        about: For the table.
        signals: What is sent to whom, each as often as it stands here.
        arguments: For the driver.
        closed: Which descriptors it starts without.
        beside: How many drivers live at once.
        small_disk: Whether its store lies on a disk of 96 KiB.
        ends: Whether a signal ends the driver itself.
    """

    about: str
    signals: tuple[tuple[str, signal.Signals], ...] = ()
    arguments: tuple[str, ...] = ()
    closed: tuple[int, ...] = ()
    beside: int = 1
    small_disk: bool = False
    ends: bool = False


_INT = ("main", signal.SIGINT)
_CHILDREN = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP)
SCENARIOS = {
    "interrupts": Scenario(about="Ctrl-C at random instants of everything", signals=(_INT,)),
    "workers": Scenario(about="lanes: KILL, TERM, SEGV, STOP", signals=tuple(("worker", sign) for sign in _CHILDREN)),
    "fork_server": Scenario(
        about="the fork server: the same", signals=tuple(("fork_server", sign) for sign in _CHILDREN)
    ),
    "mixed": Scenario(
        about="all of these at once",
        signals=(_INT, _INT, *((who, sign) for who in ("worker", "fork_server") for sign in _CHILDREN)),
    ),
    "parent": Scenario(
        about="the notebook's process: KILL, TERM",
        signals=(("main", signal.SIGKILL), ("main", signal.SIGTERM)),
        ends=True,
    ),
    "disk": Scenario(about="a disk that is full", small_disk=True),
    "file size": Scenario(about="no file above 1 MiB (ulimit -f)", arguments=("--limit", "fsize=1048576")),
    "closed": Scenario(about="descriptors 0, 1, 2 closed", closed=(0, 1, 2)),
    "descriptors": Scenario(about="at most 40 descriptors", arguments=("--limit", "nofile=40")),
    "processes": Scenario(about="no further process (ulimit -u)", arguments=("--limit", "nproc=1")),
    "two stores": Scenario(about="two labs with two stores at once", beside=2, arguments=("--only", "profile,run")),
}


class Life:
    """One driver, and what it leaves."""

    def __init__(self, scenario: Scenario, seed: int, tally: Tally) -> None:
        self.scenario = scenario
        self.seed = seed
        self.tally = tally
        self.chance = random.Random(seed)  # noqa: S311  no secret
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="esen-chaos-"))
        self.stopped: list[int] = []

    def run(self, seconds: float) -> None:
        """Live it to its end, then look for what is left."""
        tally = self.tally
        tally.lives += 1
        (self.folder / "store").mkdir()
        mounted = False
        try:
            if self.scenario.small_disk:
                mounted = _mount_small(self.folder / "store")
                if not mounted:
                    tally.skipped = "needs leave to mount"
                    return
            drivers = [self.start(self.folder / f"driver{number}", seconds) for number in range(self.scenario.beside)]
            for driver in drivers:
                self.follow(*driver, seconds)
            for _, folder in drivers:
                self.count(folder)
            if self.scenario.ends or self.scenario.signals:
                for _, folder in drivers:
                    self.verify(folder)
            self.look_for_the_left()
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(self.folder / "store")], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, folder: Path, seconds: float, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A driver in a folder of its own."""
        folder.mkdir(exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        store = folder / "store"
        if not store.exists():
            store.symlink_to(self.folder / "store") if self.scenario.small_disk else store.mkdir()
        environment = {
            **os.environ,
            MARK: self.mark,
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder),
            "ESEN_LAB_HOME": str(folder / "home"),
            "ESEN_LAB_LOCKS": str(self.folder / "locks"),
        }
        (self.folder / "locks").mkdir(exist_ok=True)
        closed = "".join(f" {fd}>&-" if fd else " 0<&-" for fd in self.scenario.closed) if not more else ""
        arguments = [str(folder), str(self.seed), str(seconds), *(more or self.scenario.arguments)]
        command = ["sh", "-c", f'exec "$@"{closed}', "sh", sys.executable, str(HERE / "chaos_driver.py"), *arguments]
        with open(folder / "printed", "ab") as printed:
            driver = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        return driver, folder

    def follow(self, driver: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
        """Send signals until it ends."""
        events = folder / "events"
        until = time.monotonic() + seconds
        while driver.poll() is None and not (events.exists() and events.stat().st_size):
            time.sleep(0.02)  # it imports torch
            if time.monotonic() > until + SILENT_S:
                break
        until = time.monotonic() + seconds
        if self.scenario.ends:
            time.sleep(self.chance.random() * seconds)
        while driver.poll() is None:
            time.sleep(self.chance.choice([0.002, 0.05, 0.2, 0.5]) * self.chance.random() * 2)
            self.go_on()
            if self.scenario.signals and time.monotonic() < until:
                who, sign = self.chance.choice(self.scenario.signals)
                # Lanes that are killed again and again while they start are no lab that stays broken.
                if who == "main" or not (folder / "recovering").exists():
                    self.send(driver.pid, who, sign)
            if time.time() - events.stat().st_mtime > SILENT_S:
                self.hangs(driver, folder)
        self.go_on()

    def send(self, main: int, who: str, sign: signal.Signals) -> None:
        """One signal, where there is somebody to send it to."""
        fork_servers = [pid for pid in _children(main) if b"fork_server_main" in _command(pid)]
        pids = {"main": [main], "fork_server": fork_servers, "worker": [w for n in fork_servers for w in _children(n)]}[
            who
        ]
        if not pids:
            return
        pid = self.chance.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
            self.tally.signals[f"{sign.name} to {who}"] += 1
            if sign is signal.SIGSTOP:
                self.stopped.append(pid)
        if self.scenario.ends:
            time.sleep(0.5)
        elif sign is not signal.SIGINT:
            time.sleep(self.chance.random() * 2)

    def go_on(self) -> None:
        """Let those that were stopped go on."""
        while self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.stopped.pop(), signal.SIGCONT)

    def hangs(self, driver: subprocess.Popen[bytes], folder: Path) -> None:
        """It says nothing any more: where it is, and its end."""
        with contextlib.suppress(ProcessLookupError):
            driver.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            stacks = (folder / "stacks").read_text() if (folder / "stacks").exists() else ""
            self.fault("hung", stacks[-6000:])
            driver.kill()
        driver.wait()

    def count(self, folder: Path) -> None:
        """What it wrote down."""
        if not (folder / "events").exists():
            self.fault("escaped", (folder / "printed").read_text(errors="replace")[-3000:])
            return
        ended = False
        for line in (folder / "events").read_bytes().splitlines():
            event = json.loads(line)
            self.tally.events[event["event"]] += 1
            ended = ended or event["event"] == "ended"
            if event["event"] in FAULTS:
                self.fault(event["event"], f"{event['what']}: {event['more']}", counted=True)
        if not ended and not self.scenario.ends and "hung" not in [fault["kind"] for fault in self.tally.faults]:
            self.fault("escaped", "it ended early: " + (folder / "printed").read_text(errors="replace")[-3000:])

    def verify(self, folder: Path) -> None:
        """Every point that was told to be stored is in the store."""
        before = (folder / "events").read_text().count('"lost"') if (folder / "events").exists() else 0
        driver, _ = self.start(folder, 1.0, "--verify")
        try:
            driver.wait(SILENT_S)
        except subprocess.TimeoutExpired:
            self.hangs(driver, folder)
            return
        for line in (folder / "events").read_text().splitlines()[before:]:
            event = json.loads(line)
            if event["event"] == "lost":
                self.fault("lost", event["what"])

    def look_for_the_left(self) -> None:
        """Processes and temporary files."""
        patience = time.monotonic() + 60.0
        while (pids := _marked(self.mark)) and time.monotonic() < patience:
            time.sleep(0.05)
        for pid in pids:
            self.fault("orphans", _command(pid).replace(b"\0", b" ").decode(errors="replace"))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        left = [
            path for path in self.folder.glob("driver*/tmp/*") if not path.name.startswith(("pymp-", "torchinductor_"))
        ]
        for path in left:
            self.fault("files", path.name)

    def fault(self, kind: str, words: str, *, counted: bool = False) -> None:
        """Something that must not be."""
        if not counted:
            self.tally.events[kind] += 1
        self.tally.faults.append({"seed": str(self.seed), "kind": kind, "words": words})
        print(f"  {kind.upper()} (seed {self.seed}): {words[:1500]}", flush=True)


def _mount_small(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    return []


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _marked(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def table(tallies: list[Tally]) -> str:
    """For people: what was done, survived, lost, left behind."""
    rows = [
        "| what was done | lives | signals | Ctrl-C that took effect | calls done | failed and said so "
        "| broken or hung | wrong answers | lost points | escaped errors | left behind |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tally in tallies:
        e = tally.events
        if tally.skipped:
            rows.append(f"| {SCENARIOS[tally.scenario].about} | skipped: {tally.skipped} |" + " |" * 9)
            continue
        cells = [
            SCENARIOS[tally.scenario].about,
            tally.lives,
            sum(tally.signals.values()),
            e["interrupted"],
            e["done"],
            e["failed"] + e["refused"],
            e["broken"] + e["hung"],
            e["wrong"],
            e["lost"],
            e["escaped"],
            e["orphans"] + e["files"],
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def chaos(names: list[str], seed: int, seconds: float, *, lives: int = 0, life_s: float = LIFE_S) -> list[Tally]:
    """Live through the scenarios in turn, for so long or so many lives each."""
    tallies = {name: Tally(scenario=name) for name in names}
    deadline = time.monotonic() + seconds
    number = 0
    more: Callable[[], bool] = (lambda: number < lives) if lives else (lambda: time.monotonic() < deadline)
    while more() or number == 0:
        for name in names:
            if number and not more():
                break
            tally = tallies[name]
            if tally.skipped or (number and not SCENARIOS[name].signals):
                continue  # one life of it tells as much as two
            own = seed + number
            print(f"{name}, seed {own}", flush=True)
            Life(SCENARIOS[name], own, tally).run(life_s)
        number += 1
    return list(tallies.values())


def main() -> int:
    """Do it, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--lives", type=int, default=0, help="so many of each scenario, however long it takes")
    parser.add_argument("--life", type=float, default=LIFE_S, metavar="S", help="seconds of one life")
    parser.add_argument("--json", type=Path, help="write the counts and faults there")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    given = parser.parse_args()
    names = given.scenario or list(SCENARIOS)
    print(f"seed {given.seed}")
    tallies = chaos(names, given.seed, given.minutes * 60, lives=given.lives, life_s=given.life)
    text = table(tallies)
    print(text)
    if given.json:
        found = [
            {
                "scenario": t.scenario,
                "lives": t.lives,
                "signals": dict(t.signals),
                "events": dict(t.events),
                "faults": t.faults,
                "skipped": t.skipped,
            }
            for t in tallies
        ]
        given.json.write_text(json.dumps({"seed": given.seed, "scenarios": found}, indent=1), encoding="utf-8")
    if given.write:
        MARKS.write(given.write, text)
    return 1 if any(tally.faults for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
