"""The proof of a registration: a network is run as the notebook has it and as lanes build it, and must answer alike."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.inputs import ordinary_tensors
from esen_lab.common.trees import Tree, call_with, check_named, flatten, map_tensors, tree_spec
from esen_lab.ensemble.as_it_was import AsItWas, reached_by, session_kept
from esen_lab.ensemble.chance import PROOF_SEED, generators_kept, seed_for, seed_generators, states
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.origin import RAISED, is_tensor
from esen_lab.ensemble.program import way_on
from esen_lab.ensemble.reach import HOOKS, Reach
from esen_lab.ensemble.recipes import Rebuild, in_lane_mode
from esen_lab.ensemble.traits import GRADS, Grad, Traits, calling
from esen_lab.ensemble.watch import Watch
from esen_lab.errors import EsenError, ModelError, UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on the example, and what it did besides.

    Attributes:
        module: What was called.
        output: Its output, copied.
        changes_input: Whether it wrote into its input.
        random: Whether it drew random numbers.
        state: What it changed in the network, for people.
        steady: Whether a second call, begun alike, gave the same output.
        last_bits: Whether the output differs from the notebook's by rounding.
    """

    module: nn.Module
    output: Tree
    changes_input: bool
    random: bool
    state: tuple[str, ...] = ()
    steady: bool = True
    last_bits: bool = False


def answer_here(name: str, module: nn.Module, x: Tree, *, own: bool = False) -> Tree:
    """What a copy of `module` answers on `x`, called as this thread and process call it.

    Random numbers are those of `PROOF_SEED`; the session's generators stay where they are, and so does the module and
    whatever else it reaches.

    Args:
        name: The sub-model's.
        module: The module.
        x: The input.
        own: Whether the module is the caller's own, so that no copy is needed.

    Raises:
        ModelError: It raised.
    """
    with generators_kept(), session_kept(reached_by(module)):
        return call_here(name, module, x, own=own).output


def call_here(name: str, module: nn.Module, example: Tree, *, own: bool = False) -> Call:
    """What a copy of `module` answers, or itself where it is `own`, called as the session calls it."""
    import torch

    twin = module if own else twin_of(module)
    try:
        return _call(name, twin, example, None)
    except ModelError:
        if not torch.is_grad_enabled():
            raise
        # Some networks change their own parameters in a call, which only works without gradients.
        try:
            return _call(name, module if own else twin_of(module), example, "off")
        except ModelError:
            pass
        raise


def call_as_lanes_do(
    name: str, rebuild: Rebuild, own: Call, example: Tree, begin: Callable[[], object] = lambda: None
) -> tuple[Grad, Call]:
    """The cheapest way with gradients in which what is built again answers as the module does here, and its run.

    Args:
        name: The sub-model's.
        rebuild: Builds it again.
        own: The module's call here.
        example: What it is called with.
        begin: Called before each call, for what it reaches outside of itself to be what `own` met.

    Raises:
        UsageError: There is none: it is another network when it is built again.
    """
    first: Call | None = None
    problem: ModelError | None = None
    for grad in GRADS:
        module = user_code(name, "while it was built again", rebuild)
        begin()
        try:
            ran = _call(name, module, example, grad)
        except ModelError as reason:
            problem = problem or reason
            continue
        found = difference(ran.output, own.output, OTHER_ORDER)
        if found.agrees:
            ran.last_bits = bool(found.error)
            return grad, ran
        first = first or ran
    if first is None:
        assert problem is not None
        raise problem
    module = user_code(name, "while it was built again", rebuild)
    begin()
    twice = _call(name, module, example, GRADS[0])
    if not difference(twice.output, first.output, OTHER_ORDER).agrees:
        first.steady = False
        return GRADS[0], first
    raise UsageError(
        "Built again, a sub-model gives the same output",
        given=f"another output on the example ({difference(first.output, own.output, OTHER_ORDER)})",
        hint="Keep everything that is made by chance or by training in parameters or buffers (register_buffer).",
    )


def check_its_copy(name: str, module: nn.Module, copied: Call, example: Tree) -> None:
    """Refuse a network whose copy answers otherwise than it does itself: lanes, and whoever checks them, have copies.

    Such a one keeps what it computes with by its own identity, or where copying does not get to. It is called once, in
    the mode that it is in, where it is on the CPU and a copy has shown that a call changes nothing.

    Raises:
        UsageError: It does.
    """
    from esen_lab.ensemble.weights import state_of

    if any(tensor.device.type != "cpu" for tensor in state_of(module).values()):
        return

    def of_a_copy() -> Call:
        return _call(name, _in_mode_of(module, twin_of(module)), example, None)

    before = AsItWas(module, Reach())
    try:
        copied = of_a_copy() if module.training else copied
        if copied.state:
            return
        found = difference(copied.output, _call(name, module, example, None).output, OTHER_ORDER)
        if found.agrees or not difference(of_a_copy().output, copied.output, OTHER_ORDER).agrees:
            return  # or it never answers alike
    except ModelError:  # in training mode alone, or where a copy differs: in weights made in inference mode
        return
    finally:
        before.put_back()
    raise UsageError(
        "A copy of a sub-model answers as it does itself",
        given=f"another output on the example ({found})",
        hint="Lanes are given a copy: keep what it computes with in its attributes, parameters or buffers, and not "
        "under its identity elsewhere, in a cache of its method, or where its own __getstate__ leaves it out.",
    )


def _call(name: str, module: nn.Module, example: Tree, grad: Grad | None) -> Call:
    """Run `module` once on a copy of the example, with the random numbers of proofs; `grad` None: as the session is."""
    import torch

    watch = Watch(module, state_only=True) if grad != "inference" else None  # there, changes are not counted
    given = map_tensors(lambda t: t.clone(), example)
    seed_generators(seed_for(PROOF_SEED, name))
    chance = states()
    with nullcontext() if grad is None else calling(grad):
        output = user_code(name, on_example(example), lambda: call_with(module, given))
        tree_spec(output, f"the output of {name!r}")
        if grad is None:
            check_named(output, f"the output of {name!r}")
    drew = states() != chance
    with ordinary_tensors(), torch.no_grad():
        # A copy: it may be a view of what the next run overwrites. A plain one, as lanes answer with.
        output = map_tensors(lambda t: t.detach().clone().as_subclass(torch.Tensor), output)
    return Call(
        module=module,
        output=output,
        changes_input=not same_bits(flatten(given)[0], flatten(example)[0]),
        random=drew,
        state=watch.what() if watch is not None and watch.changed(whole=True) else (),
    )


def notes_of(own: Call, again: Call, traits: Traits) -> list[str]:
    """What the user should know of a network, from the call of it here and that of the one built again."""
    notes = []
    if again.changes_input:
        notes.append("changes its input in place; each run gives it a copy")
    if not traits.steady:
        notes.append("gives another output each time it runs on the same input")
    elif traits.random:
        notes.append(
            "draws random numbers, so it gives another output each time it runs on the same input; torch.manual_seed "
            "before a run repeats it"
        )
    if again.last_bits:
        notes.append("built again, its output differs in the last bits")
    if traits.keeps_state:
        notes.append(
            f"keeps state between calls ({', '.join(traits.state)} changes): a lane starts with the state registered "
            "and goes on from there, apart from the notebook's own; measuring puts it back"
        )
    if traits.grad == "on":
        notes.append("computes gradients in its forward, which lanes therefore record")
    floating = [leaf for leaf in flatten(own.output)[0] if leaf.is_floating_point()]
    if any(bool(leaf.isnan().any()) for leaf in floating):
        notes.append("its output on the example holds NaN")
    return notes


def twin_of(module: nn.Module) -> nn.Module:
    """A copy of a live module on the CPU, in the mode that lanes run it in: what is changed in a call is its own."""
    from esen_lab.ensemble.snapshot import load_snapshot, take_snapshot

    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it copies
            _copy_tensors(module, memo)
            twin = copy.deepcopy(module, memo)
        if not _parts_of(twin).isdisjoint(_parts_of(module)):  # a class of the user's that is not to be copied
            raise copy.Error
        _enclose_copies(twin, memo)
    except RAISED:  # whatever an attribute's own __deepcopy__ raises
        twin = load_snapshot(take_snapshot(module))
    return in_lane_mode(twin.cpu())


def _in_mode_of(module: nn.Module, twin: nn.Module) -> nn.Module:
    for part, copied in zip(module.modules(), twin.modules(), strict=False):
        copied.training = part.training
    return twin


def _parts_of(module: nn.Module) -> set[int]:
    return set(map(id, module.modules()))


def _copy_tensors(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copy those tensors of a network that torch copies otherwise than they are, or not at all."""
    from torch import nn

    blank: Any = nn.UninitializedBuffer
    for buffer in module.buffers():
        if isinstance(buffer, nn.UninitializedBuffer):  # as in `nn.LazyBatchNorm1d`
            memo[id(buffer)] = blank(requires_grad=False, device=buffer.device, dtype=buffer.dtype)
    for part in module.modules():
        for value in vars(part).values():
            if is_tensor(value) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:  # torch leaves its attributes, and the memory that others show too
            plain = parameter.detach()
            memo.setdefault(id(memo), []).append(plain)  # kept, as what has a number in the memo has to be
            copied = memo[id(parameter)] = nn.Parameter(copy.deepcopy(plain, memo), parameter.requires_grad)
            vars(copied).update(copy.deepcopy(vars(parameter), memo))


def _enclose_copies(twin: nn.Module, memo: dict[int, Any]) -> None:
    """Have functions that parts of a copy hold, such as a `forward` around another one, call the copy."""
    for part in twin.modules():
        for table in (vars(part), *(vars(part).get(hooks, {}) for hooks in HOOKS)):
            for name, value in list(table.items()):
                if isinstance(value, types.FunctionType):
                    table[name] = _enclosing_copies(value, memo)


def _enclosing_copies(value: Any, memo: dict[int, Any]) -> Any:
    """What a function encloses, where it is a part of the network, its method or a function around one, of the copy."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.MethodType) and id(value.__self__) in memo:
        return types.MethodType(value.__func__, memo[id(value.__self__)])
    if not isinstance(value, types.FunctionType) or not value.__closure__:
        return value
    memo[id(value)] = value  # it may enclose itself
    try:
        held = [cell.cell_contents for cell in value.__closure__]
    except ValueError:  # not filled yet
        return value
    copies = [_enclosing_copies(one, memo) for one in held]
    if all(one is copied for one, copied in zip(held, copies, strict=True)):
        return value
    cells = zip(value.__closure__, held, copies, strict=True)
    own = tuple(cell if one is copied else types.CellType(copied) for cell, one, copied in cells)
    made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, own)
    for name in ("__kwdefaults__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(value, name))
    vars(made).update(vars(value))
    memo[id(value)] = made
    return made


_DIFFERENTIATES = (
    "Inputs come without gradients, which lanes do not record either. A network that differentiates by its input makes "
    "its own in forward: with torch.enable_grad(): x = x.detach().requires_grad_()."
)


def _text_of(problem: BaseException) -> str:
    try:
        return str(problem)
    except RAISED:  # of a class of the user's
        return ""


def on_example(example: Tree) -> str:
    """When the user's code raised, for messages of `user_code`."""
    return f"on its example {tree_spec(example)}"


def user_code(name: str, when: str, call: Callable[[], Any]) -> Any:
    """`call()`; what the user's code raises becomes a `ModelError` that says when."""
    try:
        return call()
    except EsenError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a network that leaves must not take the notebook along
        text = _text_of(problem)
        last = text.strip().splitlines()
        given = f"{type(problem).__name__}: {last[-1] if last else ''}".rstrip(": ")
        hint = "Run it in a cell to see it whole."
        if "example" in when:
            differentiates = _DIFFERENTIATES if "not require grad" in text else ""
            hint = way_on(given) or differentiates or "Check that the example is what the module takes."
        raise ModelError(f"Sub-model {name!r} raised {when}", given=given, hint=hint) from problem
