"""What is said on the sockets, grouped by who receives it. Small frozen records, pickled whole.

The path of every call says none of these: it is a bare RUN frame answered by packed numbers (see `wire.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.devices import InForce, Placement
from esen_lab.trees import Tree
from esen_lab.workers.arena import Layout
from esen_lab.workers.kept_outputs import Lent, Rule

# --- to a worker -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Build a sub-model and run it once on its example. One descriptor follows: a memory file with the payload."""

    name: str
    payload_bytes: int
    example: Tree
    active_units: int
    sys_path: tuple[str, ...]
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Forget a sub-model."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrange:
    """What a RUN frame means from now on: these loaded sub-models, in this order and way."""

    members: tuple[str, ...]
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInput:
    """Where the ensemble's input lies from now on. A descriptor follows when `block_bytes` is not None."""

    layout: Layout
    block_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LendInput:
    """Bring the input to the GPU for all lanes from now on. The descriptor of the gate follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowInput:
    """Read the input where another lane brings it: `lent` is what that one answered. The gate's descriptor follows."""

    lent: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOutputs:
    """Leave outputs on the GPU from the next run on. Answered with a `Lent`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineOutputs:
    """Be the lane that combines. The descriptor of the block for the combined output follows."""

    rule: Rule
    order: tuple[str, ...]
    others: tuple[Lent, ...]
    layout: Layout
    block_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineNow:
    """All lanes have answered: combine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BringOutputs:
    """Send the outputs of the last run to the host after all, and with `stay` only this once."""

    stay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Call "package.module:function" with a loaded sub-model's step and these keyword arguments."""

    function: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


# --- from a worker -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker's first word: its limits are in force."""

    pid: int
    in_force: InForce


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOutputs:
    """A run is done and its outputs changed shape. A descriptor follows when `block_bytes` is not None."""

    timings: bytes
    layouts: tuple[Layout, ...]
    block_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something raised in the worker.

    Attributes:
        kind: "model" (the sub-model's own code), "device", "usage", or "lost": it took the worker's GPU context along,
            and the worker leaves.
        name: The sub-model it happened in, or "".
        summary: The exception's type and text, one line.
        traceback: For people.
        rule, given, hint: The parts of one of our own errors, where it was one.
    """

    kind: str
    name: str
    summary: str
    traceback: str
    rule: str = ""
    given: str | None = None
    hint: str = ""


# --- to and from the nursery -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Start a worker. Two descriptors follow: its socket and its log."""

    label: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Wait for a worker to be gone, kill it after `grace_s` where `kill` says so, and answer with how it ended."""

    pid: int
    grace_s: float
    kill: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a worker ended: its wait status as `os.waitstatus_to_exitcode` gives it (negative: a signal)."""

    exit_code: int | None
