"""What a device promises: it has so many units, and it can give a lane its share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


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

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as stored with profiles and plans."""
        return {
            "kind": self.kind,
            "name": self.name,
            "units": self.units,
            "unit": self.unit,
            "details": dict(self.details),
            "simulated": self.simulated,
        }


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


class Placement(Protocol):
    """One lane's place on a device. Picklable: the worker itself applies it."""

    @property
    def units(self) -> int:
        """The lane's share."""

    def apply(self) -> InForce:
        """Put the limit in force in this process, before any model exists, and report what is in force.

        Raises:
            DeviceError: It could not be put in force.
        """

    def use(self, active_units: int) -> None:
        """Let the next step use `active_units` (1..units) of the share. Cheap when nothing changes."""


@runtime_checkable
class Retiring(Protocol):
    """A placement whose process must not be killed at once.

    Killing a client of NVIDIA MPS with work in flight is undefined behaviour for all others on the GPU.
    """

    @property
    def grace_s(self) -> float:
        """How long its process may take to finish what it is at, in seconds."""

    def retire(self, pid: int) -> None:
        """Have a process that did not leave in time ended in an orderly way. Called by its parent before it kills."""


@runtime_checkable
class Crowded(Protocol):
    """A device that serves only so many lanes at a time, whoever started them."""

    @property
    def most_lanes(self) -> int:
        """How many."""


class Device(Protocol):
    """Where shares are enforced. Stateless towards lanes: who runs where is the caller's to keep.

    Implementations may be used from several threads at once.
    """

    @property
    def identity(self) -> DeviceIdentity:
        """What it is; stable for the life of the process."""

    @property
    def units(self) -> int:
        """How many units it has, at least 1."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about shares here ("this system cannot pin lanes"); usually empty."""

    def place(self, shares: Sequence[int]) -> tuple[Placement, ...]:
        """Places for lanes that run at the same time, one per share.

        Disjoint while the shares sum to at most `units`; overlapping as little as possible beyond that.

        Raises:
            UsageError: A share is not within 1..units.
            DeviceError: The device cannot take lanes at present.
        """

    def close(self) -> None:
        """Let go of whatever serves the lanes; lanes have ended by then. May be called again, and used afterwards."""
