"""Trees written into arenas, as an executor writes the input of its lanes."""

from __future__ import annotations

from esen_lab.common.trees import Tree, flatten, tree_spec
from esen_lab.lanes.arena import TreeArena


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
