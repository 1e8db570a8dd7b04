"""A section of `make gpu-check` as steps: what is done is written at once, and a later call goes on where it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class OutOfTime(Exception):  # noqa: N818  no fault: a later call goes on
    """A step found that it cannot end in time; what it has done it has kept by itself."""


class Steps:
    """What one section has found so far.

    Args:
        out: Where it is written after every step; None: nowhere.
        seconds: How long the section may take.
        rehearse: Whether it runs with tiny sizes on the CPU.
        before: What an earlier call has found, whose whole steps are not done again.
        folder: Where steps may keep what a later call goes on with; None: nowhere.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        out: Path | None,
        seconds: float,
        *,
        rehearse: bool = False,
        before: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self._clock = clock
        self._ends_at = clock() + seconds
        self.rehearse = rehearse
        self.folder = folder
        self.found: dict[str, Any] = {key: value for key, value in (before or {}).items() if key != "skipped"}
        self.skipped: list[str] = []

    @property
    def left_s(self) -> float:
        """How much time is left."""
        return self._ends_at - self._clock()

    def do(self, name: str, make: Callable[[], Any], *, needs_s: float = 1.0, always: bool = False) -> Any:
        """Do one step and keep what comes of it, or why nothing did.

        Args:
            name: Of the step; "a.b" puts it into a group.
            make: Does it; what it returns must become JSON.
            needs_s: Skipped when less time than that is left.
            always: Done again even where an earlier call has done it: later steps need what it leaves behind.

        Returns:
            What was made, now or before, or None.
        """
        before = self._before(name)
        if before is not None and not always:
            return before
        if self.left_s < needs_s:
            self.skipped.append(name)
            self._keep("skipped", self.skipped)
            return None
        try:
            made = or_why(make)
        except OutOfTime:
            self.skipped.append(name)
            self._keep("skipped", self.skipped)
            return None
        self._keep(name, made)
        return None if isinstance(made, dict) and "failed" in made else made

    def _before(self, name: str) -> Any:
        group, _, rest = name.partition(".")
        found = self.found.get(group)
        if rest:
            found = found.get(rest) if isinstance(found, dict) else None
        return None if isinstance(found, dict) and "failed" in found else found

    def _keep(self, name: str, made: Any) -> None:
        group, _, rest = name.partition(".")
        if rest:
            self.found.setdefault(group, {})[rest] = made
        else:
            self.found[group] = made
        self.write()

    def write(self) -> None:
        """Write what there is; a reader sees all of it or the state before."""
        if self._out is not None:
            new = self._out.with_suffix(".new")
            new.write_text(json.dumps(self.found), encoding="utf-8")
            new.replace(self._out)


def or_why(make: Callable[[], Any]) -> Any:
    """What it makes, or that it failed and why: one failure must not hide the other figures."""
    try:
        return make()
    except OutOfTime:
        raise
    except Exception as problem:
        return {"failed": f"{type(problem).__name__}: {problem}"}


def failures_in(found: Any, path: str = "") -> dict[str, str]:
    """Every step that failed, however deep, with why."""
    if not isinstance(found, Mapping):
        return {}
    if isinstance(found.get("failed"), str) and found["failed"]:
        return {path: found["failed"]}
    deeper = [failures_in(value, f"{path}.{key}" if path else str(key)) for key, value in found.items()]
    return {where: why for one in deeper for where, why in one.items()}
