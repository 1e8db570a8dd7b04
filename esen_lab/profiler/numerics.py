"""The numerics check of a profile: at every share of a GPU, a sub-model's answers against those of the whole device.

There is a public report that limits of NVIDIA MPS made half-precision products silently wrong at some numbers of SMs,
depending on their shape. So a point whose answers are not those of the whole device up to rounding is a failure, and no
search gives the sub-model a lane of that share. Shares that were not measured were not compared either, and lanes may
disturb each other: so what is chosen is checked again, with all lanes at work: `run/numerics.py`.

A sub-model whose answers differ between two runs on the whole device draws random numbers: nothing can be said of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from esen_lab.common.answers import Difference, difference
from esen_lab.common.trees import Tree
from esen_lab.errors import DeviceError
from esen_lab.lanes.plain import as_answer

if TYPE_CHECKING:
    from esen_lab.lanes import Worker

RUNS = 3
"""What is wrong may be wrong only now and then."""
RANDOM = "two runs on the whole device differ, so it draws random numbers: not compared"
_REFERENCE = "esen_lab.profiler.numerics:reference"
_AGAINST = "esen_lab.profiler.numerics:against"


class WrongAnswers(DeviceError):  # noqa: N818  what happened
    """At some share, a sub-model's answers are not those of the whole device."""


class Answering(Protocol):
    """A step of one sub-model on its example that can be asked for its answers."""

    def answers(self) -> Tree:
        """Run once, and copy what came out."""


def reference(step: Answering) -> Tree | None:
    """In the worker that has the whole device: what the sub-model answers; None where two runs differ."""
    first = step.answers()
    return first if difference(step.answers(), first).agrees else None


def against(step: Answering, *, wanted: Tree) -> Difference:
    """In the worker of a share: the worst difference of `RUNS` runs from the answers of the whole device."""
    found = [difference(step.answers(), wanted) for _ in range(RUNS)]
    return max(found, key=lambda one: (not one.agrees, one.error))


class AnswersCheck:
    """Compares answers, and remembers those of the whole device.

    Args:
        units: The whole device.
        on_whole: Calls its argument with a worker that has the whole device and has loaded the sub-model of this name.
    """

    def __init__(self, units: int, on_whole: Callable[[str, Callable[[Worker], None]], None]) -> None:
        self._units = units
        self._on_whole = on_whole
        self._wanted: dict[str, Tree | None] = {}

    def check(
        self, name: str, units: int, worker: Worker, *, timeout_s: float, cancelled: threading.Event
    ) -> dict[str, float | str]:
        """Compare the answers of a sub-model that `worker` has loaded.

        Returns:
            The reading "answers_error": the largest error relative to the largest answer, or why there is none.

        Raises:
            WrongAnswers: They are, at this share.
            EsenError: They could not be had.
        """

        def ask(whole: Worker) -> None:
            self._wanted[name] = whole.call(_REFERENCE, name, timeout_s=timeout_s, cancelled=cancelled)

        if units == self._units:
            ask(worker)
            return {"answers_error": RANDOM if self._wanted[name] is None else 0.0}
        if name not in self._wanted:
            self._on_whole(name, ask)
        wanted = self._wanted[name]
        if wanted is None:
            return {"answers_error": RANDOM}
        answer = worker.call(_AGAINST, name, timeout_s=timeout_s, cancelled=cancelled, wanted=wanted)
        found = as_answer(answer, Difference)
        if not found.agrees:
            raise WrongAnswers(
                "WRONG ANSWERS: at this share they are not those of the whole device",
                given=str(found),
                hint="Searches keep off this share. Check the answers of the plan that they find.",
            )
        return {"answers_error": found.error}
