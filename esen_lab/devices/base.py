"""What a device promises: it has so many units, and it can give a lane its share of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from esen_lab.common.records import to_dict

if TYPE_CHECKING:
    from esen_lab.devices.cpu.interference import Interference


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """What a measurement was made on. Two devices with equal identity share stored points.

    Attributes:
        kind: How shares are enforced: "cpu", "cuda mps", "cuda green".
        name: The hardware's own name ("AMD EPYC 7763").
        units: How many units it has.
        unit: What one unit is called: "core".
        details: Whatever else changes latencies: versions, instruction set, whether lanes are pinned.
        simulated: True for a device that measures nothing.
    """

    kind: str
    name: str
    units: int
    unit: str
    details: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    _key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the key, once."""
        key = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "_key", key)

    @property
    def key(self) -> str:
        """The identity as text: equal for equal devices, whatever the order of their details."""
        return self._key

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as stored with profiles and plans."""
        return to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What a worker found to be really in force after its share was applied; never what was merely asked for.

    Attributes:
        units: The share.
        description: For people ("CPUs 0-1, 2 threads").
        torch_device: Where the lane's sub-models live, as torch names it in the worker.
    """

    units: int
    description: str
    torch_device: str = "cpu"


class Placement(ABC):
    """One lane's place on a device, and what is special about it: what a place does not say is as on any other.

    Picklable where its lane is a process: that one applies it.

    Attributes:
        in_process: Whether its lane is a thread of this process, on which `apply` and everything else is then called.
        grace_s: How long its process may take to finish what it is at before it is killed, in seconds. Above 0 where
            killing it at once does harm: a client of NVIDIA MPS with work in flight takes the others along.
        paced: Whether sub-models take a time of the device's own (`pace`); they then run one after another.
    """

    in_process: ClassVar[bool] = False
    grace_s: ClassVar[float] = 0.0
    paced: ClassVar[bool] = False

    @property
    @abstractmethod
    def units(self) -> int:
        """The lane's share."""

    @property
    def gpu_uuid(self) -> str:
        """The GPU it lies on, for readings of it; "" where there are none."""
        return ""

    @property
    def stream(self) -> Any:
        """The stream that its lane computes on, as torch has it; None: a new one."""
        return None

    def another_stream(self) -> Any:
        """A further stream with this share, which lives as long as the place; None: any new one has it."""
        return None

    @abstractmethod
    def apply(self) -> InForce:
        """Put the limit in force in this process, before any model exists, and report what is in force.

        Raises:
            DeviceError: It could not be put in force.
        """

    @abstractmethod
    def use(self, active_units: int) -> None:
        """Let the next step use `active_units` (1..units) of the share. Cheap when nothing changes."""

    def knows(self, name: str) -> None:  # noqa: B027  a default: most places have nothing of the kind
        """Make sure that a sub-model of that name can run here.

        Raises:
            UsageError: It cannot.
        """

    def pace(self, name: str, active_units: int, began_ns: int) -> None:  # noqa: B027  a default: most places have nothing of the kind
        """Wait until the sub-model that began at `began_ns` (`time.perf_counter_ns`) has taken its time."""

    def cuda(self) -> Any:
        """What its lane drives a GPU by: `torch.cuda`, or a double of it."""
        import torch

        return torch.cuda

    def retire(self, pid: int) -> None:  # noqa: B027  a default: most places have nothing of the kind
        """Have a process that did not leave within `grace_s` ended in an orderly way. Called before it is killed."""

    def release(self) -> None:  # noqa: B027  a default: most places have nothing of the kind
        """The lane has ended, or never began: let go of what `apply` opened here. May be called again."""


class Device(ABC):
    """Where shares are enforced. Stateless towards lanes: who runs where is the caller's to keep.

    Implementations may be used from several threads at once. What is special about a device is said by the members
    that have a default.
    """

    @property
    @abstractmethod
    def identity(self) -> DeviceIdentity:
        """What it is; stable for the life of the process."""

    @property
    def units(self) -> int:
        """How many units it has, at least 1."""
        return self.identity.units

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about shares here ("this system cannot pin lanes"); usually empty."""
        return ()

    @property
    def hardware(self) -> str:
        """Of a part of the machine, what all its processes call it, however they count ("GPU-1b4f…"); else ""."""
        return ""

    @property
    def most_lanes(self) -> int | None:
        """How many lanes it serves at a time, whoever started them; None: any number."""
        return None

    @property
    def cores(self) -> tuple[tuple[int, ...], ...]:
        """Where it is a CPU: its cores, each as its logical CPUs."""
        return ()

    @property
    def shared_cache_bytes(self) -> int:
        """Where it is a CPU: what the last caches before memory hold, all of them together; 0 where nobody tells."""
        return 0

    @property
    def steps(self) -> tuple[int, ...]:
        """Shares beyond which one unit more is of another kind: what a lane's units have in common ends there."""
        return ()

    def describe(self) -> tuple[tuple[str, str], ...]:
        """What it looks like inside, a few (label, text), beyond its identity; () where there is nothing to say."""
        return ()

    def remarks_on(self, shares: Sequence[int]) -> tuple[str, ...]:  # noqa: ARG002  a default
        """What is worse for lanes of these shares, side by side, than it was for each when it was measured alone."""
        return ()

    def interference(self, *, measure: bool = False) -> Interference | None:  # noqa: ARG002  a default
        """What its lanes take of each other's memory bandwidth; None where that is not known.

        Args:
            measure: Whether to measure it now, where it was not.
        """
        return None

    def lost(self) -> str:
        """What this process may not use any more of it, in a sentence, or "". Cheap as long as it is nothing."""
        return ""

    def free_bytes(self) -> int | None:
        """Memory that a new lane could have now; None where that is not known."""
        return None

    @abstractmethod
    def place(self, shares: Sequence[int]) -> tuple[Placement, ...]:
        """Places for lanes that run at the same time, one per share.

        Disjoint while the shares sum to at most `units`; overlapping as little as possible beyond that.

        Raises:
            UsageError: A share is not within 1..units.
            DeviceError: The device cannot take lanes at present.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of whatever serves the lanes; lanes have ended by then. May be called again, and used afterwards."""
