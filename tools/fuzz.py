"""Spoilt files and messages: none may raise anything but an `EsenError`, none may take a second.

    make fuzz                                                  10,000 files of four kinds, 10,000 messages
    make fuzz FUZZ_ARGS="--mutants 500 --kind plan --seed 3"   some of one kind
    make fuzz FUZZ_ARGS="--kind plan --seed 3 --only 17"       one again, with its whole traceback

Each mutant depends on seed, kind and number alone. What escapes is printed with them; the exit status is 1.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from fuzz_kinds import KINDS, REFUSED, Kind  # noqa: E402  found in the path that was just set

SLOW_S = 1.0
HANGS_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Escape:
    """A mutant that did what none may."""

    kind: str
    seed: int
    number: int
    what: str
    trace: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the mutants of one kind."""

    kind: str
    tried: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    escapes: list[Escape]


class _Hangs(BaseException):
    """Raised in the middle of a mutant that does not end."""


def try_mutants(kind: str, count: int, seed: int, *, only: int | None = None) -> Tally:
    """Try so many mutants of one kind."""
    tally = Tally(kind=kind, escapes=[])
    with tempfile.TemporaryDirectory(prefix="esen-fuzz-") as folder, _quiet():
        subject = KINDS[kind](Path(folder))
        for number in range(count) if only is None else [only]:
            escape, refused, took_s = _try(subject, kind, seed, number)
            for _ in range(2):  # again: the machine may have been busy
                if escape is None and took_s > SLOW_S:
                    escape, refused, again_s = _try(subject, kind, seed, number)
                    took_s = min(took_s, again_s)
            if escape is None and took_s > SLOW_S:
                escape = Escape(kind=kind, seed=seed, number=number, what=f"took {took_s:.1f} s", trace="")
            tally.tried += 1
            tally.refused += refused
            tally.slowest_s = max(tally.slowest_s, took_s)
            tally.escapes += [] if escape is None else [escape]
    return tally


def _try(subject: Kind, kind: str, seed: int, number: int) -> tuple[Escape | None, bool, float]:
    rng = random.Random(f"{seed} {kind} {number}")  # noqa: S311  to be had again
    refused, problem = False, None
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # what is deep is made here; those who read it have the usual limit
    try:
        subject.spoil(rng)
    finally:
        sys.setrecursionlimit(usual)
    began = _clock_s()
    try:
        with _alarm(HANGS_S):
            subject.use(rng)
    except REFUSED:
        refused = True
    except KeyboardInterrupt:
        raise
    except BaseException as caught:
        problem = caught
    took_s = _clock_s() - began
    if problem is None:
        return None, refused, took_s
    what = f"{type(problem).__name__}: {str(problem)[:200]}"
    trace = "".join(traceback.format_exception(problem))[-4000:]
    return Escape(kind=kind, seed=seed, number=number, what=what, trace=trace), False, took_s


def _clock_s() -> float:
    """The time, less what this thread spent waiting for others to leave it a core, where the system tells."""
    try:
        waited_ns = int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        waited_ns = 0
    return time.perf_counter() - waited_ns / 1e9


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `_Hangs` after some time, where the system has alarms and this is the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:  # noqa: ARG001  the signal's signature
        raise _Hangs(f"still at it after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main(arguments: list[str]) -> int:
    """Try mutants of every kind; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000, help="files of all kinds together; and so many messages")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is printed")
    parser.add_argument("--kind", choices=[*KINDS], help="only this kind, all mutants of it")
    parser.add_argument("--only", type=int, help="only the mutant of this number")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    files = [kind for kind in KINDS if kind not in ("panel", "request")]
    counts = {kind: given.mutants // len(files) for kind in files} | {"panel": given.mutants, "request": given.mutants}
    if given.kind:
        counts = {given.kind: given.mutants}
    escapes = []
    for kind, count in counts.items():
        began = time.perf_counter()
        tally = try_mutants(kind, count, seed, only=given.only)
        print(
            f"{kind:7} {tally.tried:6} tried, {tally.refused} refused, {len(tally.escapes)} escaped, slowest "
            f"{tally.slowest_s:.2f} s; {time.perf_counter() - began:.0f} s in all",
            flush=True,
        )
        escapes += tally.escapes
    for escape in escapes:
        print(f'\n{escape.what}\n    FUZZ_ARGS="--kind {escape.kind} --seed {escape.seed} --only {escape.number}"')
        if given.only is not None or len(escapes) <= 3:
            print(escape.trace)
    return 1 if escapes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
