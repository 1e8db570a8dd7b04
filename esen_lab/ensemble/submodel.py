"""A sub-model: one member network, with a recipe to rebuild it elsewhere and an example input."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble.definitions import class_text, source_texts
from esen_lab.ensemble.fingerprint import fingerprint, same_bits, tensor_digests
from esen_lab.ensemble.importable import import_path
from esen_lab.ensemble.recipes import (
    CellSource,
    ImportRecipe,
    LiveRecipe,
    Rebuild,
    Recipe,
    SourceRecipe,
    checked_module,
    find_factory,
    run_cell,
    session_path,
)
from esen_lab.ensemble.source import capture_cell
from esen_lab.errors import EsenError, ModelError, UsageError
from esen_lab.showing import Shown
from esen_lab.trees import Tree, TreeSpec, call_with, flatten, map_tensors, tree_spec
from esen_lab.units import check_name, format_seconds

if TYPE_CHECKING:
    import torch
    from torch import nn

_SLOW_CELL_S = 2.0
_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubModel(Shown):
    """One member network. Made by `make_submodel`.

    Attributes:
        name: Its name in the ensemble.
        recipe: How to build it again, with the weights it had when it was registered.
        example: An input of its own, on the CPU, shared with nobody.
        output_spec: What its output on the example looks like.
        parameters: Numbers in its parameters.
        memory_bytes: Memory of its parameters and buffers; what is shared counts once.
        class_name: Its class.
        fingerprint: Changes with its weights, structure and source; the same in every process and run.
        notes: What the user should know ("was in training mode").
        protect_input: Whether it changes its input in place, so that it must be given a copy.
    """

    name: str
    recipe: Recipe
    example: Tree
    output_spec: TreeSpec
    parameters: int
    memory_bytes: int
    class_name: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    protect_input: bool = False

    @property
    def input_keys(self) -> tuple[str, ...] | None:
        """The keyword arguments it is called with, or None when its example is not a dict."""
        return tuple(self.example) if isinstance(self.example, Mapping) else None

    @property
    def rebuild(self) -> Rebuild:
        """What builds the module: called without arguments, gives it in eval mode."""
        return Rebuild(recipe=self.recipe, search_path=session_path(), protect_input=self.protect_input)

    def payload(self) -> bytes:
        """`rebuild`, pickled for a worker. Made anew at each call, so that weights are not held in memory twice."""
        return self.rebuild.to_bytes()

    def build(self) -> nn.Module:
        """A new module in eval mode, on the CPU."""
        return self.rebuild()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for tables."""
        return {
            "name": self.name,
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


def make_submodel(
    name: str,
    source: nn.Module | Callable[..., nn.Module] | str | CellSource,
    example: Tree,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> SubModel:
    """Take a picture of a network and prove that it can be built again and run on the example.

    The module given is not changed in any way: what runs here is a copy. The copy runs twice, in eval mode and under
    `torch.inference_mode`.

    Args:
        name: A valid name (see `units.check_name`).
        source: A module; a factory that returns one; "package.module:factory"; or a cell, as a `CellSource` or as its
            bare text (which has a parenthesis or a line break, or comes with a `namespace`).
        example: An input: a tensor -> `module(x)`, a tuple or list -> `module(*x)`, a dict -> `module(**x)`.
        args: Positional arguments for a factory.
        kwargs: Keyword arguments for a factory.
        namespace: For a cell: the notebook's names, of which it may use imports, plain values, classes and functions.

    Raises:
        UsageError: The name, the example or the source cannot be used; the message names the sub-model.
        ModelError: The user's code raised while the module was built or run; its error is the `__cause__`.
    """
    check_name(name)
    kwargs = dict(kwargs or {})
    if isinstance(source, str) and _is_cell(source, namespace):
        source = CellSource(text=source)
    try:
        own = _own_example(example)
        if (args or kwargs) and not (isinstance(source, str) or (callable(source) and not _is_module(source))):
            raise UsageError("Arguments belong to a factory", given=f"arguments for a {_what(source)}")
        recipe, module, notes = _first_build(name, source, own, tuple(args), kwargs, namespace or {})
        with _stable_random():
            return _prove(name, recipe, module, own, notes)
    except ModelError:
        raise
    except EsenError as problem:
        raise UsageError(f"Sub-model {name!r}: {problem.rule}", given=problem.given, hint=problem.hint) from (
            problem.__cause__ or problem
        )


def _is_cell(text: str, namespace: Mapping[str, Any] | None) -> bool:
    """Whether a text is a cell's and not (perhaps misspelt) an import path."""
    return "\n" in text or "(" in text or (namespace is not None and not _IMPORT_PATH.fullmatch(text.strip()))


def _own_example(example: Tree) -> Tree:
    example = _as_tensors(example)
    leaves, _ = flatten(example, "the example")
    if not leaves:
        raise UsageError(
            "An example holds at least one tensor",
            given=f"{example!r}",
            hint="Give example=x with an input of the module.",
        )
    return map_tensors(lambda t: t.detach().cpu().clone(), example)


def _as_tensors(tree: Any) -> Tree:
    import numpy
    import torch

    if isinstance(tree, numpy.ndarray) and tree.dtype.kind in "biufc":
        return torch.from_numpy(tree.copy())
    if isinstance(tree, Mapping):
        return {key: _as_tensors(value) for key, value in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(_as_tensors(value) for value in tree)
    return tree


def _first_build(
    name: str, source: Any, example: Tree, args: tuple[Any, ...], kwargs: dict[str, Any], namespace: Mapping[str, Any]
) -> tuple[Recipe, nn.Module, list[str]]:
    """A recipe (its weights still to come, unless it is live), the module it gives, and notes."""
    from esen_lab.ensemble.weights import is_lazy

    notes: list[str] = []
    if isinstance(source, CellSource):
        context = capture_cell(source.text, namespace, f"the cell of {name!r}")
        cell = SourceRecipe(name=name, context=context, text=source.text, filename=source.filename)
        started = time.perf_counter()
        module = _user_code(name, "while its cell ran", lambda: run_cell(cell))
        took = time.perf_counter() - started
        if took > _SLOW_CELL_S:
            notes.append(
                f"its cell took {format_seconds(took)}, and each worker runs it again: "
                "train in another cell and register the module"
            )
        return cell, module, notes
    if _is_module(source):
        module = source
    else:
        factory = find_factory(source) if isinstance(source, str) else source
        if not callable(factory):
            raise UsageError(
                "A sub-model is a torch.nn.Module, a factory that returns one, 'package.module:factory', or a cell",
                given=f"a {_what(source)}",
            )
        path = source if isinstance(source, str) else import_path(factory)
        made = _user_code(name, "in its factory", lambda: factory(*args, **kwargs))
        module = checked_module(made, path or getattr(factory, "__name__", "the factory"))
        if path and _is_plain((args, kwargs)):
            return ImportRecipe(path=path, args=args, kwargs=kwargs), module, notes
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps; a worker runs the module itself
    if module is not source and _is_module(source):
        notes.append("was compiled; workers run it uncompiled")
    if module.training:
        notes.append("was in training mode; workers run it in eval mode")
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        module = _with_shapes(name, module, example)
        notes.append("its lazy parameters took their shapes from the example, and chance values")
    return _live(module), module, notes


def _with_shapes(name: str, module: nn.Module, example: Tree) -> nn.Module:
    """A copy of a module with lazy parameters that has seen the example once."""
    import torch

    module = copy.deepcopy(module).eval()
    with _stable_random(), torch.no_grad():  # not inference_mode: parameters made in it are of another kind
        _user_code(name, _on(example), lambda: call_with(module, map_tensors(lambda t: t.clone(), example)))
    return module


def _live(module: nn.Module) -> LiveRecipe:
    from esen_lab.ensemble.skeleton import encode
    from esen_lab.ensemble.snapshot import take_snapshot

    skeleton, problem = None, ""
    try:
        skeleton, _ = encode(module)
    except UsageError as reason:
        problem = str(reason)
    return LiveRecipe(
        class_name=_class_name(module),
        snapshot=take_snapshot(module),
        lines=source_texts({type(part) for part in module.modules()}),
        skeleton=skeleton,
        problem=problem,
    )


def _prove(name: str, recipe: Recipe, module: nn.Module, example: Tree, notes: list[str]) -> SubModel:
    """Run what the recipe builds, and make the record from it."""
    from esen_lab.ensemble.weights import memory_of, state_of, to_bytes

    live = isinstance(recipe, LiveRecipe)
    built = _user_code(name, "while it was built", recipe.build) if live else module
    built.eval()
    given = map_tensors(lambda t: t.clone(), example)
    output = _forward(name, built, given)
    output_spec = tree_spec(output, f"the output of {name!r}")
    protect = not same_bits(flatten(given)[0], flatten(example)[0])
    output = map_tensors(lambda t: t.clone(), output)  # it may be a view of what the next run overwrites
    if isinstance(recipe, (ImportRecipe, SourceRecipe)):
        recipe = replace(recipe, weights=to_bytes(state_of(built)))
    if protect:
        notes.append("changes its input in place; each run gives it a copy")
    again = _user_code(name, "while it was built again", Rebuild(recipe=recipe)) if not live else built
    second = _forward(name, again, map_tensors(lambda t: t.clone(), example))
    if not same_bits(flatten(output)[0], flatten(second)[0]):
        notes.append(_difference(name, output, second, again, example))
    if any(bool(leaf.isnan().any()) for leaf in flatten(output)[0] if leaf.is_floating_point()):
        notes.append("its output on the example holds NaN")
    return SubModel(
        name=name,
        recipe=recipe,
        example=example,
        output_spec=output_spec,
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        memory_bytes=memory_of(built),
        class_name=_class_name(built),
        fingerprint=_fingerprint(recipe, built),
        notes=tuple(notes),
        protect_input=protect,
    )


def _forward(name: str, module: nn.Module, example: Tree) -> Tree:
    import torch

    with torch.inference_mode():
        return _user_code(name, _on(example), lambda: call_with(module, example))


def _on(example: Tree) -> str:
    return f"on its example {tree_spec(example)}"


def _user_code(name: str, when: str, call: Callable[[], Any]) -> Any:
    """`call()`; what the user's code raises becomes a `ModelError` that says when."""
    try:
        return call()
    except EsenError:
        raise
    except Exception as problem:
        hint = (
            "Check that the example is what the module takes."
            if "example" in when
            else "Run it in a cell to see it whole."
        )
        last = str(problem).strip().splitlines()
        raise ModelError(
            f"Sub-model {name!r} raised {when}",
            given=f"{type(problem).__name__}: {last[-1] if last else ''}".rstrip(": "),
            hint=hint,
        ) from problem


def _difference(name: str, first: Tree, second: Tree, module: nn.Module, example: Tree) -> str:
    """What to say of two outputs that differ; raises where the recipe gives another network."""
    import torch

    third = _forward(name, module, map_tensors(lambda t: t.clone(), example))
    if not same_bits(flatten(second)[0], flatten(third)[0]):
        return "gives another output each time it runs on the same input"
    pairs = list(zip(flatten(first)[0], flatten(second)[0], strict=True))
    if all(a.shape == b.shape and torch.allclose(a.double(), b.double(), equal_nan=True, rtol=1e-4) for a, b in pairs):
        return "built again, its output differs in the last bits"
    raise UsageError(
        "Built again, a sub-model gives the same output",
        given="another output on the example",
        hint="Keep everything that is made by chance or by training in parameters or buffers (register_buffer).",
    )


def _fingerprint(recipe: Recipe, module: nn.Module) -> str:
    from esen_lab.ensemble.skeleton import tensors_of
    from esen_lab.ensemble.weights import state_of

    tensors: Mapping[str, torch.Tensor] = state_of(module)
    structure = "\n".join(f"{path} {_class_path(part)}" for path, part in module.named_modules()) + f"\n{module!r}"
    source = ""
    if isinstance(recipe, LiveRecipe) and recipe.skeleton is not None:
        tensors = tensors_of(module)
        structure = json.dumps(recipe.skeleton["tree"], sort_keys=True)
        source = recipe.skeleton["source"]["text"]
    elif isinstance(recipe, SourceRecipe):
        source = f"{recipe.context.text}\n{recipe.text}"
    elif isinstance(recipe, ImportRecipe):
        source = f"{recipe.path} {recipe.args!r} {sorted(recipe.kwargs.items())!r}"
    classes = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    texts = sorted(class_text(cls) for cls in classes)
    return fingerprint(tensor_digests(tensors), structure, "\n".join([source, *texts]))


def _class_name(module: nn.Module) -> str:
    from esen_lab.ensemble.snapshot import is_parametrized, parametrized_parts

    return (parametrized_parts(module)[0] if is_parametrized(module) else type(module)).__name__


def _class_path(module: nn.Module) -> str:
    cls = type(module)
    return cls.__qualname__ if cls.__module__ == "__main__" else f"{cls.__module__}.{cls.__qualname__}"


def _stable_random() -> Any:
    """Leave the session's random state as it was: registering draws nothing from it."""
    import torch

    return torch.random.fork_rng(devices=[])


def _is_module(source: Any) -> bool:
    from torch import nn

    return isinstance(source, nn.Module)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _what(source: Any) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"
