"""Whether lanes answer as the notebook's own process does, and what is said where they do not.

The reference is what that process computes itself (`OwnAnswers`), not another lane: lanes import and build everything
anew, so all of them may be wrong in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.answers import (
    IN_PRECISION,
    OTHER_ORDER,
    TOLERANCE,
    Difference,
    difference,
    difference_of_tensors,
)
from esen_lab.common.trees import Tree
from esen_lab.common.units import backend_parts
from esen_lab.common.words import some_of
from esen_lab.errors import ModelError, first_line
from esen_lab.lanes import ForkServer, Worker
from esen_lab.lanes.settings import Settings
from esen_lab.run.reference_answers import ExportedAnswers

if TYPE_CHECKING:
    from esen_lab.ensemble import Ensemble

# Where fp32 is computed with fewer digits on purpose, another number of threads changes more.
_ROUNDS_MORE: Mapping[str, float] = {**OTHER_ORDER, "float32": 2e-2}


class AnswersDiffer(UserWarning):
    """A lane answers otherwise than the notebook's own process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlike:
    """A sub-model whose lane is not what the notebook is.

    Attributes:
        name: The sub-model.
        found: How its lane's answer compares with the notebook's own; None where only its code is other code.
        other_code: Functions that are other code in the lane, as "module:name"; names that hold another function or
            class there, as "module.name".
        replaced: Names in imported modules that were set to a function of the session at run time.
        exported: Whether it is compared with what it answered where it was exported, not with the notebook.
    """

    name: str
    found: Difference | None
    other_code: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    exported: bool = False

    @property
    def wrong(self) -> bool:
        """Whether its answer is another one, beyond rounding."""
        return self.found is not None and not self.found.agrees

    @property
    def loud(self) -> bool:
        """Whether people are warned: its answer is another one, or may be to another input than its example."""
        edited = {key.replace(":", ".") for key in self.other_code if ":" in key}
        return self.wrong or any(":" not in key and key not in edited for key in self.other_code)

    def __str__(self) -> str:
        """What is so, the likely reason, and what to do: one line."""
        if not self.wrong:
            return (
                f"{self.name} runs other code in its lane than here ({self._functions}), with the same answer to its "
                f"example, perhaps not to others: {_EDITED} Measured times are those of the other code."
            )
        if self.exported:
            return (
                f"OTHER THAN WHERE IT WAS EXPORTED: {self.name} answers otherwise here ({self.found}). {_NOT_CARRIED}"
            )
        told = f"OTHER THAN THE NOTEBOOK: {self.name} answers otherwise in its lane than here ({self.found})."
        if self.other_code:
            return f"{told} Likely: {self._functions} is other code there. {_EDITED}"
        if self.replaced:
            return f"{told} Likely: {', '.join(self.replaced)} was replaced in this process. {_REPLACED}"
        return f"{told} Likely: {_OUTSIDE}"

    @property
    def _functions(self) -> str:
        names = list(dict.fromkeys(key.replace(":", ".") for key in self.other_code))
        return some_of(names, 3)


_EDITED = (
    "A file was edited after it was imported here, or a function was replaced at run time. Reload the module, make the "
    "network anew and register it, or restart the kernel."
)
_REPLACED = "A lane imports such modules anew. Call your function by a name of your own in the network's code."
_OUTSIDE = (
    "something outside the network was changed in this process (an object of an imported module, a library's own "
    "switch, a file that is read while it runs), which a lane has as a new process has it. Keep it in the network, as "
    "an attribute or a buffer, and register again."
)
_NOT_CARRIED = (
    "Likely: a module or package that it imports is another one here, or something outside the network was changed in "
    "the session that exported it (a name in an imported module, an environment variable, a file that is read while it "
    "runs). Have the same here; or keep it in the network, as an attribute or a buffer, and export again."
)


def tolerances(settings: Settings | None, *, on_gpu: bool, precision: str = "") -> Mapping[str, float]:
    """What rounding may change between a lane and the notebook.

    Args:
        settings: What the session has set.
        on_gpu: Whether the lane computes on a GPU, with other kernels than the notebook's CPU.
        precision: What it was asked to compute in; "" for its own precision.
    """
    if precision:
        return IN_PRECISION[precision]
    if on_gpu:
        return TOLERANCE
    return _ROUNDS_MORE if settings is not None and settings.rounds_more else OTHER_ORDER


def unlike_export(name: str, answer: Tree, exported: Tree, precision: str) -> Unlike | None:
    """A sub-model that answers otherwise than where it was exported; None where it does not, or nobody can tell.

    Args:
        name: The sub-model.
        answer: To its example, here.
        exported: The same there, perhaps by another processor, with other kernels.
        precision: What it is asked to compute in; "" for its own.
    """
    if precision == "int8":  # right for data like its calibration's, and the example may be noise
        return None
    found = difference_of_tensors(answer, exported, tolerances(None, on_gpu=True, precision=precision))
    return None if found.agrees else Unlike(name=name, found=found, exported=True)


def _raised_here(problem: ModelError) -> Difference:
    """How the answer of a lane compares with what this process raises."""
    return Difference(
        dtype="", error=math.inf, apart=math.inf, why=f"here it raises {problem.given or first_line(problem)}"
    )


def own_answers(ensemble: Ensemble, x: Tree, fork_server: ForkServer, *, anew: bool = False) -> dict[str, Tree]:
    """What the notebook's own process answers; empty where nobody can be asked.

    Args:
        ensemble: The sub-models.
        x: The input.
        fork_server: Knows whom to ask.
        anew: Ask now, whatever is known: what is outside of a network may have changed unseen.
    """
    ask = fork_server.own_answers
    return {} if ask is None else ask(ensemble, x, fork_server.settings, anew=anew)


class Fidelity:
    """Whether the lanes of one plan answer as the notebook does, and have its settings. Under the executor's lock.

    Args:
        fork_server: Knows the session's settings, and asks its process.
        workers: The lanes.
        other_code: For each sub-model of which functions are other code in its lane, these.
        on_gpu: Whether the lanes compute on a GPU.
        executed: Tells for each sub-model the backend that executes it.
        in_lanes: Tells which members each lane runs, in order.

    Attributes:
        unlike: The sub-models whose lanes are not what the notebook is, as of the last look.
        doubted: Whether something has changed since that look of which nobody can say whether lanes have it.
    """

    def __init__(
        self,
        fork_server: ForkServer,
        workers: Sequence[Worker],
        other_code: Mapping[str, tuple[str, ...]],
        *,
        on_gpu: bool,
        executed: Callable[[], Mapping[str, str]],
        in_lanes: Callable[[], Sequence[Sequence[str]]],
    ) -> None:
        self._executed = executed
        self._in_lanes = in_lanes
        self._fork_server = fork_server
        self._workers = workers
        self._other_code = dict(other_code)
        self._on_gpu = on_gpu
        self._settings = fork_server.settings
        self.unlike: Mapping[str, Unlike] = {}
        self.doubted = False

    @property
    def outdated(self) -> bool:
        """Whether the session has set something since lanes took its settings."""
        return self._fork_server.settings is not self._settings

    def take_settings(self) -> None:
        """Have lanes take what the session has set, where that changed."""
        if self.outdated:
            for worker in self._workers:
                worker.take_settings()
            self._settings = self._fork_server.settings  # last: an interrupt before it has all lanes told again

    def doubt(self, name: str) -> None:
        """Nothing is known of a sub-model that was registered again and that its lane has already: it is compared."""
        self.unlike = {other: item for other, item in self.unlike.items() if other != name}
        self.doubted = True

    def loaded_anew(self, names: Collection[str], other_code: Mapping[str, tuple[str, ...]]) -> None:
        """These sub-models were loaded anew; of some, functions are other code in their lanes."""
        kept = {name: code for name, code in self._other_code.items() if name not in names}
        self._other_code = {**kept, **other_code}

    def allowed(self, name: str | None = None) -> Mapping[str, float]:
        """What rounding may change between a sub-model's lane, or the combined answer, and the notebook's.

        See `tolerances`.
        """
        executed = self._executed()
        backends = executed.values() if name is None else [executed[name]]
        asked = [backend_parts(backend)[1] for backend in backends]
        loosest = max(asked, key=lambda precision: IN_PRECISION[precision]["float32"], default="")
        # Where it was exported may have been another processor, with other kernels.
        return tolerances(self._settings, on_gpu=self._on_gpu or self._exported, precision=loosest)

    @property
    def _exported(self) -> bool:
        return isinstance(self._fork_server.own_answers, ExportedAnswers)

    def look(self, answers: Mapping[str, Tree], ensemble: Ensemble, x: Tree) -> None:
        """Compare what lanes answered to `x` with what the notebook's own process answers: see `unlike`."""
        self.unlike = self.unlike_to(own_answers(ensemble, x, self._fork_server), answers, ensemble, x)
        self.doubted = False

    def unlike_to(
        self, own: Mapping[str, Tree], answers: Mapping[str, Tree], ensemble: Ensemble, x: Tree
    ) -> dict[str, Unlike]:
        """The sub-models whose lanes are not what the notebook is.

        Args:
            own: What its process answers, or raises; whoever is not there is not compared.
            answers: Of the lanes, by name.
            ensemble: The sub-models.
            x: The input.
        """
        found = self._unlike(answers, own, ensemble)
        suspects = [name for name, item in found.items() if item.wrong and not isinstance(own[name], ModelError)]
        ask = self._fork_server.own_answers
        if not suspects or ask is None:
            return found
        # What the notebook answered before may not be what it answers now: a file that it reads has changed.
        asked = {name: ask.again(ensemble.get(name), x, self._settings) for name in suspects}
        now = {name: answer for name, answer in asked.items() if answer is not None}
        others = {name: item for name, item in found.items() if name not in suspects}
        return others | self._unlike({name: answers[name] for name in suspects}, now, ensemble)

    def _moved_by_others(self, ensemble: Ensemble) -> frozenset[str]:
        """Members whose lane runs one before them that shares state with them: called in turn, as nobody asks here."""
        return frozenset(
            name
            for members in self._in_lanes()
            for place, name in enumerate(members)
            if not set(members[:place]).isdisjoint(ensemble.get(name).shares)
        )

    def _unlike(self, answers: Mapping[str, Tree], own: Mapping[str, Tree], ensemble: Ensemble) -> dict[str, Unlike]:
        found: dict[str, Unlike] = {}
        executed, moved = self._executed(), self._moved_by_others(ensemble)
        for name, answer in answers.items():
            # int8 is right for data like its calibration's, and the input may be noise: its lane has compared it there.
            # A GPU draws other numbers than a CPU with the same seed.
            apart = name in moved or (self._on_gpu and ensemble.get(name).traits.random)
            compares = name in own and not apart and backend_parts(executed[name])[1] != "int8"
            compare = difference_of_tensors if self._exported else difference
            if not compares:
                compared = None
            elif isinstance(own[name], ModelError):
                compared = _raised_here(own[name])
            else:
                compared = compare(answer, own[name], self.allowed(name))
            code = self._other_code.get(name, ())
            if code or (compared is not None and not compared.agrees):
                replaced = ensemble.get(name).traits.replaced
                found[name] = Unlike(
                    name=name, found=compared, other_code=code, replaced=replaced, exported=self._exported
                )
        return found
