"""Trees in shared memory."""

from __future__ import annotations

import os

import pytest
import torch
from arenas import arena_of

from esen_lab.common.tensors import ALIGNMENT
from esen_lab.common.trees import flatten, tree_spec
from esen_lab.lanes.arena import Block, TreeArena, lay_out


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.tensor(3),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.randn(5).to(torch.bfloat16),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 6).t(),
    ],
    ids=["matrix", "scalar", "empty", "bool", "bfloat16", "complex", "channels_last", "transposed"],
)
def test_a_tensor_comes_back_as_it_went_in(tensor: torch.Tensor) -> None:
    arena = arena_of(tensor)
    assert torch.equal(arena.read(0), tensor)
    assert arena.read(0).dtype == tensor.dtype
    arena.close()


def test_channels_last_keeps_its_layout_for_the_kernels_that_choose_by_it() -> None:
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    arena = arena_of(tensor)
    assert arena.read(0).is_contiguous(memory_format=torch.channels_last)
    arena.close()


def test_a_nested_tree_keeps_its_structure_and_constants() -> None:
    tree = {"a": (torch.ones(2), None), "b": [torch.zeros(1), "text", 3]}
    arena = arena_of(tree)
    back = arena.read(0)
    assert back["a"][1] is None
    assert back["b"][1:] == ["text", 3]
    assert torch.equal(back["a"][0], torch.ones(2))
    arena.close()


def test_tensors_start_on_cache_lines_of_their_own() -> None:
    layout = lay_out(tree_spec((torch.ones(1), torch.ones(33), torch.ones(1))))
    assert [offset % ALIGNMENT for offset in layout.offsets] == [0, 0, 0]
    assert len(set(layout.offsets)) == 3


def test_another_process_sees_what_is_written_here() -> None:
    arena = arena_of(torch.zeros(4))
    assert arena.block is not None
    other = Block(os.dup(arena.block.fd), arena.block.size)
    mirror = TreeArena()
    mirror.adopt(other, arena.layouts)
    arena.write(0, [torch.arange(4.0)])
    assert torch.equal(mirror.read(0), torch.arange(4.0))
    mirror.close()
    arena.close()


def test_a_smaller_tree_reuses_the_block_and_a_larger_one_grows_it() -> None:
    arena = TreeArena()
    assert arena.prepare([tree_spec(torch.ones(100))])
    assert not arena.prepare([tree_spec(torch.ones(10))])
    assert arena.prepare([tree_spec(torch.ones(1000))])
    arena.close()


def test_views_outlive_the_arena() -> None:
    arena = arena_of(torch.arange(3.0))
    view = arena.read(0)
    arena.close()
    assert torch.equal(view, torch.arange(3.0))


def test_fits_notices_structure_shape_dtype_and_count() -> None:
    arena = arena_of((torch.ones(2), torch.ones(3)))
    pair = flatten((torch.ones(2), torch.ones(3)))[1]
    assert arena.fits(0, [torch.zeros(2), torch.zeros(3)], pair)
    assert not arena.fits(1, [torch.zeros(2), torch.zeros(3)], pair), "there is no second tree"
    assert not arena.fits(0, [torch.zeros(2), torch.zeros(3)], flatten([torch.ones(2), torch.ones(3)])[1])
    assert not arena.fits(0, [torch.zeros(2)], pair)
    assert not arena.fits(0, [torch.zeros(2), torch.zeros(4)], pair)
    assert not arena.fits(0, [torch.zeros(2), torch.zeros(3, dtype=torch.int64)], pair)


def test_fits_tells_channels_last_apart() -> None:
    image = torch.ones(1, 3, 4, 4)
    arena = arena_of(image)
    assert arena.fits(0, [image], ("tensor",))
    assert not arena.fits(0, [image.to(memory_format=torch.channels_last)], ("tensor",))


def test_the_short_way_in_takes_only_a_lone_tensor_that_looks_the_same() -> None:
    arena = arena_of(torch.zeros(3))
    assert arena.write_plain(torch.arange(3.0))
    assert torch.equal(arena.read(0), torch.arange(3.0))
    for other in (torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(3).numpy(), [torch.ones(3)], None):
        assert not arena.write_plain(other)
    assert not arena.write_plain(torch.ones(3, requires_grad=True))
    assert not arena_of((torch.zeros(3),)).write_plain(torch.ones(3)), "a tuple of one is not a tensor"
    assert torch.equal(arena.read(0), torch.arange(3.0)), "what was refused left no trace"


def test_what_is_written_never_pulls_the_block_into_a_gradient() -> None:
    arena = arena_of(torch.zeros(3))
    arena.write(0, [torch.ones(3, requires_grad=True)])
    assert not arena.read(0).requires_grad


def test_a_dropped_arena_gives_its_memory_and_descriptors_back() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(20):
        arena_of(torch.zeros(4))
    assert descriptors() == before
