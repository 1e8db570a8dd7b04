"""Which shares of a sub-model are not worth trying after a failure.

it raised (`ModelError`) and was never measured     all: it raises at every share
it timed out                                        smaller shares: they are slower still
it killed its worker twice and was never measured   all
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esen_lab.errors import ModelError, UsageError, WorkerDied, WorkerTimeout

_DEATHS_TOLERATED = 2


@dataclass(slots=True)
class _Record:
    """What happened to one sub-model so far. Owned by the job's thread."""

    measured: int = 0
    deaths: int = 0
    hopeless: bool = False  # no other share is tried
    timed_out_at: int = 0  # the largest share at which it timed out; smaller ones are not tried


class PointsGivenUp:
    """What a job does not try any more. Owned by its thread.

    Args:
        names: The sub-models.
        share: A share in words.
        note: Told what is given up, and why.
    """

    def __init__(self, names: Iterable[str], share: Callable[[int], str], note: Callable[[str], None]) -> None:
        self._records = {name: _Record() for name in names}
        self._share = share
        self._note = note

    def measured(self, name: str) -> None:
        """A point of a sub-model was measured."""
        self._records[name].measured += 1

    def skips(self, name: str, units: int) -> bool:
        """Whether a point is not to be tried."""
        record = self._records[name]
        return record.hopeless or units < record.timed_out_at

    def failed(self, name: str, units: int, problem: Exception) -> None:
        """Decide, after a failure, which other shares of the sub-model are not worth trying."""
        record = self._records[name]
        if isinstance(problem, WorkerTimeout):
            record.timed_out_at = max(record.timed_out_at, units)
            self._note(f"{name}: shares below {units} are not tried, since it timed out at {self._share(units)}.")
            return
        if isinstance(problem, WorkerDied):
            record.deaths += 1
        if record.measured:
            return
        if isinstance(problem, (ModelError, UsageError)):
            record.hopeless = True
            self._note(f"{name}: its other shares are not tried, since it raised at {self._share(units)}.")
        elif record.deaths >= _DEATHS_TOLERATED:
            record.hopeless = True
            self._note(f"{name}: its other shares are not tried, since it ended its worker {record.deaths} times.")
