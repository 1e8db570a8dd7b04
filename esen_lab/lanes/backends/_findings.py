"""What probes have shown of an engine, kept for other processes: guards, or why it is refused.

A process that finds nothing kept asks anew, whatever else of the engine was kept: a graph that was not made here, or
was made before it was probed, says nothing of where it may be used. What is found out of a graph that an export brought
along holds for that very graph, and is found by whoever brings it again.

An engine may end its process while it is tried. Who watches the process says so (`backends.remember_crash`). Where
nobody does, a mark is left behind: it was set before the trial, and its process is gone. That may have been ended by
others too, who are likelier to do it while an engine is prepared, which takes seconds, than while it answers:

    deaths_left 1   it was being prepared: tried once more
    deaths_left 0   it was executing, or prepared for the second time: refused
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from esen_lab.files.lock_holders import began
from esen_lab.lanes.backends._cache import Cache, own_folder, remove, small_entries
from esen_lab.lanes.backends._protocol import Refused

if TYPE_CHECKING:
    from esen_lab.lanes.backends._guards import Range

CRASHED = "it ended its process while it was tried"
_TRYING = "trying: "
_PROBED = "probed 4: "  # another number where other probes are asked
_LONGEST_MARK = 200  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What probes have shown.

    Attributes:
        ranges: As in `Guards`.
        computes: Whether there are checks besides, for which the network is traced.
        refused: Why the engine is not used at all; "" where it is.
        left: Words of the probes that there was no time for: whoever goes by this is told of them too.
        answers: As in `Guards`.
    """

    ranges: Mapping[int, Range] = field(default_factory=dict)
    computes: bool = False
    refused: str = ""
    left: Sequence[str] = ()
    answers: bool = False

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps({**asdict(self), "ranges": sorted(self.ranges.items())}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Finding:
        """What `to_bytes` made."""
        plain = json.loads(data)
        return cls(**{**plain, "ranges": {index: (low, high) for index, (low, high) in plain["ranges"]}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is kept of a sub-model with an engine, for inputs of one form.

    Attributes:
        cache: Where; None: nowhere.
        form: See `on_device`.
    """

    cache: Cache | None
    form: str

    def known(self) -> Finding | None:
        """What an earlier process has found out, or None."""
        kept = None if self.cache is None else self.cache.peek_of_graph(_PROBED + self.form)
        return None if kept is None else Finding.from_bytes(kept)

    def keep(self, finding: Finding) -> None:
        """Keep what was found out, if it can be written."""
        if self.cache is not None:
            self.cache.keep_of_graph(_PROBED + self.form, finding.to_bytes())

    def forget(self) -> None:
        """What was found out was of something else."""
        if self.cache is not None:
            self.cache.forget(_PROBED + self.form)

    @contextlib.contextmanager
    def trying(self) -> Iterator[Callable[[], None]]:
        """Around a trial that may end this process; gives what is called before the engine executes.

        Raises:
            Refused: It has ended another one.
        """
        left = self._deaths_left()
        if left is None or self.cache is None:
            yield lambda: None
            return
        if left < 0:
            self.keep(Finding(refused=CRASHED))
            self.forget_trial()
            raise Refused(CRASHED)
        self._mark(left)
        try:
            yield lambda: self._mark(0)
        finally:
            self.forget_trial()

    def forget_trial(self) -> None:
        """Whoever tried has come to an end that is no fault of the engine."""
        if self.cache is not None:
            self.cache.forget(_TRYING + self.form)

    def _deaths_left(self) -> int | None:
        """How often a trial may still end its process; None while another process is at it, whose mark it is."""
        kept = None if self.cache is None else self.cache.peek(_TRYING + self.form)
        if kept is None:
            return 1
        mark = json.loads(kept)
        return None if began(mark["pid"]) == mark["began"] else mark["deaths_left"] - 1

    def _mark(self, deaths_left: int) -> None:
        assert self.cache is not None
        mark = {"pid": os.getpid(), "began": began(os.getpid()), "deaths_left": deaths_left}
        self.cache.keep(_TRYING + self.form, json.dumps(mark).encode())


def on_device(form: str, torch_device: str) -> str:
    """Of inputs of a form (see `Example.form`) on a kind of device: what ends a process on a GPU may not on the CPU."""
    kind = torch_device.partition(":")[0]
    return form if kind == "cpu" else f"{form} on {kind}"


def end_trials(pid: int) -> None:
    """A process was ended by somebody: what it was trying then is no fault of an engine."""
    folder = own_folder(make=False)
    for path, data in () if folder is None else small_entries(folder, _LONGEST_MARK):
        with contextlib.suppress(ValueError, AttributeError):  # other entries are no JSON, or no objects
            if json.loads(data).get("pid") == pid:
                remove(path)
