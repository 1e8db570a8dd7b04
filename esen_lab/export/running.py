"""An exported ensemble with its lanes alive: what `load()` of an exported script returns."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble, SeenKinds
from esen_lab.planner.plan import Plan
from esen_lab.terminal import visible


class Ran(Protocol):
    """What comes of a run."""

    @property
    def output(self) -> Tree:
        """The answer."""

    @property
    def report(self) -> Any:
        """What happened."""


class PlanRunner(Protocol):
    """What runs a plan; the script brings it, since this part knows no runtime."""

    def run(
        self, x: Tree, *, timeout_s: float = ..., options: Any = None, at_turn: Callable[[], object] | None = None
    ) -> Ran:
        """Run once, until a deadline of the whole call, as the options ask; `at_turn` is called when its turn comes."""

    def measuring(self) -> AbstractContextManager[object]:
        """Runs inside leave no trace: after it sub-models are what they were before."""

    @property
    def unlike(self) -> Mapping[str, Any]:
        """The members that answer otherwise than where they were exported, and what to say of it."""

    def close(self) -> None:
        """End the lanes."""


class Closing(Protocol):
    """What is closed with the lanes, and knows what this process has set."""

    def look_at_session(self) -> object:
        """Take what this thread and process have set now as what lanes must have."""

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
        under: The context that it starts and runs in.
        seen_kinds: Refuses inputs that say more than their numbers to a member that asks.
    """

    plan: Plan
    ensemble: Ensemble
    device: Any
    runner: PlanRunner
    fork_server: Closing
    report: Any = None
    under: Callable[[], AbstractContextManager[object]] = nullcontext
    seen_kinds: SeenKinds = field(default_factory=SeenKinds)

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        device: Any,
        *,
        fork_server: Closing,
        start: Callable[[Plan, Ensemble, Any, Any], PlanRunner],
        under: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Running:
        """Start the lanes; when that fails, nothing stays alive.

        Args:
            plan: What to run.
            ensemble: Whose sub-models.
            device: An open device; closed with the lanes.
            fork_server: Starts the workers; closed with the lanes.
            start: `Executor.start`.
            under: The context that it starts and runs in: the switches of torch that it was exported under.

        Raises:
            EsenError: A lane cannot be started.
        """
        with contextlib.ExitStack() as failed:
            failed.callback(device.close)
            failed.callback(fork_server.close)
            with under():
                fork_server.look_at_session()
                runner = start(plan, ensemble, device, fork_server)
            failed.callback(runner.close)
            for told in runner.unlike.values():
                warnings.warn(visible(str(told)), stacklevel=3)
            failed.pop_all()
        return cls(plan=plan, ensemble=ensemble, device=device, runner=runner, fork_server=fork_server, under=under)

    def __call__(self, x: Tree, timeout_s: float | None = None, *, options: Any = None) -> Any:
        """The ensemble's answer to `x`, under the switches of torch that this thread has.

        Those that were not as usual when the plan was exported are for the time of the call as they were there.

        Several threads may call; they take turns, in the order in which they came.

        Args:
            x: The input.
            timeout_s: Deadline of the whole call, in seconds, waiting for other threads' calls included; None: ten
                minutes.
            options: What is asked for besides the answer of all members: an `esen_lab.run.RunOptions`, such as
                `RunOptions(deadline_s=0.05, at_least=3)`. Its deadline counts from when this call is looked at.

        Raises:
            EsenError: As the executor's `run` does.
        """
        asked = {"timeout_s": timeout_s, "options": options}
        with self.under():
            told: list[str] = []

            def look() -> None:
                # Not before its turn: lanes at work for another thread's call would take what this one has set.
                self.fork_server.look_at_session()
                due = getattr(options, "deadline_s", None) is not None
                told.extend(self.seen_kinds.check(self.ensemble.submodels, x, due=due))

            run = self.runner.run(
                x, at_turn=look, **{name: value for name, value in asked.items() if value is not None}
            )
        self.report = run.report.with_notes_before(tuple(told)) if told else run.report
        return run.output

    def close(self) -> None:
        """End every process, and let go of the device. May be called again."""
        with contextlib.ExitStack() as last:
            last.callback(self.device.close)
            last.callback(self.fork_server.close)
            self.runner.close()

    def __enter__(self) -> Running:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
