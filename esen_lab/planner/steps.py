"""What a lane runs one after another: whole sub-models, groups of equal ones run as one, parts of a batch.

A step is written as it is shown, and no sub-model can be called so:

    a           the sub-model a
    a+b+c       a group: equal networks, stacked and run as one call of `torch.func`
    a 1/2       a part: a on the first half of the rows; "a 2/2" runs elsewhere, and the answers are joined in order
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from esen_lab.common.units import check_name
from esen_lab.errors import UsageError

MOST_PARTS = 64
_PART = re.compile(r"(?P<name>\S+) (?P<part>[1-9][0-9]?)/(?P<parts>[1-9][0-9]?)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a lane.

    Attributes:
        members: The sub-models it answers for: several make a group.
        part: Which part of the batch it runs, from 1.
        parts: In how many parts the batch is split; 1: it runs the whole.
    """

    members: tuple[str, ...]
    part: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        for name in self.members:
            check_name(name)
        if len(set(self.members)) != len(self.members):
            raise UsageError("A group holds a sub-model once", given="+".join(self.members))
        if not 1 <= self.part <= self.parts <= MOST_PARTS:
            raise UsageError(f"A part is k/n with 1 <= k <= n <= {MOST_PARTS}", given=f"{self.part}/{self.parts}")

    @property
    def name(self) -> str:
        """As it is written in plans and shown."""
        whole = "+".join(self.members)
        return whole if self.parts == 1 else f"{whole} {self.part}/{self.parts}"

    @property
    def plain(self) -> bool:
        """Whether it is one whole sub-model."""
        return len(self.members) == 1 and self.parts == 1

    @property
    def kind(self) -> str:
        """What it is beside a sub-model: "group of 3", "1/2 of its batch"; "" where it is one."""
        if self.parts > 1:
            return f"1/{self.parts} of its batch"
        return f"group of {len(self.members)}" if len(self.members) > 1 else ""

    @classmethod
    def of(cls, name: object) -> Step:
        """The step that is written so.

        Raises:
            UsageError: It is no name of a sub-model, and neither a group nor a part.
        """
        return _step(name if isinstance(name, str) else check_name(name))


@lru_cache(maxsize=1024)  # plans are made of few steps, and check them each time
def _step(name: str) -> Step:
    part = _PART.match(name)
    if part is not None and int(part["parts"]) > 1:
        return Step(members=(part["name"],), part=int(part["part"]), parts=int(part["parts"]))
    return Step(members=tuple(name.split("+")))


def is_plain(name: str) -> bool:
    """Whether a step is written as one whole sub-model is."""
    return "+" not in name and " " not in name


def derived_of(steps: Iterable[str]) -> dict[str, Step]:
    """Those of some steps that are groups and parts, by name."""
    return {name: Step.of(name) for name in steps if not is_plain(name)}


def members_of(steps: Iterable[str]) -> tuple[str, ...]:
    """The sub-models that steps answer for, each once, in the order in which they are met.

    Raises:
        UsageError: A step is not written as one.
    """
    steps = tuple(steps)
    if all(map(is_plain, steps)):
        return steps
    return tuple(dict.fromkeys(name for step in steps for name in Step.of(step).members))


def check_steps(steps: Sequence[str]) -> None:
    """Check that steps answer for each sub-model once: alone, in one group, or in all of its parts.

    Raises:
        UsageError: They do not; the message names the sub-models.
    """
    known = [Step.of(name) for name in steps]
    wholes = Counter(name for step in known if step.parts == 1 for name in step.members)
    split: dict[str, list[Step]] = {}
    for step in known:
        if step.parts > 1:
            split.setdefault(step.members[0], []).append(step)
    twice = sorted({*(name for name, times in wholes.items() if times > 1), *(wholes.keys() & split.keys())})
    if twice:
        raise UsageError("A sub-model is in one lane", given=f"{', '.join(twice)} in several")
    for parts in split.values():
        of = parts[0].parts
        if sorted((step.part, step.parts) for step in parts) != [(part, of) for part in range(1, of + 1)]:
            raise UsageError(
                "A sub-model that is split runs each part of its batch once",
                given=", ".join(step.name for step in parts),
            )
