"""An exported ensemble with its lanes alive: what `load()` of an exported script returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from esen_lab.ensemble import Ensemble
from esen_lab.planning import Plan
from esen_lab.trees import Tree


class Runner(Protocol):
    """What runs a plan; the script brings it, since this part knows no runtime."""

    def run(self, x: Tree) -> tuple[Tree, Any]:
        """Run once and return the answer and a report."""

    def close(self) -> None:
        """End the lanes."""


class Closing(Protocol):
    """What is closed with the lanes."""

    def close(self) -> None:
        """End everything that it started."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A warm ensemble. Call it with an input; close it, or use it in a `with` statement, to end its processes.

    Attributes:
        plan: The plan that it runs by.
        ensemble: Its sub-models and combine rule.
        device: Where it runs.
        report: What happened in the last run, or None.
    """

    plan: Plan
    ensemble: Ensemble
    device: Any
    runner: Runner
    nursery: Closing
    report: Any = None

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        device: Any,
        *,
        nursery: Closing,
        start: Callable[[Plan, Ensemble, Any, Any], Runner],
    ) -> Running:
        """Start the lanes; when that fails, nothing stays alive.

        Args:
            plan: What to run.
            ensemble: Whose sub-models.
            device: An open device.
            nursery: Starts the workers; closed with the lanes.
            start: `Executor.start`.

        Raises:
            EsenError: A lane cannot be started.
        """
        try:
            runner = start(plan, ensemble, device, nursery)
        except BaseException:
            nursery.close()
            raise
        return cls(plan=plan, ensemble=ensemble, device=device, runner=runner, nursery=nursery)

    def __call__(self, x: Tree) -> Tree:
        """The ensemble's answer to `x`; raises as the executor's `run` does."""
        output, self.report = self.runner.run(x)
        return output

    def close(self) -> None:
        """End every process. May be called again."""
        try:
            self.runner.close()
        finally:
            self.nursery.close()

    def __enter__(self) -> Running:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
