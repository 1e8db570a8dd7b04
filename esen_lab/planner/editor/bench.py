"""What a plan editor needs of a lab."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from esen_lab.planner.editor.beside import LastRun, Offered
from esen_lab.planner.plan import Plan


class Bench(Protocol):
    """Where the plan of a draft is put to use. Its methods may take seconds, and are called without a lock held."""

    def in_force(self) -> Plan | None:
        """The plan in force."""

    def facts(self) -> Mapping[str, Any]:
        """What a plan says of its making: `device`, `fingerprints`, `example`, `combine`."""

    def apply(self, plan: Plan) -> None:
        """Put the plan in force and have its lanes running.

        Raises:
            EsenError: It could not; the plan before it is in force still.
        """

    def measure(self, repeats: int) -> Sequence[float]:
        """The JCT of each of so many runs of the plan in force, in seconds."""

    def far(self) -> Sequence[str]:
        """What the last measurement says where it is far from its prediction; else nothing."""

    def ran(self) -> LastRun | None:
        """The last run; None before the first."""

    def offered(self) -> Sequence[Offered]:
        """The choices of members that were found worth having, by rising JCT."""

    def take(self, number: int) -> None:
        """Put one of `offered` in force.

        Raises:
            UsageError: There is none of that number.
        """

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Any:
        """Write the plan as a script."""
