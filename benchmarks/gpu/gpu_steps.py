"""A section of `make gpu-check` as steps: what is done is written at once; steps that find no time left are named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Steps:
    """What one section has found so far.

    Args:
        out: Where it is written after every step; None: nowhere.
        seconds: How long the section may take.
        rehearse: Whether it runs with tiny sizes on the CPU.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        out: Path | None,
        seconds: float,
        *,
        rehearse: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self._clock = clock
        self._ends_at = clock() + seconds
        self.rehearse = rehearse
        self.found: dict[str, Any] = {}
        self.skipped: list[str] = []

    @property
    def left_s(self) -> float:
        """How much time is left."""
        return self._ends_at - self._clock()

    def do(self, name: str, make: Callable[[], Any], *, needs_s: float = 1.0) -> Any:
        """Do one step and keep what comes of it, or why nothing did.

        Args:
            name: Of the step; "a.b" puts it into a group.
            make: Does it; what it returns must become JSON.
            needs_s: Skipped when less time than that is left.

        Returns:
            What was made, or None.
        """
        if self.left_s < needs_s:
            self.skipped.append(name)
            self._keep("skipped", self.skipped)
            return None
        made = or_why(make)
        self._keep(name, made)
        return None if isinstance(made, dict) and "failed" in made else made

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
    except Exception as problem:
        return {"failed": f"{type(problem).__name__}: {problem}"}
