"""What a lane does, tried without a process around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from arenas import feed, load
from backend_nets import lacking
from models import ByKeyword, MakesNan, OverwritesInput, Raises, mlp, payload
from torch import nn

from esen_lab.common.trees import Tree
from esen_lab.devices import CpuDevice
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import UsageError
from esen_lab.lanes.backends import wrapped
from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._protocol import BackendSettings
from esen_lab.lanes.engine import Engine, InSubModel
from esen_lab.lanes.timings import RunTimings


@pytest.fixture
def engine() -> Iterator[Engine]:
    # Only `use` is called on the place: nothing here is pinned, and the number of threads is put back.
    threads = torch.get_num_threads()
    yield Engine(CpuDevice(cores=[(0,)]).place([1])[0])
    torch.set_num_threads(threads)


def test_members_run_one_after_another_and_write_their_outputs(engine: Engine) -> None:
    x = torch.randn(4, 8)
    first, second = mlp(seed=1), mlp(seed=2)
    load(engine, "a", first, x)
    load(engine, "b", second, x)
    engine.arrange(("b", "a"), "serial")
    feed(engine, x)
    packed, changed, grown = engine.run()
    timings = RunTimings.unpack(packed)
    assert (changed, grown) == (True, True)
    assert timings.end_ns[0] <= timings.start_ns[1]
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(0), second(x))
        assert torch.equal(engine.outputs.read(1), first(x))


def test_a_second_run_of_the_same_shape_lays_nothing_out_anew(engine: Engine) -> None:
    x = torch.randn(4, 8)
    load(engine, "a", mlp(), x)
    engine.arrange(("a",), "serial")
    arena = feed(engine, x)
    engine.run()
    where = engine.outputs.read(0).data_ptr()
    arena.write(0, [torch.zeros(4, 8)])
    assert engine.run()[1:] == (False, False)
    assert engine.outputs.read(0).data_ptr() == where
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(0), mlp()(torch.zeros(4, 8)))


def test_a_smaller_batch_changes_the_layout_but_not_the_block(engine: Engine) -> None:
    load(engine, "a", mlp(), torch.randn(4, 8))
    engine.arrange(("a",), "serial")
    feed(engine, torch.randn(4, 8))
    engine.run()
    feed(engine, torch.randn(2, 8))
    assert engine.run()[1:] == (True, False)
    assert engine.outputs.read(0).shape == (2, 3)


def test_a_sub_model_that_overwrites_its_input_does_not_touch_the_others(engine: Engine) -> None:
    x = torch.zeros(2, 8)
    load(engine, "careless", OverwritesInput(), x)
    load(engine, "plain", mlp(), x)
    engine.arrange(("careless", "plain"), "serial")
    arena = feed(engine, x)
    engine.run()
    engine.run()
    assert torch.equal(arena.read(0), torch.zeros(2, 8))
    assert torch.equal(engine.outputs.read(0), torch.ones(2, 8))
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(1), mlp()(x))


def test_nan_is_reported_for_the_sub_model_that_made_it(engine: Engine) -> None:
    x = torch.ones(2, 8)
    load(engine, "good", mlp(), x)
    load(engine, "bad", MakesNan(), x)
    engine.arrange(("good", "bad"), "serial")
    feed(engine, x)
    assert RunTimings.unpack(engine.run()[0]).nan == (False, True)


def test_a_dict_input_gives_each_sub_model_its_own_keys(engine: Engine) -> None:
    ids, mask = torch.randint(0, 50, (2, 5)), torch.ones(2, 5)
    model = ByKeyword().eval()
    load(engine, "both", model, {"ids": ids, "mask": mask})
    load(engine, "ids only", model, {"ids": ids})
    engine.arrange(("both", "ids only"), "serial")
    feed(engine, {"ids": ids, "mask": mask * 0})
    engine.run()
    both, alone = engine.outputs.read(0), engine.outputs.read(1)
    assert both["cache"] is None
    assert torch.equal(both["logits"], torch.zeros(2, 4))
    with torch.inference_mode():
        assert torch.equal(alone["logits"], model(ids)["logits"])


@pytest.mark.parametrize(("mode", "within"), [("threads", {}), ("vmap", {"rtol": 1e-4, "atol": 1e-5})])
def test_the_other_modes_give_every_member_its_own_output(engine: Engine, mode: str, within: dict[str, float]) -> None:
    x = torch.randn(4, 8)
    modules = [mlp(seed=seed) for seed in range(3)]
    for index, module in enumerate(modules):
        load(engine, f"m{index}", module, x)
    engine.arrange(("m0", "m1", "m2"), mode)
    feed(engine, x)
    engine.run()
    with torch.inference_mode():
        for index, module in enumerate(modules):
            torch.testing.assert_close(engine.outputs.read(index), module(x), **within)
    engine.arrange(("m0",), "serial")  # ends the pool's threads


def given_module(engine: Engine, name: str, module: nn.Module, example: Tree) -> None:
    """Load a member, which is then this very module."""
    load(engine, name, mlp(), example)
    engine._loaded[name].module = module


class Asks(nn.Module):
    """Notes whether its input is a tensor of inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.told.append(x.is_inference())
        return x


def test_the_first_input_of_a_look_is_of_the_kind_of_all_others(engine: Engine) -> None:
    x, asks = torch.randn(4, 8), Asks()
    given_module(engine, "asks", asks, x)
    engine.arrange(("asks",), "serial")
    feed(engine, x)
    engine.run()
    engine.run()
    assert asks.told == [False, False], "what torch has compiled for one is compiled anew for the other"


class Begins:
    """An engine that computes by itself, and is waited for."""

    def __init__(self) -> None:
        self.at_work = False

    def __call__(self, leaves: Any, _: Any, __: Any) -> torch.Tensor:
        return leaves[0]

    def begin(self, leaves: Any) -> Any:
        self.at_work = True

        def end() -> torch.Tensor:
            self.at_work = False
            return leaves[0]  # type: ignore[no-any-return]

        return end


def test_a_run_that_fails_leaves_no_engine_at_work_that_had_begun(engine: Engine) -> None:
    x, call = torch.randn(4, 8), Begins()
    kind: Any = type("Kind", (), {"as_torch": True, "prepare": lambda *_: call})
    kind.__init__ = lambda *_: None
    begins = Executed(nn.Identity(), "an engine", kind, BackendSettings())
    begins(x)
    given_module(engine, "begins", begins, x)
    given_module(engine, "raises", Raises(), x)
    engine.arrange(("begins", "raises"), "async")
    feed(engine, x)
    with pytest.raises(InSubModel, match="raises"):
        engine.run()
    assert not call.at_work


@lacking("openvino")
def test_engines_that_can_begin_do_so_before_the_other_members_run(engine: Engine) -> None:
    x = torch.randn(4, 8)
    first, second, eager = mlp(seed=1), mlp(seed=2), mlp(seed=3)
    for name, module in (("a", first), ("c", second)):
        engine.load(name, memoryview(wrapped(payload(module), "openvino", own_threads=True)), x, 1)
    load(engine, "b", eager, x)
    engine.arrange(("a", "b", "c"), "async")
    feed(engine, x)
    engine.run()
    spans = RunTimings.unpack(engine.run()[0])
    with torch.inference_mode():
        for index, module in enumerate((first, eager, second)):
            torch.testing.assert_close(engine.outputs.read(index), module(x))
    (a, b, c) = zip(spans.start_ns, spans.end_ns, strict=True)
    assert a[0] < c[0] < b[0], "both have begun when the one in between starts"
    assert b[1] < a[1] < c[1], "it is done before their answers are waited for"


def test_a_failure_names_the_sub_model_and_the_engine_goes_on(engine: Engine) -> None:
    load(engine, "picky", Raises(), torch.ones(1, 8))
    engine.arrange(("picky",), "serial")
    feed(engine, torch.ones(2, 8))
    with pytest.raises(InSubModel) as caught:
        engine.run()
    assert caught.value.name == "picky"
    assert isinstance(caught.value.__cause__, ValueError)
    feed(engine, torch.ones(1, 8))
    engine.run()
    assert torch.equal(engine.outputs.read(0), torch.ones(1, 8))


def test_running_before_being_told_what_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="before it runs"):
        engine.run()
    with pytest.raises(UsageError, match="has loaded"):
        engine.arrange(("nobody",), "serial")


class Tells(nn.Module):
    """Answers whether it runs in inference mode, and draws random numbers for batches larger than its example."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(()) if len(x) > 2 else 0.0
        return x * (2.0 if torch.is_inference_mode_enabled() else 3.0) + noise


@pytest.mark.parametrize("mode", ["serial", "threads", "async"])
def test_a_member_is_called_as_its_traits_say_in_every_mode(engine: Engine, mode: str) -> None:
    x = torch.ones(2, 8)
    for name, grad, factor in (("as always", "inference", 2.0), ("without gradients", "off", 3.0)):
        engine.load(name, memoryview(payload(Tells())), x, 1, Traits(grad=grad))  # type: ignore[arg-type]
        engine.arrange((name,), mode)
        feed(engine, x)
        for _ in range(2):
            engine.run()
            assert torch.equal(engine.outputs.read(0), x * factor)
    engine.arrange((name,), "serial")  # ends the pool's threads


@pytest.mark.parametrize("mode", ["serial", "threads", "async"])
def test_a_member_that_draws_for_some_inputs_alone_is_seen_in_every_mode(engine: Engine, mode: str) -> None:
    engine.own_process = True
    load(engine, "a", Tells(), torch.ones(2, 8))
    load(engine, "b", mlp(), torch.ones(2, 8))
    engine.arrange(("a", "b"), mode)
    arenas = []  # each holds an input that the engine reads
    for rows, drew in ((2, (False, False)), (4, (True, False))):
        arenas.append(feed(engine, torch.ones(rows, 8)))
        assert RunTimings.unpack(engine.run()[0]).drew == drew
    engine.seed = 5
    engine.run()
    first = engine.outputs.read(0).clone()
    engine.run()
    assert torch.equal(engine.outputs.read(0), first)
    engine.arrange(("b",), "serial")  # ends the pool's threads


class WaitsToRaise(nn.Module):
    """Raises at once, or computes until its gate is open."""

    gates: ClassVar[dict[str, threading.Event]] = {}
    raises: ClassVar[bool] = False

    def __init__(self, gate: str = "") -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gate and WaitsToRaise.raises:
            WaitsToRaise.gates[self.gate].wait(60)
        elif WaitsToRaise.raises:
            raise ValueError("at once")
        return x + 1


def test_a_run_in_threads_ends_when_all_members_have_also_where_one_has_raised(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(2, 8)
    load(engine, "raises", WaitsToRaise(), x)
    load(engine, "computes", WaitsToRaise("g"), x)
    engine.arrange(("raises", "computes"), "threads")
    feed(engine, x)
    engine.run()
    gate = WaitsToRaise.gates["g"] = threading.Event()
    monkeypatch.setattr(WaitsToRaise, "raises", True)
    done = threading.Event()

    def run() -> None:
        with pytest.raises(InSubModel):
            engine.run()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert not done.wait(0.2), "the other one would write into the next answer"
    finally:
        gate.set()
        thread.join()
    assert done.is_set()
    engine.arrange(("raises",), "serial")  # ends the pool's threads
