"""Registration: a network of the notebook becomes a `SubModel`, with the proof that lanes can build it again."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.inputs import check_apart, own_example, take_in
from esen_lab.common.trees import Tree, call_with, flatten, map_tensors, named_places, tensor_spec, tree_spec
from esen_lab.common.units import check_name, format_seconds
from esen_lab.common.words import as_arguments
from esen_lab.ensemble.as_given import ASKED, check_as_given, of_its_layout
from esen_lab.ensemble.as_it_was import reached_by, session_kept
from esen_lab.ensemble.chance import generators_kept
from esen_lab.ensemble.fingerprint import bytes_digest, fingerprint, tensor_digests, text_digest
from esen_lab.ensemble.kinds import adapted
from esen_lab.ensemble.kinds.callables import has_arrays, is_function, name_of, takes_anything
from esen_lab.ensemble.origin import RAISED, import_path, is_module
from esen_lab.ensemble.proof import (
    call_as_lanes_do,
    call_here,
    check_its_copy,
    notes_of,
    on_example,
    twin_of,
    user_code,
)
from esen_lab.ensemble.reach import HOOKS, Reach, reach_of
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
)
from esen_lab.ensemble.sharing import changed_by_a_call
from esen_lab.ensemble.source import capture_cell
from esen_lab.ensemble.source.definitions import source_texts
from esen_lab.ensemble.submodel import Registered, SubModel
from esen_lab.ensemble.traits import Traits
from esen_lab.ensemble.watch import Watch
from esen_lab.errors import EsenError, ModelError, UsageError
from esen_lab.files import is_model_file

if TYPE_CHECKING:
    import torch
    from torch import nn

    from esen_lab.ensemble.kinds.adapted import Adapted

_SLOW_CELL_S = 2.0
_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+")


def make_submodel(
    name: str,
    source: Any,
    example: Tree,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> SubModel:
    """What `register` makes of a network, without a watch over it; arguments and errors are the same."""
    return register(name, source, example, args=args, kwargs=kwargs, namespace=namespace).submodel


def register(
    name: str,
    source: Any,
    example: Tree,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Registered:
    """Take a picture of a network and prove that it can be built again and then answers as it does here.

    The module given is not changed in any way: what runs here are copies, in eval mode. One runs as the session has it
    (its gradients, its autocast, ...), and that answer is kept; another, built as lanes build it, must answer alike,
    and so must the module itself, which is called once where its copy has shown that a call changes nothing.

    Args:
        name: A valid name (see `units.check_name`).
        source: A module; a factory that returns one; "package.module:factory"; a cell, as a `CellSource` or as its
            bare text (which has a parenthesis or a line break, or comes with a `namespace`); a member of another kind,
            or the path of its file (see `kinds`); or a callable that answers to an input.
        example: An input: a tensor -> `module(x)`, a tuple or list -> `module(*x)`, a dict -> `module(**x)`. A callable
            gets arrays where the example has arrays.
        args: Positional arguments for a factory.
        kwargs: Keyword arguments for a factory, or what a member of another kind is told ("outputs", "method").
        namespace: For a cell: the notebook's names, of which it may use imports, plain values, classes and functions.

    Raises:
        UsageError: The name, the example or the source cannot be used; the message names the sub-model.
        ModelError: The user's code raised while the module was built or run; its error is the `__cause__`.
    """
    check_name(name)
    kwargs = dict(kwargs or {})
    if isinstance(source, str) and (namespace is not None or not is_model_file(source)) and _is_cell(source, namespace):
        source = CellSource(text=source)
    try:
        own = own_example(example)
        with generators_kept():
            made = _proven(name, source, example, own, tuple(args), kwargs, namespace)
            _check_example(made.submodel, example)
            return made
    except ModelError as problem:
        raise of_its_layout(problem, example) from problem.__cause__
    except EsenError as problem:
        raise UsageError(f"Sub-model {name!r}: {problem.rule}", given=problem.given, hint=problem.hint) from (
            problem.__cause__ or problem
        )


def _proven(
    name: str,
    source: Any,
    example: Tree,
    own: Tree,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    namespace: Mapping[str, Any] | None,
) -> Registered:
    """Of a source of any kind; `own` is the copy of the example."""
    found = adapted(source, kwargs)
    if found is not None:
        if args:
            raise UsageError("Arguments by position belong to a factory", given=f"some for {found.kind}")
        return _prove_adapted(name, found, own, kwargs)
    if (args or kwargs) and (isinstance(source, CellSource) or is_module(source)):
        raise UsageError(
            "Arguments belong to a factory, an estimator or a model's file",
            given=f"{as_arguments(kwargs, args)} for a {'cell' if isinstance(source, CellSource) else 'network'}",
            hint="A network is registered as it is.",
        )
    if isinstance(source, CellSource):
        recipe, module, notes = _built_by_cell(name, source, namespace or {})
        return _prove(name, recipe, module, own, notes)
    if is_module(source):
        return _prove_live(name, source, source, own)
    return _prove_made(name, source, example, own, args, kwargs)


def _check_example(submodel: SubModel, example: Tree) -> None:
    """Refuse an example that says more than the plain tensors that lanes are given: see `check_as_given`.

    Raises:
        UsageError: The network answers otherwise to it; or writes into it, and two of its tensors share memory.
    """
    if submodel.protect_input:
        check_apart(*take_in(example, "the example"), submodel.name, "the example")
    if submodel.kind in ASKED:
        check_as_given(submodel.name, submodel.build, example)


def _is_cell(text: str, namespace: Mapping[str, Any] | None) -> bool:
    """Whether a text is a cell's and not (perhaps misspelt) an import path."""
    return "\n" in text or "(" in text or (namespace is not None and not _IMPORT_PATH.fullmatch(text.strip()))


def _built_by_cell(name: str, source: CellSource, namespace: Mapping[str, Any]) -> tuple[Recipe, nn.Module, list[str]]:
    """A recipe (its weights still to come), the module it gives, and notes."""
    context = capture_cell(source.text, namespace, f"the cell of {name!r}")
    cell = SourceRecipe(name=name, context=context, text=source.text, filename=source.filename)
    started = time.perf_counter()
    module = user_code(name, "while its cell ran", lambda: run_cell(cell))
    took = time.perf_counter() - started
    if took <= _SLOW_CELL_S:
        return cell, module, []
    note = (
        f"its cell took {format_seconds(took)}, and each worker runs it again: "
        "train in another cell and register the module"
    )
    return cell, module, [note]


def _prove_made(
    name: str, source: Any, example: Tree, own: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Registered:
    """Of what a factory makes; or of a callable that is none, and answers to an input itself."""
    factory = find_factory(source) if isinstance(source, str) else source
    if not callable(factory):
        raise UsageError(
            "A sub-model is a torch.nn.Module, a factory that returns one, 'package.module:factory', a cell, a "
            "callable of tensors or arrays, a fitted estimator, or a model or model file of another kind",
            given=f"a {_what(source)}",
        )
    if is_function(factory, args, kwargs):
        return _prove_function(name, factory, own, arrays=has_arrays(example))
    path = source if isinstance(source, str) else import_path(factory)
    try:
        made = user_code(name, "in its factory", lambda: factory(*args, **kwargs))
    except ModelError:
        if args or kwargs or isinstance(factory, type) or not takes_anything(factory):
            raise
        return _prove_function(name, factory, own, arrays=has_arrays(example))
    found = adapted(made, {})
    if found is not None:
        return _prove_adapted(name, found, own, {})
    module = checked_module(made, path or getattr(factory, "__name__", "the factory"))
    if path and _is_plain((args, kwargs)):
        return _prove(name, ImportRecipe(path=path, args=args, kwargs=kwargs), module, own, [])
    return _prove_live(name, source, module, own)


def _prove_function(name: str, function: Any, example: Tree, *, arrays: bool) -> Registered:
    """Of a callable, given arrays where its example was arrays, or where it takes nothing else."""
    from esen_lab.ensemble.kinds.function import Function

    function = getattr(function, "_torchdynamo_orig_callable", function)  # of what torch.compile made, which stays here

    try:
        return _prove_live(name, function, Function(function, arrays=arrays), example)
    except ModelError as problem:
        if arrays:
            raise
        try:
            found = _prove_live(name, function, Function(function, arrays=True), example)
        except EsenError:
            raise problem from problem.__cause__
        notes = (*found.submodel.notes, "takes arrays and no tensors, so it is given arrays")
        return replace(found, submodel=replace(found.submodel, notes=notes))


def _prove_live(name: str, source: Any, module: nn.Module, example: Tree) -> Registered:
    """Of a module that is there."""
    from esen_lab.ensemble.weights import has_lazy

    notes: list[str] = []
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps; a worker runs the module itself
    outer = source if module is not source and is_module(source) else None
    if outer is not None:
        _check_hooks(outer)
        notes.append("was compiled; workers run it uncompiled")
    _check_kind(module)
    if module.training:
        notes.append("was in training mode; workers run it in eval mode")
    if has_lazy(module):
        module = _with_shapes(name, module, example)
        notes.append("its lazy parameters took their shapes from the example, and chance values")
    recipe = LiveRecipe(class_name=_class_name(module), snapshot=b"")  # its picture is taken later
    found = _prove(name, recipe, module, example, notes)
    if outer is not None and isinstance(found.watch, Watch):
        found.watch.within(outer)
    return found


def _prove_adapted(name: str, found: Adapted, example: Tree, options: Mapping[str, Any]) -> Registered:
    """Of what is no network: run here as it is, and as lanes build it from the first of its formats that answers alike.

    Raises:
        UsageError: None does.
    """
    recipes = [make() for make in found.recipes[:1]]  # before a call can change anything
    before = None if found.state is None else found.state()
    own = call_here(name, found.module, example, own=True)
    state = own.state if found.state is None or found.state() == before else (*own.state, "its attributes")
    steady = True
    if not state:  # what an engine or a script keeps inside of itself nobody sees: another answer tells
        steady = difference(call_here(name, found.module, example, own=True).output, own.output, OTHER_ORDER).agrees
    problem: UsageError | None = None
    for number, make in enumerate(found.recipes):
        recipe = make() if number else recipes[0]
        try:
            grad, again = call_as_lanes_do(name, Rebuild(recipe=recipe), own, example)
        except UsageError as reason:
            problem = problem or reason
            continue
        traits = Traits(grad=grad, state=state, random=own.random, steady=steady and again.steady)
        return Registered(
            submodel=SubModel(
                name=name,
                recipe=recipe,
                example=example,
                output_spec=tree_spec(own.output, f"the output of {name!r}"),
                parameters=found.parameters,
                memory_bytes=found.memory_bytes,
                class_name=found.class_name,
                fingerprint=text_digest(found.kind, found.structure, found.values),
                code_fingerprint=text_digest(found.kind, found.structure),
                notes=(*found.notes, *notes_of(own, again, traits)),
                protect_input=again.changes_input,
                traits=traits,
                answer=own.output,
                kind=found.kind,
            ),
            watch=found.watch,
            live=found.watch is not None,
            options=options,
        )
    assert problem is not None
    hint = (
        f"Check that a copy answers as it does itself (copy.deepcopy, or saved and loaded); it is a {found.class_name}."
    )
    raise UsageError(problem.rule, given=problem.given, hint=hint)


def _with_shapes(name: str, module: nn.Module, example: Tree) -> nn.Module:
    """A copy of a module with lazy parameters that has seen the example once."""
    import torch

    from esen_lab.ensemble.weights import check_state

    check_state(module, lazy=True)
    reach = reached_by(module)
    module = twin_of(module)
    with torch.no_grad(), session_kept(reach):  # not inference_mode: parameters made in it are of another kind
        user_code(name, on_example(example), lambda: call_with(module, map_tensors(lambda t: t.clone(), example)))
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


def _prove(name: str, recipe: Recipe, module: nn.Module, example: Tree, notes: list[str]) -> Registered:
    """Run `module`, the network as it is here, and what lanes build, and make the record from both."""
    from esen_lab.ensemble.kinds.function import Function
    from esen_lab.ensemble.weights import check_state, has_lazy, memory_of, state_of, to_bytes

    if isinstance(recipe, (ImportRecipe, SourceRecipe)) and has_lazy(module):
        module = _with_shapes(name, module, example)
    check_state(module)
    first_notes = tuple(notes)
    if isinstance(recipe, (ImportRecipe, SourceRecipe)):
        recipe = replace(recipe, weights=to_bytes(state_of(module)))
    reach = reach_of(module)
    before = Watch(module, reach)
    # Of a network that is being trained in another thread, one moment: what is sent, run and told apart is one copy.
    source = module
    if isinstance(recipe, LiveRecipe):
        source = twin_of(module)
        recipe = _live(source)
    carried = (*reach.carried, *_named_classes(example))
    built = Rebuild(recipe=recipe)  # in this process modules hold what they hold
    moved: dict[str, None] = {}
    changes: frozenset[Hashable] = frozenset()
    with session_kept(reach) as outside:

        def note() -> None:
            nonlocal changes
            moved.update(dict.fromkeys((*before.moving(), *outside.what())))
            changes |= {kept.thing for kept in outside.changed()}

        def begin() -> None:
            note()
            outside.put_back()

        own = call_here(name, source, example)
        grad, again = call_as_lanes_do(name, built, own, example, begin)
        note()
    shared = changes
    traits = Traits(
        grad=grad,
        state=tuple(dict.fromkeys((*own.state, *moved))),
        random=own.random,
        steady=again.steady,
        code=reach.of_files,
        replaced=tuple(dict.fromkeys(reach.replaced)),
    )
    if own.state and isinstance(recipe, LiveRecipe):
        with session_kept(reach):
            changes |= changed_by_a_call(module, twin_of(module), example, traits)
    if isinstance(recipe, LiveRecipe) and not traits.keeps_state:
        with session_kept(reach):
            check_its_copy(name, module, own, example)
    notes += notes_of(own, again, traits)
    watch = before.without(moved, shared)
    if isinstance(recipe, LiveRecipe) and watch.unseen:
        notes.append(
            f"changes in place of {', '.join(watch.unseen[:3])} are not seen before a run, it is too large to look at: "
            "register again after one"
        )
    fresh = again.module
    held = module if isinstance(module, Function) else None
    return Registered(
        submodel=SubModel(
            name=name,
            recipe=recipe,
            example=example,
            output_spec=tree_spec(own.output, f"the output of {name!r}"),
            parameters=sum(parameter.numel() for parameter in fresh.parameters()),
            memory_bytes=memory_of(fresh),
            class_name=_class_name(fresh),
            fingerprint=_fingerprint(recipe, source, reach),
            code_fingerprint=_fingerprint(recipe, source, reach, values=False),
            content=_content(recipe, reach),
            notes=tuple(notes),
            protect_input=again.changes_input,
            traits=traits,
            answer=own.output,
            carried=carried,
            kind="network" if held is None else held.kind,
        ),
        watch=watch,
        live=isinstance(recipe, LiveRecipe),
        held=held,
        changes=changes,
        again=partial(_proven_again, name, recipe, example, first_notes) if isinstance(recipe, SourceRecipe) else None,
    )


def _proven_again(name: str, recipe: SourceRecipe, example: Tree, notes: tuple[str, ...]) -> Registered:
    """Of a cell, as it was: its text, its weights, and what it uses of the notebook."""
    with generators_kept():
        module = user_code(name, "while its cell ran", recipe.build)
        return _prove(name, recipe, module, example, list(notes))


def _named_classes(example: Tree) -> Iterator[tuple[str, str, str, bytes]]:
    """The notebook's own classes of named tuples in an example, for lanes to have by their names."""
    from esen_lab.ensemble.snapshot import class_by_value

    for place in sorted(named_places(flatten(example)[1])):
        module, _, path = place.partition(":")
        owner, _, name = path.rpartition(".")
        if module == "__main__":
            yield module, owner, name, class_by_value(attrgetter(path)(sys.modules[module]))


def _check_hooks(compiled: nn.Module) -> None:
    """Refuse what torch.compile made where it has hooks of its own: what lanes run is inside of it."""
    count = sum(len(vars(compiled).get(table, ())) for table in HOOKS)
    if count:
        raise UsageError(
            "Hooks of a compiled network are on the network itself, which lanes run uncompiled",
            given=f"{count} on what torch.compile made of it",
            hint="Give them to the network that was compiled (its register_forward_hook).",
        )


def _check_kind(module: nn.Module) -> None:
    """Refuse what cannot be looked into."""
    import torch

    scripted = [
        path or "the module itself" for path, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)
    ]
    if scripted:
        raise UsageError(
            "A sub-model is a network in Python, all of it",
            given=f"a scripted or traced part: {scripted[0]}",
            hint="Register the module that was scripted, or script the whole of it.",
        )
    # What `ExportedProgram.module` gives refuses to be put into eval mode, by methods of its own.
    exported = [
        path or "the module itself"
        for path, part in module.named_modules()
        if isinstance(part, torch.fx.GraphModule) and "eval" in vars(part)
    ]
    if exported:
        raise UsageError(
            "A network can be put into eval mode, all of it",
            given=f"what an exported program's module() gave: {exported[0]}",
            hint="Register the program itself (program, not program.module()), or the network that was exported.",
        )


def _content(recipe: Recipe, reach: Reach) -> str:
    """What tells one picture from another, in this session."""
    if isinstance(recipe, LiveRecipe):
        return text_digest(
            bytes_digest(recipe.snapshot),
            reach.digest,
            *(part for pair in sorted(reach.bound.items()) for part in pair),
        )
    return ""


def _fingerprint(recipe: Recipe, module: nn.Module, reach: Reach, *, values: bool = True) -> str:
    from esen_lab.ensemble.skeleton import tensors_of
    from esen_lab.ensemble.weights import state_of

    tensors: Mapping[str, torch.Tensor] = state_of(module)
    structure = "\n".join(f"{path} {_class_path(part)}{_mode(part, module)}" for path, part in module.named_modules())
    structure += f"\n{_told(module)}"
    source = ""
    if isinstance(recipe, LiveRecipe) and recipe.skeleton is not None:
        tensors = tensors_of(module)
        structure = json.dumps(recipe.skeleton["tree"], sort_keys=True)
    elif isinstance(recipe, SourceRecipe):
        source = f"{recipe.context.text}\n{recipe.text}"
    elif isinstance(recipe, ImportRecipe):
        source = f"{recipe.path} {recipe.args!r} {sorted(recipe.kwargs.items())!r}"
    digests = tensor_digests(tensors) if values else {name: str(tensor_spec(t)) for name, t in tensors.items()}
    return fingerprint(digests, structure, f"{source}\n{reach.digest}")


def _mode(part: nn.Module, module: nn.Module) -> str:
    return " in training mode" if part.training and not module.training else ""


def _told(module: nn.Module) -> str:
    try:
        return repr(module)
    except RAISED:  # an object of the user's may raise wherever it is looked at
        return ""


def _class_name(module: nn.Module) -> str:
    from esen_lab.ensemble.kinds.function import Function
    from esen_lab.ensemble.snapshot import is_parametrized, parametrized_parts

    if isinstance(module, Function):
        return name_of(module.function)
    return (parametrized_parts(module)[0] if is_parametrized(module) else type(module)).__name__


def _class_path(module: nn.Module) -> str:
    cls = type(module)
    return cls.__qualname__ if cls.__module__ == "__main__" else f"{cls.__module__}.{cls.__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _what(source: Any) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"
