"""What `make chaos` does things to: a program that uses a lab as a user would, and checks every answer by plain torch.

    python tools/chaos_driver.py FOLDER SEED SECONDS [--limit nofile=40] [--only run,profile]

Events go to FOLDER/events, one JSON line each: began, done, interrupted, refused, failed, wrong, broken,
escaped, stored, lost, ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import EsenError, UsageError
from esen_lab.planner.plan import Lane
from esen_lab.profiler import stored_profile

X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "fsize": resource.RLIMIT_FSIZE}
ATTEMPTS = 4  # a lane that was killed fails one run; the next starts it anew


def network(seed: int) -> nn.Module:
    """A small one, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8)).eval()


class Driver:
    """One life of a user."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)  # noqa: S311  no secret
        self.events = os.open(folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.lab = Lab(device="cpu", store=folder / "store" / "profiles.sqlite")
        self.networks = {seed: network(seed) for seed in (1, 2, 3)}
        self.first = 1  # the seed of the network that "a" is
        self.maybe: int | None = None  # the other one that it may be, after an interrupt

    def tell(self, event: str, what: str, more: str = "") -> None:
        """Write an event down."""
        line = json.dumps({"event": event, "what": what, "more": more, "at": round(time.time(), 4)}) + "\n"
        os.write(self.events, line.encode())

    def answer(self, x: torch.Tensor, first: int) -> torch.Tensor:
        """What plain torch answers."""
        with torch.inference_mode():
            return torch.stack([self.networks[first](x), self.networks[2](x)]).mean(0)

    def check(self, x: torch.Tensor, y: torch.Tensor, what: str) -> None:
        """Compare with plain torch."""
        for first in [self.first] + ([] if self.maybe is None else [self.maybe]):
            if y.shape == (len(x), 8) and torch.allclose(y, self.answer(x, first), rtol=1e-4, atol=1e-5):
                self.first, self.maybe = first, None
                return
        self.tell("wrong", what)

    # --- what a user does ---

    def register(self) -> None:
        """Replace a sub-model."""
        self.maybe = 4 - self.first
        self.lab.register("a", self.networks[self.maybe], example=X)
        self.first, self.maybe = self.maybe, None

    def both(self) -> None:
        """Have both registered, as after a restart."""
        if "a" not in self.lab.ensemble.names:
            self.lab.register("a", self.networks[self.first], example=X)
        if "b" not in self.lab.ensemble.names:
            self.lab.register("b", self.networks[2])

    def profile(self) -> None:
        """Measure in the background, and wait."""
        job = self.lab.job
        if job is not None and not job.done:
            job.cancel()
            job.wait(30)
        # Mostly eager: an engine takes seconds to prepare, and a life has little else in its time then.
        backends = self.chance.choice([[], [], [], [], ["openvino"], ["onnxruntime"]])
        job = self.lab.profile(shares=[1], budget_s=0.02, fresh=self.chance.random() < 0.5, backends=backends)
        try:
            job.result(timeout=60)
        finally:
            for point in job.snapshot().points:
                fingerprint = self.lab.ensemble.get(point.name).fingerprint
                self.tell("stored", f"{point.name} {point.units} {fingerprint}")

    def search(self) -> None:
        """Find a plan."""
        self.lab.search()

    def run(self) -> None:
        """Run on inputs of several shapes."""
        for _ in range(self.chance.randrange(1, 12)):
            x = torch.randn(self.chance.choice([4, 4, 4, 6, 40]), 16)
            self.check(x, self.lab.run(x), "run")

    def arun(self) -> None:
        """Await runs."""

        async def some() -> list[torch.Tensor]:
            return list(await asyncio.gather(*[self.lab.arun(X * number) for number in range(3)]))

        for number, y in enumerate(asyncio.run(some())):
            self.check(X * number, y, "arun")

    def timeout(self) -> None:
        """Run with hardly any time."""
        x = torch.randn(4, 16)
        self.check(x, self.lab.run(x, timeout_s=self.chance.choice([0.001, 0.01, 0.1])), "timeout")

    def compare(self) -> None:
        """Compare with the usual ways."""
        self.lab.compare(X, rounds=1, budget_s=2.0)

    def export(self) -> None:
        """Write a script."""
        self.lab.export(self.folder / "store" / "plan.py")

    def apply(self) -> None:
        """Put another plan in force."""
        lanes = self.chance.choice([(("a", "b"),), (("a",), ("b",)), (("b", "a"),)])
        units = self.lab.device.units
        if len(lanes) <= units:
            self.lab.apply(Plan(lanes=tuple(Lane(units=1, members=lane) for lane in lanes), units=units))

    def close(self) -> None:
        """End the lab; it may be used again."""
        self.lab.close()

    # --- its life ---

    def live(self, seconds: float, only: list[str]) -> None:
        """Do things for so long; an interrupt may come at any moment."""
        names = only or [
            "register",
            "profile",
            "search",
            "run",
            "arun",
            "timeout",
            "compare",
            "export",
            "apply",
            "close",
        ]
        deadline = time.monotonic() + seconds
        what = "register"
        while time.monotonic() < deadline:
            try:
                self.both()
                what = self.chance.choice(names)
                self.tell("began", what)
                getattr(self, what)()
                self.tell("done", what)
            except KeyboardInterrupt:
                self.after("interrupted", what)
            except UsageError:
                self.after("refused", what)
            except EsenError as problem:
                self.after("failed", what, f"{type(problem).__name__}: {problem}")
            except BaseException:
                self.after("escaped", what, traceback.format_exc()[-3000:])

    def after(self, event: str, what: str, more: str = "") -> None:
        """The lab must answer right again, however often it is interrupted meanwhile."""
        recovering = self.folder / "recovering"
        failed = ""
        told = False
        attempts = 0
        while attempts < ATTEMPTS:
            try:
                if not told:
                    self.tell(event, what, more)
                    told = True
                attempts += 1
                recovering.touch()
                self.both()
                self.check(X, self.lab.run(X, timeout_s=60), f"run after {what}")
                recovering.unlink(missing_ok=True)
                return
            except KeyboardInterrupt:
                attempts -= 1
                with contextlib.suppress(KeyboardInterrupt):
                    self.tell("interrupted", f"run after {what}")
            except EsenError as problem:
                failed = f"{type(problem).__name__}: {problem}"
            except BaseException:
                failed = traceback.format_exc()[-3000:]
        with contextlib.suppress(KeyboardInterrupt):
            self.tell("broken", what, failed)
            recovering.unlink(missing_ok=True)

    def verify(self) -> None:
        """Whether every point that was told to be stored is in the store."""
        self.both()
        told = {
            json.loads(line)["what"] for line in (self.folder / "events").read_text().splitlines() if "stored" in line
        }
        known = set()
        for first in (1, 3):
            self.lab.register("a", self.networks[first], example=X)
            found = stored_profile(self.lab.ensemble, self.lab.device, self.lab._runtime.store())
            known |= {f"{p.name} {p.units} {self.lab.ensemble.get(p.name).fingerprint}" for p in found.points}
        for point in sorted({what for what in told if what.count(" ") == 2} - known):
            self.tell("lost", point)

    def end(self) -> None:
        """Close the lab, however often that is interrupted."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.lab.close()
        self.tell("ended", "")


def main() -> None:
    """Live."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--limit", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--verify", action="store_true")
    given = parser.parse_args()
    with contextlib.suppress(OSError):
        stacks: Any = open(given.folder / "stacks", "w")  # noqa: SIM115  for as long as this lives
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    torch.set_num_threads(1)
    driver = Driver(given.folder, given.seed)
    if given.limit:
        name, _, value = given.limit.partition("=")
        resource.setrlimit(LIMITS[name], (int(value), int(value)))
    driver.tell("began", "life")
    try:
        if given.verify:
            driver.verify()
        else:
            driver.live(given.seconds, [name for name in given.only.split(",") if name])
    except KeyboardInterrupt:
        pass
    driver.end()


if __name__ == "__main__":
    main()
