"""What comes of a run: an answer, and what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esen_lab.common.trees import Tree
from esen_lab.run.report import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a plan.

    Attributes:
        output: The combined output, the caller's own.
        report: What happened.
    """

    output: Tree
    report: RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRun:
    """One run that answers for every sub-model.

    Attributes:
        output: The combined output, the caller's own.
        members: Each sub-model's answer by name, copies.
    """

    output: Tree
    members: Mapping[str, Tree]
