"""What a lane does, tried without a process around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from arenas import arena_of
from backend_nets import lacking
from models import ByKeyword, MakesNan, OverwritesInput, Raises, mlp, payload
from torch import nn

from esen_lab.common.trees import Tree
from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.lanes.arena import TreeArena
from esen_lab.lanes.backends import wrapped
from esen_lab.lanes.engine import Engine, InSubModel
from esen_lab.lanes.timings import RunTimings


@pytest.fixture
def engine() -> Iterator[Engine]:
    # Only `use` is called on the place: nothing here is pinned, and the number of threads is put back.
    threads = torch.get_num_threads()
    yield Engine(CpuDevice(cores=[(0,)]).place([1])[0])
    torch.set_num_threads(threads)


def feed(engine: Engine, x: Tree) -> TreeArena:
    arena = arena_of(x)
    engine.set_input(arena.layouts[0], arena.block)
    return arena


def load(engine: Engine, name: str, module: nn.Module, example: Tree) -> None:
    engine.load(name, memoryview(payload(module)), example, 1)


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


def test_threads_give_the_same_outputs_as_one_after_another(engine: Engine) -> None:
    x = torch.randn(4, 8)
    modules = [mlp(seed=seed) for seed in range(3)]
    for index, module in enumerate(modules):
        load(engine, f"m{index}", module, x)
    engine.arrange(("m0", "m1", "m2"), "threads")
    feed(engine, x)
    engine.run()
    with torch.inference_mode():
        for index, module in enumerate(modules):
            torch.testing.assert_close(engine.outputs.read(index), module(x))
    engine.arrange(("m0",), "serial")  # ends the pool's threads


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


def test_vmap_gives_every_member_its_own_output(engine: Engine) -> None:
    x = torch.randn(4, 8)
    modules = [mlp(seed=seed) for seed in range(3)]
    for index, module in enumerate(modules):
        load(engine, f"m{index}", module, x)
    engine.arrange(("m0", "m1", "m2"), "vmap")
    feed(engine, x)
    engine.run()
    with torch.inference_mode():
        for index, module in enumerate(modules):
            torch.testing.assert_close(engine.outputs.read(index), module(x), rtol=1e-4, atol=1e-5)


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
