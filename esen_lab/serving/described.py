"""What is served as it is now: looked at by running it, and once more when it has become something else.

A lab goes on while it is served: members come, go and are registered anew, another combine rule or plan is put in
force. Whether requests may be joined, and what an answer is, holds for what was looked at and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import is_

from esen_lab.common.trees import Tree, tree_spec
from esen_lab.errors import first_line
from esen_lab.serving.joining import Later, try_joining
from esen_lab.serving.served import Served
from esen_lab.serving.signature import ModelInfo, describe

_LOOKS = 2


class Described:
    """See the module. `look` and what follows from it belong to the thread that runs batches.

    Args:
        served: What is looked at.
        name: Of the model.
        any_size: See `describe`.
        example: What requests look like; None: the ensemble's own example.

    Attributes:
        model: What it looks like.
        example: What it was looked at with.

    Raises:
        EsenError: It cannot be run, or the protocol cannot say what it takes or gives.
    """

    def __init__(self, served: Served, name: str, *, any_size: bool = False, example: Tree = None) -> None:
        self._served = served
        self._name = name
        self._any_size = any_size
        self._given = example
        self._own = tree_spec(served.ensemble.example)
        self._of: tuple[object, ...] = ()
        self.example: Tree = example
        self.model: ModelInfo
        self.look()

    @property
    def outdated(self) -> bool:
        """Whether something else is served now."""
        now, of = self._served.stands_for, self._of
        return len(now) != len(of) or not all(map(is_, now, of))  # asked several times a run

    def look(self, later: Callable[[], bool] = lambda: False) -> None:
        """Find out what it is now. Where that fails, requests are not joined.

        Args:
            later: See `try_joining`.

        Raises:
            Later: There is something else to do first; nothing has changed.
            EsenError: See the class.
        """
        try:
            for _ in range(_LOOKS):
                of = self._served.stands_for
                self._look(later)
                self._of = of
                if not self.outdated:
                    return
        except Later:
            raise
        except BaseException as problem:
            if self._of:
                names = self._served.ensemble.names
                self.model = replace(self.model.alone(f"it cannot be run now: {first_line(problem)}"), members=names)
                self._of = ()
            raise
        self.join_no_more("it has changed while it was looked at")  # the next batch looks again

    def join_no_more(self, why: str) -> None:
        """A run has shown what the trial did not: until it is something else, requests run alone."""
        self.model = self.model.alone(why)

    def _look(self, later: Callable[[], bool]) -> None:
        served = self._served
        served.mend()
        own = served.ensemble.example
        # What was given for other inputs than those of now says nothing about them.
        self.example = own if self._given is None or tree_spec(own) != self._own else self._given
        tried = try_joining(served, self.example, later)
        self.model = describe(
            self._name,
            self.example,
            tried.answer,
            members=served.ensemble.names,
            why_alone=tried.why_alone,
            any_size=self._any_size,
        )
