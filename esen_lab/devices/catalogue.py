"""The devices of this machine by name, and the choice among them.

    "cpu"             its cores; the fast ones, where it has slow ones too
    "cpu:all"         both; "cpu:fast", "cpu:slow": one kind alone
    "cuda:0 mps"      a GPU, as torch counts them, shared by one of `SHARING_MODES`; what follows the word is its option
    "fake:FILE"       a simulated device that replays recorded latencies

Without a name, the best one that passes its self-test is taken: sharing modes by their rank, the first GPU first, the
CPU last. What was found out about the machine, and what self-tests said, is kept for the life of the process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from esen_lab.common.locks import Lock
from esen_lab.common.surroundings import step
from esen_lab.common.units import format_units
from esen_lab.common.words import unknown
from esen_lab.devices.base import Device
from esen_lab.devices.cpu.device import CpuDevice
from esen_lab.devices.cuda.gpus import Gpu, Machine, look_at_machine
from esen_lab.devices.cuda.green import GREEN
from esen_lab.devices.cuda.mps import MPS
from esen_lab.devices.fake import FakeDevice
from esen_lab.devices.offer import Offer, SharingMode, Verdict
from esen_lab.devices.self_test import run_self_test
from esen_lab.errors import DeviceError, UsageError

DEVICES: Mapping[str, Callable[[], Device]] = {
    "cpu": CpuDevice,
    "cpu:all": functools.partial(CpuDevice, wanted="all"),
    "cpu:fast": functools.partial(CpuDevice, wanted="fast"),
    "cpu:slow": functools.partial(CpuDevice, wanted="slow"),
}
SHARING_MODES: Mapping[str, SharingMode] = {MPS.word: MPS, GREEN.word: GREEN}
_NO_GPU = "an NVIDIA GPU and its driver"


def _look_first() -> str:
    return f"{step('python -m esen_lab doctor', '%esen device')} lists what this machine offers."


class Catalogue:
    """What this machine offers. May be used from several threads.

    Args:
        look: Looks which GPUs there are.
        sharing modes: The ways to share them, by word.
        test: Runs the self-test of the device with that name.
    """

    def __init__(
        self,
        look: Callable[[], Machine] = look_at_machine,
        sharing_modes: Mapping[str, SharingMode] = SHARING_MODES,
        test: Callable[[str], Verdict] = run_self_test,
    ) -> None:
        self._look = look
        self._sharing_modes = sharing_modes
        self._test = test
        self._lock = Lock()
        self._machine: Machine | None = None
        self._verdicts: dict[str, Verdict] = {}

    @property
    def machine(self) -> Machine:
        """The GPUs, looked for once."""
        with self._lock:
            if self._machine is None:
                self._machine = self._look()
            return self._machine

    def names(self) -> tuple[str, ...]:
        """The names of all that is offered, the CPU last; tests nothing."""
        return tuple(offer.name for offer in self._offers())

    def offers(self, *, test: bool = True) -> tuple[Offer, ...]:
        """Everything this machine offers or could offer, the best first.

        Args:
            test: Whether to run the self-tests that have not been run in this process; each takes some seconds.
        """
        found = [self._tested(offer) if test else self._with_verdict(offer) for offer in self._offers()]
        chosen = next((offer.name for offer in found if offer.available and offer.passed is not False), "cpu")
        if not test and any(offer.available and offer.passed is None and offer.name != "cpu" for offer in found):
            return tuple(found)  # which one is taken is not known yet
        return tuple(replace(offer, chosen=offer.name == chosen) for offer in found)

    def default(self) -> str:
        """The name of the best device that passes its self-test; those behind it are not tested."""
        for offer in self._offers():
            if offer.available and self._tested(offer).passed is not False:
                return offer.name
        return "cpu"

    def open(self, name: str) -> Device:
        """The device of that name.

        Raises:
            UsageError: No device has that name.
            DeviceError: Something that it needs is missing; the message says what and how to get it.
        """
        if name in DEVICES:
            return DEVICES[name]()
        where, _, rest = " ".join(name.split()).partition(" ")
        word, _, option = rest.partition(" ")
        kind, _, number = where.partition(":")
        if kind != "cuda" or (rest and word not in self._sharing_modes) or (number and not number.isdigit()):
            forms = [f"cuda:0 {word}" for word in self._sharing_modes]
            known = [*DEVICES, *forms]
            raise unknown(f"A device is one of: {', '.join(known)}, fake:FILE", name, known, given=name or "no name")
        machine = self.machine
        if not machine.gpus:
            raise DeviceError(
                f"{name!r} needs {_NO_GPU}", given=machine.why_no_gpu, hint=f"Choose another device. {_look_first()}"
            )
        index = int(number or 0)
        if index >= len(machine.gpus):
            raise UsageError(f"This machine has {len(machine.gpus)} GPU(s), counted from 0", given=where)
        gpu = machine.gpus[index]
        if not rest:
            word = self._best_word(machine, gpu)
        sharing_mode = self._sharing_modes[word]
        lacks = sharing_mode.missing(machine, gpu)
        if lacks:
            raise DeviceError(
                f"'{where} {word}' needs {'; '.join(lacks)}", given=gpu.name, hint=f"{sharing_mode.how} {_look_first()}"
            )
        return sharing_mode.open(machine, gpu, option)

    def try_device(self, name: str) -> str:
        """The self-test of a device, in this process; returns what was seen. Raises what the device raises."""
        device = self.open(name)
        word = name.split()[1] if len(name.split()) > 1 else ""
        if word not in self._sharing_modes:
            return format_units(device.units, device.identity.unit)
        return self._sharing_modes[word].test(device)

    def _best_word(self, machine: Machine, gpu: Gpu) -> str:
        """The sharing mode for a GPU that was named without one."""
        ranked = self._ranked()
        return next((m.word for m in ranked if not m.missing(machine, gpu)), ranked[0].word)

    def _ranked(self) -> list[SharingMode]:
        return sorted(self._sharing_modes.values(), key=lambda sharing_mode: -sharing_mode.rank)

    def _offers(self) -> list[Offer]:
        machine = self.machine
        found = []
        for sharing_mode in self._ranked():
            if not machine.gpus:
                found.append(_without_gpu(sharing_mode, machine))
            for gpu in machine.gpus:
                lacks = sharing_mode.missing(machine, gpu)
                found.append(
                    Offer(
                        name=f"cuda:{gpu.index} {sharing_mode.word}",
                        hardware=gpu.name,
                        units=sharing_mode.units(gpu),
                        unit=sharing_mode.unit,
                        available=not lacks,
                        missing=lacks,
                        how=sharing_mode.how if lacks else "",
                        verdict="not tried: something is missing" if lacks else "",
                    )
                )
        cpu = CpuDevice()
        found.append(
            Offer(
                name="cpu",
                hardware=cpu.identity.name,
                units=cpu.units,
                unit=cpu.identity.unit,
                available=True,
                verdict="needs no test",
            )
        )
        return found

    def _with_verdict(self, offer: Offer) -> Offer:
        with self._lock:
            verdict = self._verdicts.get(offer.name)
        if verdict is None:
            return offer if offer.verdict else replace(offer, verdict="not tried yet")
        return replace(offer, passed=verdict.passed, verdict=verdict.text)

    def _tested(self, offer: Offer) -> Offer:
        if offer.available and offer.name != "cpu":
            with self._lock:  # held while it is tried: two trials at once would disturb each other
                if offer.name not in self._verdicts:
                    self._verdicts[offer.name] = self._test(offer.name)
        return self._with_verdict(offer)


def _without_gpu(sharing_mode: SharingMode, machine: Machine) -> Offer:
    return Offer(
        name=f"cuda:0 {sharing_mode.word}",
        hardware="",
        units=None,
        unit=sharing_mode.unit,
        available=False,
        missing=(f"{_NO_GPU}: {machine.why_no_gpu}",),
        how="Use a machine with an NVIDIA GPU; plans for it can be made here from recorded latencies (fake:FILE).",
        verdict="not tried: something is missing",
    )


@functools.cache
def this_machine() -> Catalogue:
    """The catalogue of this machine, one per process: looking and self-tests cost seconds."""
    return Catalogue()


def offers(*, test: bool = True) -> tuple[Offer, ...]:
    """What this machine offers, and what it would if something were there; the best first.

    Args:
        test: Whether to run self-tests that have not run in this process yet; each takes some seconds on a GPU.
    """
    return this_machine().offers(test=test)


def open_device(which: str | Device | None = None) -> Device:
    """The device called `which`; None takes the best one that passes its self-test.

    "fake:FILE" is a simulated device that replays the latencies recorded in FILE (see `FakeDevice.load`).

    Raises:
        UsageError: No device has that name, or it is neither a name nor a device.
        DeviceError: Something that the device needs is missing.
        StoreError: The file of a simulated device cannot be used.
    """
    if which is None:
        which = this_machine().default()
    if isinstance(which, Device):
        return which
    if not isinstance(which, str):
        raise UsageError(
            "A device is named by text, or is a Device",
            given=f"a {type(which).__name__}",
            hint=f'Such as "cpu". {_look_first()}',
        )
    if which.startswith("fake:"):
        return FakeDevice.load(which.removeprefix("fake:"))
    return this_machine().open(which)


def name_for(device: Mapping[str, Any]) -> str | None:
    """The name of the device that plans made for one of this identity run on here; None where there is none of it."""
    kind = str(device.get("kind", ""))
    details = device.get("details")
    cores = details.get("cores") if isinstance(details, Mapping) else None
    if kind == "cpu" and cores in ("all", "slow"):
        return f"cpu:{cores}"
    word = kind.removeprefix("cuda ")
    return kind if kind in DEVICES else f"cuda:0 {word}" if word in SHARING_MODES and word != kind else None


def try_device(name: str) -> str:
    """See `Catalogue.try_device`."""
    return this_machine().try_device(name)
