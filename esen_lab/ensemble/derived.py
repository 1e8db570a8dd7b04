"""Sub-models that lanes run in the place of those of the user: groups of equal ones, and parts of a batch.

A derived sub-model is measured, loaded and run as any other is. Its fingerprint says what its time depends on: the
architecture, how many networks or rows, the example; not the values of weights. So all groups of one size of one
architecture share their points, and new weights leave them valid. `content` is that of the members: lanes are sent
what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from esen_lab.common.other_numbers import other_numbers, with_others
from esen_lab.common.trees import Tree, TreeSpec, call_with, flatten, map_tensors, tree_spec
from esen_lab.ensemble.chance import generators_kept
from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.ensemble.recipes import GroupRecipe, PartRecipe
from esen_lab.ensemble.submodel import SubModel
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import EsenError, UsageError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


def kind_of(submodel: SubModel) -> tuple[str, ...]:
    """What sub-models that may be one group have in common: all but the values of parameters and buffers."""
    return (
        submodel.class_name,
        submodel.code_fingerprint or submodel.recipe.kind,
        str(tree_spec(submodel.example)),
        str(submodel.output_spec),
        submodel.traits.grad,
    )


def why_alone(submodel: SubModel) -> str:
    """Why a sub-model can neither be in a group nor have its batch split; "" where it can."""
    if submodel.traits.keeps_state:
        return "it keeps state between calls"
    if submodel.traits.random:
        return "it draws random numbers"
    return "" if submodel.traits.steady else "its answers differ from call to call"


def group_of(name: str, submodels: Sequence[SubModel]) -> SubModel:
    """Equal networks as one sub-model, which answers with a tuple of their answers.

    Raises:
        UsageError: They are of several kinds, or one keeps state or draws random numbers.
    """
    names = ", ".join(submodel.name for submodel in submodels)
    for submodel in submodels:
        why = why_alone(submodel) or ("it computes gradients" if submodel.traits.grad == "on" else "")
        if why:
            raise UsageError("A group holds sub-models that run as one call", given=f"{submodel.name!r}: {why}")
    if len({kind_of(submodel) for submodel in submodels}) > 1:
        raise UsageError(
            "A group holds sub-models of one architecture, with equal examples",
            given=names,
            hint="Search again: the plan was made when they were equal.",
        )
    first = submodels[0]
    spec = first.output_spec
    return SubModel(
        name=name,
        recipe=GroupRecipe(members=tuple(submodel.rebuild for submodel in submodels)),
        example=first.example,
        output_spec=TreeSpec(
            structure=("tuple", (spec.structure,) * len(submodels)), tensors=spec.tensors * len(submodels)
        ),
        parameters=sum(submodel.parameters for submodel in submodels),
        memory_bytes=sum(submodel.memory_bytes for submodel in submodels),
        class_name=f"{len(submodels)} × {first.class_name}",
        fingerprint=_digest("group", str(len(submodels)), *kind_of(first)),
        content=_digest(*(f"{submodel.fingerprint} {submodel.content}" for submodel in submodels)),
        traits=_traits(submodels),
    )


def part_of(name: str, submodel: SubModel, part: int, parts: int) -> SubModel:
    """A sub-model that takes the whole batch and runs one part of its rows.

    Raises:
        UsageError: It keeps state or draws random numbers.
    """
    why = why_alone(submodel)
    if why:
        raise UsageError("A batch is split for sub-models that answer row by row", given=f"{submodel.name!r}: {why}")
    return SubModel(
        name=name,
        recipe=PartRecipe(whole=submodel.rebuild, part=part, parts=parts),
        example=submodel.example,
        output_spec=submodel.output_spec,
        parameters=submodel.parameters,
        memory_bytes=submodel.memory_bytes,
        class_name=submodel.class_name,
        # The first part has as many rows as any: what it takes stands for all.
        fingerprint=_digest("part", str(parts), *kind_of(submodel)),
        content=_digest(f"{submodel.fingerprint} {submodel.content} {part}"),
        traits=_traits([submodel]),
    )


def why_not_grouped(submodels: Sequence[SubModel]) -> str:
    """Run equal sub-models as one group on their example, here; why they cannot be one, or ""."""
    from esen_lab.common.answers import difference

    try:
        group = group_of("group", submodels)
        with generators_kept(), group.traits.called():
            answers = call_with(group.build(), _own(group.example))
            for submodel, answer in zip(submodels, answers, strict=True):
                found = difference(answer, call_with(submodel.build(), _own(submodel.example)))
                if not found.agrees:
                    return f"{submodel.name} answers otherwise in a group ({found})"
    except Exception as problem:  # torch.func refuses what it cannot batch, each thing in its own words
        return f"they cannot run as one call ({_words(problem)})"
    return ""


def why_not_split(submodel: SubModel, parts: int) -> str:
    """Run a sub-model on parts of its batch, here; why its batch cannot be split, or "".

    Equal rows would hide that a row's answer depends on the others: it is asked with other values too.
    """
    from esen_lab.common.answers import difference
    from esen_lab.ensemble.batch_part import BatchPart, joined, rows_of

    why = why_alone(submodel)
    if why:
        return why
    try:
        rows = rows_of(submodel.example)
        if rows < parts:
            return f"its batch has {rows} rows, fewer than {parts} parts"
        whole = submodel.build()
        split = [BatchPart(whole, part, parts) for part in range(1, parts + 1)]
        with generators_kept(), submodel.traits.called():
            for x in (
                submodel.example,
                *(_unlike_rows(submodel.example, other) for other in (_OTHERS_BEHIND, _shuffled)),
            ):
                try:
                    wanted = call_with(whole, _own(x))
                except Exception:
                    if x is submodel.example:
                        raise
                    continue  # values of our own may be none that it takes
                found = difference(joined([call_with(one, _own(x)) for one in split]), wanted)
                if not found.agrees:
                    return f"its answer to a row depends on other rows of the batch ({found})"
    except Exception as problem:
        return f"it cannot run a part of its batch ({_words(problem)})"
    return ""


def _unlike_rows(example: Tree, other: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """An input of the example's look whose rows differ: floats with noise, all else as `other` makes it."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def unlike(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return other(tensor)
        scale = tensor.double().abs().nan_to_num(0.0, 0.0, 0.0).mean().item() or 1.0
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
        return (tensor.double() + scale * noise).to(tensor.dtype)

    return map_tensors(unlike, example)


_OTHERS_BEHIND = partial(with_others, numbers=other_numbers, first=False)
"""What looks at the largest, or the longest, of a batch is told by them."""


def _shuffled(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in another order: whoever knows no others takes these."""
    import torch

    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0), device="cpu")
    return tensor.flatten()[order].reshape(tensor.shape)


def _own(x: Tree) -> Tree:
    return map_tensors(lambda tensor: tensor.clone(), x)


def _traits(submodels: Sequence[SubModel]) -> Traits:
    first = submodels[0].traits
    code = {key: digest for submodel in submodels for key, digest in submodel.traits.code.items()}
    replaced = tuple(dict.fromkeys(name for submodel in submodels for name in submodel.traits.replaced))
    return Traits(grad=first.grad, code=code, replaced=replaced)


def _digest(*texts: str) -> str:
    return bytes_digest("\0".join(texts).encode())


def _words(problem: Exception) -> str:
    return str(problem) if isinstance(problem, EsenError) else f"{type(problem).__name__}: {first_line(problem)}"


def seconds_of(submodel: SubModel, repeats: int = 3) -> float:
    """How long a call takes here, roughly: which sub-models are heavy, before any is measured."""
    import time

    module: nn.Module = submodel.build()
    took_s = []
    with generators_kept(), submodel.traits.called():
        for _ in range(repeats):
            x = _own(submodel.example)
            start = time.perf_counter()
            flatten(call_with(module, x))
            took_s.append(time.perf_counter() - start)
    return min(took_s)
