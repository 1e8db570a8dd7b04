"""What a session has set, taken and put: every switch of torch, the environment, paths."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from esen_lab.common.children import child_environment
from esen_lab.lanes.settings import (
    SessionSettings,
    Switched,
    differences,
    flushes_denormals,
    put,
    switches,
    with_threads_own,
)

OTHER: dict[str, Any] = {
    "the default dtype": torch.float64,
    "the precision of float32 products": "medium",
    "deterministic algorithms": (True, True),
    "Python's recursion limit": 12_345,
    "the default device": "meta",
    "the dtype of autocast on cpu": torch.float16,
    "the dtype of autocast on cuda": torch.bfloat16,
    "the order of einsum: strategy": None,
    "the quantized engine": None,
    "the most digits of a whole number as text": 12_345,
    "the locale": "C",
    "the order of kernels of attention": tuple(range(5)),
    "the preferred library of linear algebra": None,
    "the preferred library of products": None,
    "sums of float16 products": (False, False),
    "sums of bfloat16 products": (False, False),
    "the context of decimals": (10, "ROUND_UP", -99, 99, 0, 1, *[False] * 9),
    "NumPy's handling of errors": (("divide", "raise"), ("over", "warn"), ("under", "raise"), ("invalid", "ignore")),
}
ONLY_LOOKED_AT = (
    "functions put into torch.nn.functional",
    "methods put into torch.nn.Module",
    "methods put into torch.Tensor",
    "filters that make errors of warnings",
    "hooks of all networks",
    "modes of torch",
    "inference mode",
)
ALL = [switch for table in switches() for switch in table if switch.name not in ONLY_LOOKED_AT]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = SessionSettings().now()
    yield
    put(before)


def other(name: str, value: Any) -> Any:
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    return "ieee" if name.startswith("the precision of") else None


@pytest.mark.parametrize("switch", ALL, ids=lambda switch: switch.name)
def test_every_switch_that_can_be_changed_here_is_noticed_named_and_put_elsewhere(switch: Any) -> None:
    session = SessionSettings()
    before = session.now()
    with contextlib.suppress(Exception):
        switch.write(other(switch.name, switch.read()))
    after = session.now()
    if after is before:
        pytest.skip("this torch or this machine does not have another value for it")
    assert any(switch.name in told for told in differences(before, after))
    put(before)
    assert session.now() == before
    put(pickle.loads(pickle.dumps(after)))
    assert session.now() == after


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_what_was_put_into_torch_is_noticed_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SessionSettings()
    before = session.now()
    linear, call = torch.nn.functional.linear, torch.nn.Module.register_buffer
    seen = []
    places = (
        ("linear", torch.nn.functional, linear),
        ("register_buffer", torch.nn.Module, call),
        ("relu", torch.Tensor, torch.Tensor.relu),
    )
    for name, place, value in places:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *given, value=value: value(*given))
            seen.append(session.now())
            assert any(name in told for told in differences(before, seen[-1]))
        assert session.now() == before
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert any("hooks of all networks" in told for told in differences(before, session.now()))
    handle.remove()
    with Mode():
        assert any("Mode" in told for told in differences(before, session.now()))
        put(session.now())
    assert session.now() == before
    with torch.device("meta"):
        assert [told for told in differences(before, session.now()) if "modes" in told] == []


@pytest.mark.parametrize(("kernel", "counts"), [("CPU", True), ("FuncTorchBatched", False), ("Meta", False)])
def test_kernels_that_parts_of_torch_bring_when_they_are_first_used_are_none_that_were_put_in(
    kernel: str, counts: bool
) -> None:
    session = SessionSettings()
    before = session.now()
    torch.library._impls.add(f"aten/made_up/{kernel}")
    try:
        assert bool(differences(before, session.now())) is counts
    finally:
        torch.library._impls.remove(f"aten/made_up/{kernel}")
    assert not differences(before, session.now())


def test_nothing_changed_is_the_same_object() -> None:
    session = SessionSettings()
    first = session.now()
    assert session.now() is first
    os.environ["ESEN_TEST_ANY"] = "1"
    second = session.now()
    assert second is not first
    del os.environ["ESEN_TEST_ANY"]
    assert session.now() == first


@pytest.mark.parametrize(
    "name", ["CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"]
)
def test_what_places_decide_does_not_travel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "ours")
    assert os.fsencode(name) not in SessionSettings().now().environment
    other_process = SessionSettings().now()
    monkeypatch.setenv(name, "the place's")
    put(other_process)
    assert os.environ[name] == "the place's"


def test_paths_travel_in_absolute_form() -> None:
    sys.path.insert(0, "some/folder")
    taken = SessionSettings().now()
    assert taken.path[0] == os.path.abspath("some/folder")
    sys.path.pop(0)
    put(taken)
    assert sys.path[0] == os.path.abspath("some/folder")
    sys.path.pop(0)


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_what_a_thread_has_set_is_put_in_another_thread_of_this_process() -> None:
    torch.set_autocast_enabled("cpu", True)
    taken = SessionSettings().now()

    def other_thread() -> tuple[bool, bool, bool]:
        before = torch.is_autocast_enabled("cpu")
        put(taken, whole_process=False)
        inside = torch.is_autocast_enabled("cpu")
        torch.set_autocast_enabled("cpu", False)
        with with_threads_own(taken):
            held = torch.is_autocast_enabled("cpu")
        return before, inside, held and not torch.is_autocast_enabled("cpu")

    assert in_thread(other_thread) == (False, True, True)


def test_flushing_of_denormals_is_seen_without_asking_torch() -> None:
    assert not flushes_denormals()
    torch.set_flush_denormal(True)
    assert flushes_denormals()
    assert float((torch.full((4,), 1e-41) * 1.0).sum()) == 0.0
    torch.set_flush_denormal(False)
    assert not flushes_denormals()


def test_fewer_digits_are_known_to_round_more() -> None:
    session = SessionSettings()
    assert not session.now().rounds_more
    torch.set_float32_matmul_precision("medium")
    assert session.now().rounds_more
    torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu", torch.bfloat16):
        assert session.now().rounds_more


def test_points_are_told_apart_by_switches_that_change_times() -> None:
    session = SessionSettings()
    assert session.now().unusual == ()
    torch.set_flush_denormal(True)
    assert session.now().unusual == ("flushing of denormals on",)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ATEN_CPU_CAPABILITY", True),
        ("ONEDNN_MAX_CPU_ISA", True),
        ("ONEDNN_DEFAULT_FPMATH_MODE", True),
        ("MKL_CBWR", True),
        ("OMP_WAIT_POLICY", True),
        ("LD_PRELOAD", True),
        ("MKL_NUM_THREADS", False),
        ("TORCHINDUCTOR_CACHE_DIR", False),
        ("ONEDNN_VERBOSE", False),
        ("ESEN_TEST_ANY", False),
    ],
)
def test_points_are_told_apart_by_variables_that_change_times(
    name: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "default")
    assert SessionSettings().now().unusual == ((f"{name}=default",) if counts else ())


def test_variables_that_a_process_begins_with_count_as_they_were_when_lanes_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = SessionSettings()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert session.now().unusual == ()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert session.now().unusual == ("ATEN_CPU_CAPABILITY=default",)


def test_switches_are_put_in_force_for_a_moment_and_put_back() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.float16):
            named = SessionSettings().now().named
    finally:
        torch.set_default_dtype(torch.float32)
    assert json.loads(json.dumps(named)) == named
    before = SessionSettings().now()
    assert before.named.keys() < named.keys(), "what another test has named stays"
    with Switched(named)():
        assert SessionSettings().now().named == named
        assert torch.zeros(1).dtype == torch.float64
    assert SessionSettings().now() == before


def test_a_new_process_has_nothing_switched() -> None:
    code = "from esen_lab.lanes.settings import SessionSettings; print(SessionSettings().now().named)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=child_environment())
    assert done.stdout == "{}\n"


def test_switches_that_are_not_known_or_of_another_kind_are_left_alone() -> None:
    before = SessionSettings().now()
    with Switched({"the default dtype": "torch.load", "oneDNN": "no", "no such": True, "NNPACK": [1]})():
        assert SessionSettings().now() == before


def test_a_hook_or_mode_at_the_address_of_one_that_is_gone_is_another_one() -> None:
    session = SessionSettings()
    seen = []
    for _ in range(4):
        handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        seen.append(session.now())
        handle.remove()
    for _ in range(4):
        with Mode():
            seen.append(session.now())
    keys = [settings.process for settings in seen]
    assert all(keys[i] != keys[j] for i in range(len(keys)) for j in range(i))


def test_the_time_zone_that_was_taken_over_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SessionSettings()
    before = session.now()
    zone = time.tzname
    try:
        monkeypatch.setenv("TZ", "XYZ-5")
        time.tzset()
        after = session.now()
        assert any("the time zone" in told for told in differences(before, after))
        put(before)
        assert time.tzname == zone
        put(after)
        assert time.tzname == ("XYZ", "XYZ")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_points_are_told_apart_by_every_switch_that_changes_answers() -> None:
    session = SessionSettings()
    assert session.now().unusual == ()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    assert session.now().unusual == ("the precision of mkldnn matmul bf16",)


def test_full_precision_is_usual_whether_it_was_asked_for_or_not() -> None:
    session = SessionSettings()
    torch.set_float32_matmul_precision("high")
    assert session.now().unusual
    torch.set_float32_matmul_precision("highest")
    assert session.now().unusual == ()
    assert session.now().named == {}
    torch.backends.mkldnn.fp32_precision = "bf16"  # type: ignore[attr-defined]
    assert session.now().named["the precision of mkldnn matmul"] == "ieee", "what is above it asks for less now"


def test_what_autocast_has_cast_for_another_call_is_not_kept() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        taken = SessionSettings().now()
    for wanted in (2.0, 4.0):
        with with_threads_own(taken):
            assert (torch.ones(1, 2) @ weight)[0, 0].item() == wanted
        weight.data.mul_(2)


def test_filters_that_make_errors_of_warnings_are_noticed_and_others_are_not() -> None:
    session = SessionSettings()
    before = session.now()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.simplefilter("error", ResourceWarning)
        assert session.now() == before
        warnings.filterwarnings("error", "odd")
        assert any("filters that make errors of warnings" in told for told in differences(before, session.now()))
        warnings.simplefilter("ignore")
        assert session.now() == before
