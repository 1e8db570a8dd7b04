"""What is late because a file is not there yet, however slow the machine is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models import Held
from waiting import until


@dataclass
class Gate:
    """What holds a member back."""

    path: Path
    seen: int = 0

    @property
    def calls(self) -> Path:
        """A line for each time the member that is held began."""
        return self.path.with_name("late-calls")

    def member(self, factor: float) -> Held:
        """One that answers x times this once the gate is open."""
        return Held(str(self.path), factor, str(self.calls))

    def open(self) -> None:
        self.path.touch()

    def close(self) -> None:
        self.seen = self._begun()
        self.path.unlink(missing_ok=True)

    def has_begun(self) -> bool:
        """Whether the member has since the gate was closed."""
        return self._begun() > self.seen

    def begun(self) -> None:
        """Wait until the member has begun: before, a lane that is stopped is at rest."""
        until(self.has_begun)

    def _begun(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0
