"""Peers: what people would use instead of a plan, each at its best documented setting, written as plans.

    openvino-sequential   OpenVINO, one network after another, each compiled for latency with all threads
    openvino-async        OpenVINO, all networks as asynchronous requests of one core
    onnxruntime-pool      ONNX Runtime, a session for each network, called from a thread pool
    inductor              `torch.compile` with frozen weights, one after another with all threads
    channels_last         PyTorch with channels innermost, one after another with all threads

A peer is one lane that has the whole device: a process of its own, which gets its input as all others do, whose answers
are checked, and whose threads sleep while others are timed. Where networks run side by side, how many threads each
computes with is a setting that nobody can know beforehand: all documented ones are tried, and the fastest is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esen_lab.common.units import format_units
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.lanes.backends import backend, why_not
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.baselines import NotApplicable

_BF16 = "@bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A way to run an ensemble.

    Attributes:
        backend: What executes the networks.
        called: That, in the words of its makers; {version} and {threads} are put in.
        mode: Of its lane; see `Lane`.
    """

    backend: str
    called: str
    mode: str = "serial"

    def settings(self, members: int, units: int) -> tuple[int, ...]:
        """How many threads a network may compute with, one number for each setting that is worth trying."""
        if self.mode == "serial":
            return (units,)
        return tuple(sorted({1, max(1, units // members), units}))


PEERS: Mapping[str, Peer] = {
    "channels_last": Peer(
        backend="channels_last", called="PyTorch with channels innermost, one network after another, {threads}"
    ),
    "openvino-sequential": Peer(
        backend="openvino",
        called="OpenVINO {version}, one network after another, each compiled for latency with {threads}",
    ),
    "openvino-async": Peer(
        backend="openvino",
        called="OpenVINO {version}, all networks as asynchronous requests of one core, each compiled with {threads}",
        mode="async",
    ),
    "onnxruntime-pool": Peer(
        backend="onnxruntime",
        called="ONNX Runtime {version}, a session for each network in a thread pool, each with {threads}",
        mode="threads",
    ),
    "inductor": Peer(
        backend="inductor", called="torch.compile with frozen weights, one network after another, {threads}"
    ),
}
"""The peers by name, those first that are prepared soonest."""


def peer_of(name: str) -> Peer | None:
    """The peer of a name, which may ask for bfloat16 ("openvino-async@bf16"); None where there is none."""
    return PEERS.get(name.removesuffix(_BF16))


def peers_here(device: Device) -> tuple[str, ...]:
    """The peers that can be had on a device: those on a CPU that are installed."""
    return tuple(name for name, peer in PEERS.items() if not _hindrance(peer.backend, device))


def peer_plans(name: str, ensemble: Ensemble, device: Device) -> tuple[Plan, ...]:
    """A peer as plans, one for each setting that is worth trying.

    Raises:
        NotApplicable: It cannot be had here.
    """
    peer = PEERS[name.removesuffix(_BF16)]
    how = peer.backend + (_BF16 if name.endswith(_BF16) else "")
    if why := _hindrance(how, device):
        raise NotApplicable(why)
    count = len(ensemble.names)

    def plan(threads: int) -> Plan:
        lane = Lane(
            units=device.units,
            members=ensemble.names,
            active_units=(threads,) * count,
            backends=(how,) * count,
            mode=peer.mode,
        )
        return Plan(lanes=(lane,), units=device.units, searcher=name)

    return tuple(map(plan, peer.settings(count, device.units)))


def setting_of(name: str, plan: Plan) -> str:
    """In words, how a peer runs by one of its plans."""
    peer = PEERS[name.removesuffix(_BF16)]
    threads = format_units(plan.lanes[0].active_units[0], "thread")
    version = backend(peer.backend).version().partition(" ")[0]
    in_bf16 = ", with matrix products in bfloat16" if name.endswith(_BF16) else ""
    return peer.called.format(version=version, threads=threads) + in_bf16


def _hindrance(how: str, device: Device) -> str:
    """Why what executes networks cannot be had on a device; "" where it can."""
    if device.identity.simulated:
        return "Simulated lanes run their sub-models one after another, eagerly"
    if device.identity.kind != "cpu":
        return "It is compared on CPUs alone"
    return why_not(how)
