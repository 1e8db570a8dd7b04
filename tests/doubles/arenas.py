"""Trees written into arenas, as an executor writes the input of its lanes, and lanes that are given them."""

from __future__ import annotations

import select
from typing import Any

from models import payload
from torch import nn

from esen_lab.common.trees import Tree, flatten, tree_spec
from esen_lab.ensemble.traits import Traits
from esen_lab.lanes import RunTimings, Worker
from esen_lab.lanes.arena import TreeArena
from esen_lab.lanes.engine import Engine


def write_into(arena: TreeArena, tree: Tree) -> bool:
    """Write one tree; returns whether the arena's block is a new one."""
    grown = arena.prepare([tree_spec(tree)])
    arena.write(0, flatten(tree)[0])
    return grown


def arena_of(tree: Tree) -> TreeArena:
    """An arena that holds one tree."""
    arena = TreeArena()
    write_into(arena, tree)
    return arena


# --- a lane, from outside and from inside -----------------------------------------------------------------------------


def bring(worker: Worker, x: Tree) -> None:
    """Tell a lane its input, and keep nothing of it here."""
    arena = arena_of(x)
    worker.set_input(arena.layouts[0], arena.block)
    arena.close()


def answer_of(worker: Worker, number: int) -> bytes | None:
    """What a lane answers next: see `Worker.take_run`."""
    poller = select.poll()
    poller.register(worker.fileno(), select.POLLIN)
    assert poller.poll(10_000)
    return worker.take_run(number)


def run_once(worker: Worker, x: Tree) -> RunTimings:
    """Run a lane on an input."""
    bring(worker, x)
    worker.start_run(1)
    packed = answer_of(worker, 1)
    assert packed is not None
    return RunTimings.unpack(packed)


def feed(engine: Engine, x: Tree, arena: TreeArena | None = None) -> TreeArena:
    """Give an engine its input, in an arena that it may know already."""
    arena = arena or TreeArena()
    grown = write_into(arena, x)
    engine.set_input(arena.layouts[0], arena.block if grown else None)
    return arena


def load(engine: Engine, name: str, module: nn.Module, example: Tree, **traits: Any) -> None:
    """Load a sub-model into an engine, with these traits."""
    engine.load(name, memoryview(payload(module)), example, 1, Traits(**traits))
