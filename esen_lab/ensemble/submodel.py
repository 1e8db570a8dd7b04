"""A sub-model: one member network, with a recipe to rebuild it elsewhere and an example input."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from esen_lab.common.display import Shown
from esen_lab.common.trees import Tree, TreeSpec, tree_spec
from esen_lab.ensemble.chance import generators_kept
from esen_lab.ensemble.recipes import Rebuild, Recipe, session_path
from esen_lab.ensemble.traits import Traits

if TYPE_CHECKING:
    from torch import nn

    from esen_lab.ensemble.kinds.adapted import SourceWatch
    from esen_lab.ensemble.watch import Watch


_SHARES = "shares state with "
_OTHER = "its own example is "


@dataclass(frozen=True, slots=True, kw_only=True)
class SubModel(Shown):
    """One member network. Made by `register`.

    Attributes:
        name: Its name in the ensemble.
        recipe: How to build it again, with the weights it had when it was registered.
        example: An input of its own, on the CPU, shared with nobody.
        output_spec: What its output on the example looks like.
        parameters: Numbers in its parameters.
        memory_bytes: Memory of its parameters and buffers; what is shared counts once.
        class_name: Its class.
        fingerprint: Changes with its weights, structure and source; the same in every process and run.
        code_fingerprint: The same without the values of its tensors.
        content: Changes with whatever a lane is sent, also where no fingerprint tells: equal for the same picture.
        notes: What the user should know ("was in training mode").
        protect_input: Whether it changes its input in place, so that it must be given a copy.
        traits: How it must be called so that it answers as it does here.
        answer: What it answers on its example in the process that registered it, called as the session calls it, with
            random numbers of `PROOF_SEED`; None for one that was read from a file.
        calibration: Inputs of its own, samples along the first dimension, that an int8 form of it is quantised by; None
            where none were given.
        carried: Values that its code reads in modules which a lane imports for itself; see `Reach.carried`.
        shares: Other sub-models with which it shares state in the notebook, by name; lanes each have their own.
        kind: What it is: "network", or as in `kinds` ("ONNX model", "estimator", "function", ...).
    """

    name: str
    recipe: Recipe
    example: Tree
    output_spec: TreeSpec
    parameters: int
    memory_bytes: int
    class_name: str
    fingerprint: str
    code_fingerprint: str = ""
    content: str = field(default="", compare=False)
    notes: tuple[str, ...] = ()
    protect_input: bool = False
    traits: Traits = field(default_factory=Traits)
    answer: Tree = field(default=None, repr=False, compare=False)
    calibration: Tree = field(default=None, repr=False, compare=False)
    carried: tuple[tuple[str, str, str, bytes], ...] = field(default=(), repr=False, compare=False)
    shares: tuple[str, ...] = ()
    kind: str = "network"

    @property
    def input_keys(self) -> tuple[str, ...] | None:
        """The keyword arguments it is called with, or None when its example is not a dict."""
        return tuple(self.example) if isinstance(self.example, Mapping) else None

    @property
    def rebuild(self) -> Rebuild:
        """What builds the module: called without arguments, gives it in eval mode."""
        return Rebuild(
            recipe=self.recipe,
            search_path=session_path(),
            protect_input=self.protect_input,
            carried=self.carried,
            home=os.getpid(),
        )

    def sharing(self, others: tuple[str, ...]) -> SubModel:
        """The same, known to share state with `others`, which its notes say."""
        if others == self.shares:
            return self
        notes = tuple(note for note in self.notes if not note.startswith(_SHARES))
        if others:
            notes += (
                f"{_SHARES}{', '.join(others)}: in the notebook calls of one count for all, while lanes each have "
                "their own, so that answers differ from calls in turn",
            )
        return replace(self, shares=others, notes=notes)

    def run_on(self, looks: str) -> SubModel:
        """The same, known to be given an input that looks like this, which its notes say where its example is another.

        Args:
            looks: Such as "float32[16, 8]".
        """
        own = str(tree_spec(self.example))
        told = (f"{_OTHER}{own}; the ensemble's is {looks}, on which it is profiled",) if looks != own else ()
        notes = (*(note for note in self.notes if not note.startswith(_OTHER)), *told)
        return self if notes == self.notes else replace(self, notes=notes)

    def same_as(self, other: SubModel) -> bool:
        """Whether a lane that holds one holds the other, and calls it as that has to be called."""
        mine, its = ((one.fingerprint, one.content, one.protect_input, one.traits) for one in (self, other))
        return mine == its

    def payload(self) -> bytes:
        """`rebuild`, pickled for a worker. Made anew at each call, so that weights are not held in memory twice."""
        return self.rebuild.to_bytes()

    def build(self) -> nn.Module:
        """A new module in eval mode, on the CPU. What a factory draws for it, the session will draw all the same."""
        with generators_kept():
            return self.rebuild()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for tables."""
        return {
            "name": self.name,
            "kind": self.kind,
            "class": self.class_name,
            "parameters": self.parameters,
            "memory_bytes": self.memory_bytes,
            "recipe": self.recipe.kind,
            "recipe_text": self.recipe.describe(),
            "example": str(tree_spec(self.example)),
            "output": str(self.output_spec),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A sub-model, and what tells when it is not any more what it was.

    Attributes:
        submodel: The sub-model.
        watch: Looks at the network itself where the user holds it, else at the code that makes it; None where nothing
            outside can change it.
        live: Whether it was made from a network, or something else, that the user holds.
        held: A module that was made around what the user holds, and that is watched: nobody else holds it.
        options: What was said besides the example of something that is no network.
        changes: What tells the things that a call changes from others, in this process: see `sharing.py`.
        again: Registers a cell anew, from its text and weights, where what it reads of imported modules has changed.
    """

    submodel: SubModel
    watch: Watch | SourceWatch | None = None
    live: bool = False
    held: nn.Module | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: frozenset[Hashable] = frozenset()
    again: Callable[[], Registered] | None = None
