"""How a server stands, and what it has answered so far: a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict
from esen_lab.common.units import format_percent, format_seconds

ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus(Shown):
    """One moment of a server.

    Attributes:
        name: Of the model.
        url: Where requests go.
        state: "ready", "lanes are starting", "ended", or why it is not ready.
        token: Whether one is asked for.
        joins: Whether requests are joined into batches; None: not known yet.
        why_alone: Where they are not: why.
        answered: Requests with an answer of the model.
        failed: Requests without, by reason.
        waiting: Requests that wait now.
        batches: How many were run.
        rows: Of all of them.
        compute_s: The mean of a batch, in seconds; None before the first.
        queue_s: The mean that a request waited.
        lanes_busy: For each lane, the part of the time since the server began that it was busy.
        restarts: How often lanes that had ended were started anew.
    """

    name: str
    url: str
    state: str
    token: bool = False
    joins: bool | None = None
    why_alone: str = ""
    answered: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    batches: int = 0
    rows: int = 0
    compute_s: float | None = None
    queue_s: float | None = None
    lanes_busy: tuple[float, ...] = ()
    restarts: int = 0

    def facts(self) -> tuple[tuple[str, str], ...]:
        """For people: labels and texts."""
        joined = {None: "", True: "yes", False: f"no: {self.why_alone}"}[self.joins]
        found = (
            ("requests go to", self.url),
            ("state", self.state),
            ("token", "asked for" if self.token else "none"),
            ("requests are joined", joined),
            ("answered", str(self.answered)),
            ("refused or failed", ", ".join(f"{reason} {count}" for reason, count in self.failed.items())),
            ("waiting", str(self.waiting) if self.waiting else ""),
            ("batches", f"{self.batches}, of {self.rows / self.batches:.1f} rows each" if self.batches else ""),
            ("compute", "" if self.compute_s is None else f"{format_seconds(self.compute_s)} a batch"),
            ("queue", "" if self.queue_s is None else f"{format_seconds(self.queue_s)} a request"),
            ("lanes busy", ", ".join(map(format_percent, self.lanes_busy))),
            ("lanes started anew", str(self.restarts) if self.restarts else ""),
        )
        return tuple((label, text) for label, text in found if text)

    def __str__(self) -> str:
        """For a terminal."""
        return "\n".join(f"{label:22}{text}" for label, text in self.facts())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return to_dict(self)
