"""Combining on the host, where the lanes wrote their outputs: the next answer's memory is had before it is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Combine, Ensemble, Reserved, SmallMean
from esen_lab.lanes import Worker
from esen_lab.lanes.arena import MOST_KEPT
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.run.lane_group import LaneGroup


def combined(rule: Combine, outputs: Mapping[str, Tree], threads: CallersThreads) -> Tree:
    """What a rule makes of some members' outputs, which lie on the host: new memory, in the thread that calls.

    Args:
        rule: For just these members.
        outputs: By member, in the order of the ensemble.
        threads: Those of the calling process, which are quiet meanwhile.
    """
    import torch

    # A function of the user's own computes as it would outside.
    with torch.no_grad(), nullcontext() if rule.function is not None else threads.alone():
        return rule(outputs)


class Prepared(NamedTuple):
    """A combine rule for outputs that look like the last ones, and memory for one answer."""

    rule: SmallMean
    memory: Reserved


class HostCombine:
    """Combines what the lanes of one plan wrote. Used by one thread at a time.

    Args:
        workers: The lanes.
        group: The same lanes, which have the outputs.
        threads: Those of the calling process, which are quiet meanwhile.
    """

    def __init__(self, workers: Sequence[Worker], group: LaneGroup, threads: CallersThreads) -> None:
        self._workers = workers
        self._group = group
        self._threads = threads
        self._rule: SmallMean | None = None
        self._rule_for: tuple[tuple[int, ...], Combine | None] = ((), None)
        self._rules: dict[tuple[int, ...], SmallMean | None] = {}  # of one combine rule, by how outputs lie
        self._prepared: Prepared | None = None

    def combined(self, ensemble: Ensemble, prepared: Prepared | None = None) -> Tree:
        """The combined output, the caller's own.

        Args:
            ensemble: Has the rule and the order of the sub-models.
            prepared: What was `prepared` before the lanes ran; taken where their outputs look as then.
        """
        if prepared is not None and self._ahead(ensemble) is prepared.rule:
            return prepared.rule.into(prepared.memory)
        return combined(ensemble.combine, self._group.outputs(ensemble.names), self._threads)

    def prepare(self, ensemble: Ensemble) -> None:
        """Have memory for the next answer, now that nobody waits: while lanes run, their cores are theirs."""
        rule = self._ahead(ensemble)
        self._prepared = None if rule is None else Prepared(rule, rule.reserve())

    def ready(self, ensemble: Ensemble) -> Prepared | None:
        """What is prepared for outputs that lie as they do now: those of this look, where it came before.

        Taken before the lanes answer, since their outputs may look different after.
        """
        rule = self._ahead(ensemble)
        if self._prepared is None and rule is not None:
            self.prepare(ensemble)
        return self._prepared

    def rehearse(self) -> None:
        """Combine into the memory of the next answer what lies there now: the real time then finds it in the caches."""
        if self._prepared is not None:
            self._prepared.rule.into(self._prepared.memory)

    def forget(self) -> None:
        """Nothing is prepared: outputs will look different, or are not on the host."""
        self._prepared = self._rule = None
        self._rule_for = ((), None)
        self._rules.clear()

    def _ahead(self, ensemble: Ensemble) -> SmallMean | None:
        """The combine rule prepared for outputs that look like the last ones, where it can be."""
        rule = ensemble.combine
        looks = tuple([worker.looks for worker in self._workers])
        if looks != self._rule_for[0] or rule is not self._rule_for[1]:
            self._prepared = None
            if rule is not self._rule_for[1] or len(self._rules) >= MOST_KEPT:
                self._rules.clear()
            if looks not in self._rules:
                known = all(worker.has_outputs for worker in self._workers)
                # What is prepared reads outputs where they lie; answers of groups and parts are put together first.
                prepare = known and not self._group.derived
                self._rules[looks] = rule.ahead(self._group.outputs(ensemble.names)) if prepare else None
            self._rule = self._rules[looks]
            self._rule_for = (looks, rule)
        return self._rule
