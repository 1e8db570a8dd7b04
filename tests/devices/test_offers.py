"""What a machine offers and which device is taken, on machines that are doubles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_doubles import GPU, MACHINE

from esen_lab.devices.catalogue import Catalogue, name_for, offers, open_device
from esen_lab.devices.cuda.gpus import Machine
from esen_lab.devices.offer import SharingMode, Verdict
from esen_lab.devices.self_test import run_self_test
from esen_lab.errors import DeviceError, UsageError


def sharing_mode(word: str, rank: int, *lacks: str) -> SharingMode:
    """A sharing mode that opens nothing real."""
    return SharingMode(
        word=word,
        unit="percent",
        rank=rank,
        how="Ask somebody.",
        missing=lambda machine, gpu: lacks,
        units=lambda gpu: 100,
        open=lambda machine, gpu, option: SimpleNamespace(gpu=gpu, option=option),  # type: ignore[arg-type,return-value]
        test=lambda device: "seen",
    )


class CountedTests:
    """Counts self-tests, and lets those of some devices fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.ran: list[str] = []

    def __call__(self, name: str) -> Verdict:
        self.ran.append(name)
        return Verdict(passed=name not in self.failing, text="broken" if name in self.failing else "66 of 132 SMs")


def catalogue(*sharing_modes: SharingMode, machine: Machine = MACHINE, tests: CountedTests | None = None) -> Catalogue:
    return Catalogue(lambda: machine, {m.word: m for m in sharing_modes}, tests or CountedTests())


def test_a_machine_without_a_gpu_takes_the_cpu_and_says_why() -> None:
    found = catalogue(sharing_mode("mps", 2), machine=Machine(why_no_gpu="this machine has no NVIDIA driver"))
    gpu, cpu = found.offers()
    assert (gpu.name, gpu.available, gpu.passed) == ("cuda:0 mps", False, None)
    assert gpu.missing == ("an NVIDIA GPU and its driver: this machine has no NVIDIA driver",)
    assert (cpu.name, cpu.available, cpu.chosen) == ("cpu", True, True)
    assert found.default() == "cpu"
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        found.open("cuda:0 mps")


def test_the_best_that_passes_is_taken_and_those_behind_it_are_not_tried() -> None:
    tests = CountedTests()
    found = catalogue(sharing_mode("green", 1), sharing_mode("mps", 2), tests=tests)
    assert found.default() == "cuda:0 mps"
    assert tests.ran == ["cuda:0 mps"]


def test_one_that_fails_its_test_is_passed_over_but_can_be_named() -> None:
    tests = CountedTests("cuda:0 mps")
    found = catalogue(sharing_mode("green", 1), sharing_mode("mps", 2), tests=tests)
    assert found.default() == "cuda:0 green"
    assert [(offer.name, offer.passed, offer.chosen) for offer in found.offers()] == [
        ("cuda:0 mps", False, False),
        ("cuda:0 green", True, True),
        ("cpu", None, False),
    ]
    assert found.offers()[0].verdict == "broken"
    assert found.open("cuda:0 mps") is not None
    assert tests.ran == ["cuda:0 mps", "cuda:0 green"], "once per process each"


def test_what_is_missing_is_said_with_how_to_get_it_and_not_tried() -> None:
    tests = CountedTests()
    found = catalogue(sharing_mode("mps", 2, "the programs of MPS"), tests=tests)
    offer = found.offers()[0]
    assert (offer.available, offer.missing, offer.how) == (False, ("the programs of MPS",), "Ask somebody.")
    assert tests.ran == []
    with pytest.raises(DeviceError, match=r"needs the programs of MPS.*Ask somebody"):
        found.open("cuda:0 mps")


def test_without_tests_nothing_is_tried_and_nothing_is_said_to_be_chosen() -> None:
    tests = CountedTests()
    found = catalogue(sharing_mode("mps", 2), tests=tests).offers(test=False)
    assert tests.ran == []
    assert found[0].verdict == "not tried yet"
    assert not any(offer.chosen for offer in found)


def test_a_name_may_carry_an_option_or_leave_the_sharing_mode_out() -> None:
    found = catalogue(sharing_mode("green", 1), sharing_mode("mps", 2))
    opened: Any = found.open("cuda:0  mps adopt /run/mps")
    assert (opened.gpu, opened.option) == (GPU, "adopt /run/mps")
    assert found.open("cuda") is not None


@pytest.mark.parametrize("name", ["tpu", "cuda:0 fast", "cuda:x mps"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="cpu, cpu:all, cpu:fast, cpu:slow, cuda:0 mps, fake:FILE"):
        catalogue(sharing_mode("mps", 2)).open(name)


@pytest.mark.parametrize("which", [5, ["cpu"], b"cpu"])
def test_what_is_neither_a_name_nor_a_device_is_refused_at_once(which: Any) -> None:
    with pytest.raises(UsageError, match="named by text, or is a Device"):
        open_device(which)


def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"1 GPU\(s\), counted from 0"):
        catalogue(sharing_mode("mps", 2)).open("cuda:1 mps")


def test_the_device_of_a_plan_is_known_by_its_kind() -> None:
    assert name_for({"kind": "cpu", "details": {"pinned": "yes"}}) == "cpu"
    assert name_for({"kind": "cuda mps"}) == "cuda:0 mps"
    assert name_for({"kind": "simulated"}) is None
    assert name_for({"kind": "cpu", "details": {"cores": "fast"}}) == "cpu"
    assert name_for({"kind": "cpu", "details": {"cores": "slow"}}) == "cpu:slow"
    assert name_for({"kind": "cpu", "details": {"cores": "all"}}) == "cpu:all"


def test_an_offer_is_plain_data() -> None:
    assert json.loads(json.dumps([offer.to_dict() for offer in offers(test=False)]))[-1]["name"] == "cpu"
    assert open_device(None).units >= 1


def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


def test_a_self_test_runs_in_a_process_of_its_own() -> None:
    verdict = run_self_test("cpu")
    assert verdict.passed
    assert verdict.text.endswith("cores")
    refused = run_self_test("abacus")
    assert not refused.passed
    assert "A device is one of" in refused.text


def test_a_self_test_that_hangs_or_crashes_is_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hangs = write(tmp_path, "self_test_that_hangs", "import time; time.sleep(60)")
    assert run_self_test("x", timeout_s=0.5, module=hangs).text == "no result within 0.5 s"
    crashes = write(tmp_path, "self_test_that_crashes", "import sys; sys.exit('libcuda exploded')")
    assert run_self_test("x", module=crashes) == Verdict(passed=False, text="it ended with status 1: libcuda exploded")
    assert sys.executable
