"""Every error this package raises on purpose, split by what the caller can do about it.

    EsenError
    ├── UsageError          what was asked for cannot be: change the call
    │   └── NotTrusted      a folder holds code, and nobody said that it may run
    ├── DeviceError         the device cannot do it: another device, or mend this one
    │   └── Busy            too many calls wait for it: call again later
    ├── InfeasibleError     no plan keeps every limit: loosen the one that is named
    ├── StoreError          a file cannot be read, written or trusted
    ├── WorkerError         a worker failed; carries its traceback and the end of its log
    │   ├── ModelError      the sub-model itself raised
    │   ├── WorkerDied      the process is gone
    │   └── WorkerTimeout   no answer before the deadline
    │       └── DeadlineMissed  too few members were done when an answer was due; the lanes are warm
    └── Cancelled           somebody asked for it to stop

A message states the rule, then what was given, then what to do next. Names and texts in it may come from anywhere:
what would steer a terminal is made visible here, for every error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from esen_lab.terminal import visible


class EsenError(Exception):
    """The root of the tree.

    Args:
        rule: What must hold, as one sentence.
        given: What was there instead; shown with `repr` unless it is a string.
        hint: What to do next, as one sentence.
    """

    def __init__(self, rule: str, *, given: object = None, hint: str = "") -> None:
        self.rule = rule
        self.given = given if given is None or isinstance(given, str) else repr(given)
        if self.given is not None and not self.given.strip():
            self.given = "nothing" if not self.given else "only spaces"
        self.hint = hint
        super().__init__(self._message())

    def reword(self, worded: Callable[[str], str]) -> None:
        """Say the same in the words of where it is read.

        Args:
            worded: Makes a text of the error another one.
        """
        self.rule, self.hint = worded(self.rule), worded(self.hint)
        self.given = None if self.given is None else worded(self.given)
        self.args = (self._message(),)

    def concerns(self, what: str) -> None:
        """Say first what it is about.

        Args:
            what: Of several things that were given the one, such as "--rounds".
        """
        self.rule = f"{what}: {self.rule}"
        self.args = (self._message(),)

    def _message(self) -> str:
        rule, hint = _shortened(self.rule), self.hint
        parts = [rule if rule.endswith((".", "!", "?")) else f"{rule}."]
        if self.given is not None:
            given = _shortened(self.given)
            parts.append(f"Given: {given}." if not given.endswith(".") else f"Given: {given}")
        if hint:
            parts.append(hint)
        return visible(" ".join(parts))


_MOST_LETTERS = 1_000
_ENDS = 300


def _shortened(text: str) -> str:
    """A text that somebody can read to its end: of what was pasted by mistake, its beginning and end."""
    if len(text) <= _MOST_LETTERS:
        return text
    return f"{text[:_ENDS]} ... ({len(text) - 2 * _ENDS:,} characters) ... {text[-_ENDS:]}"


class UsageError(EsenError):
    """What was asked for cannot be; change the call."""


class NotTrusted(UsageError):  # noqa: N818  what it is, in the words of the docs
    """Files hold code that nobody has said may run; nothing of it has run.

    Attributes:
        runs: What loading and running them would run, line by line, ready to be shown.
    """

    def __init__(self, rule: str, *, given: object = None, hint: str = "", runs: tuple[str, ...] = ()) -> None:
        super().__init__(rule, given=given, hint=hint)
        self.runs = runs

    @property
    def in_full(self) -> str:
        """For a terminal: the rule, a line for each thing that would be run, and what to do."""
        return "\n".join([f"{self.rule}. It would run:", *(f"    {line}" for line in self.runs), self.hint])


class DeviceError(EsenError):
    """The device cannot do what is asked."""


class Busy(DeviceError):  # noqa: N818  what it is, in the words of a queue
    """As many calls wait for the device as may; this one has done nothing, and may be made again later."""


class InfeasibleError(EsenError):
    """No plan keeps every limit."""


class StoreError(EsenError):
    """A file (profile store, plan, export) cannot be read, written or trusted."""


class Cancelled(EsenError):  # noqa: N818  an outcome somebody asked for, not a fault
    """The work was stopped on request."""


class WorkerError(EsenError):
    """A worker process failed.

    Attributes:
        worker_traceback: The traceback inside the worker, or "".
        log: The end of what the worker printed, or "".
    """

    def __init__(
        self, rule: str, *, given: object = None, hint: str = "", worker_traceback: str = "", log: str = ""
    ) -> None:
        super().__init__(rule, given=given, hint=hint)
        self.worker_traceback = worker_traceback
        self.log = log

    def details(self) -> str:
        """The worker's traceback and log, for people; "" when there is neither."""
        parts = []
        if self.worker_traceback:
            parts.append(f"In the worker:\n{self.worker_traceback.rstrip()}")
        if self.log:
            parts.append(f"The worker printed:\n{self.log.rstrip()}")
        return visible("\n".join(parts))


class ModelError(WorkerError):
    """The sub-model itself raised, while it was built or run."""


class WorkerDied(WorkerError):  # noqa: N818  what happened, in the words of a log
    """The worker process is gone.

    Attributes:
        crashed: Whether it ended by a fault of native code, and not because somebody ended it.
    """

    crashed = False


class WorkerTimeout(WorkerError):  # noqa: N818  what happened, in the words of a log
    """The worker did not answer before the deadline."""


class DeadlineMissed(WorkerTimeout):
    """Too few members were done when an answer was due. The lanes are warm, and the next run is right.

    Attributes:
        done: Who was done by then.
        missing: Who was not, in the order of the ensemble, each with why.
    """

    def __init__(
        self,
        rule: str,
        *,
        given: object = None,
        hint: str = "",
        done: tuple[str, ...] = (),
        missing: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(rule, given=given, hint=hint)
        self.done = done
        self.missing = missing


_PLACE = re.compile(r"(Exception from|Check .* failed at) \S+:\d+:")
# ONNX Runtime: its own number and name of the error, then a place in its code with the signature of a function.
_BEFORE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : (/\S+:\d+ \S.*?\) (?=[A-Z]))?")


def first_line(problem: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return told_first(str(problem)) or type(problem).__name__


def told_first(text: str) -> str:
    """The first line that says something: not one that only names a place in the code of an engine; "" without any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = next((line for line in lines if not _PLACE.fullmatch(line)), lines[0] if lines else "")
    return _BEFORE.sub("", found, count=1) or found
