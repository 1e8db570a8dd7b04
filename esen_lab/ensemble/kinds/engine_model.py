"""A model that an engine executes: named inputs in, one answer or several named ones out."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.common.words import unknown
from esen_lab.ensemble.kinds.adapted import Adapter, device_of
from esen_lab.errors import UsageError


class EngineModel(Adapter):
    """One tensor per input: by position in the model's own order, or by keyword with its own names.

    It answers with the tensor, or where it has several answers with a dict by their names.

    Attributes:
        inputs: The model's names, each with the dtype it takes; None where it is not known to torch.
        sizes: For each input the sizes that it takes; None where a size is open.
        outputs: The names of the answers that it gives, of `all_outputs`.
    """

    inputs: Mapping[str, torch.dtype | None]
    sizes: Mapping[str, tuple[int | None, ...] | None]
    outputs: tuple[str, ...]
    all_outputs: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """The answers, where the input was.

        Raises:
            UsageError: The input has other names, or dtypes that the model does not take.
        """
        given = dict(zip(self.names_of(len(args), tuple(kwargs)), (*args, *kwargs.values()), strict=True))
        try:
            answers = self._answers(given)
        except UsageError:
            raise
        except Exception:
            self._check(given)
            raise
        device = device_of(args, kwargs)
        if device is not None:
            answers = [answer.to(device) for answer in answers]
        return answers[0] if len(answers) == 1 else dict(zip(self.outputs, answers, strict=True))

    def names_of(self, count: int, keys: Sequence[str]) -> tuple[str, ...]:
        """The model's names of an input: of `count` tensors by position and then those called `keys`.

        Raises:
            UsageError: It takes others.
        """
        names = (*tuple(self.inputs)[:count], *keys)
        if len(names) != len(self.inputs) or count > len(self.inputs) or set(names) != set(self.inputs):
            taken = ", ".join(self.inputs) or "nothing"
            strange = [key for key in keys if key not in self.inputs]
            by_key = f", {', '.join(keys)} by keyword" if keys else ""
            raise unknown(
                f"This {self.kind} takes {len(self.inputs)} input{'' if len(self.inputs) == 1 else 's'}: {taken}",
                next(iter(strange), None),
                self.inputs,
                given=f"no such input as {', '.join(strange)}" if strange else f"{count} by position{by_key}",
                hint="Give an example of one tensor per input: a tuple in this order, or a dict with these names.",
            )
        return names

    def _answers(self, given: Mapping[str, Any]) -> list[torch.Tensor]:
        raise NotImplementedError

    def _check(self, given: Mapping[str, Any]) -> None:
        """Say what is wrong with an input that the engine refused, where that can be told."""
        for name, value in given.items():
            wanted = self.inputs[name]
            if not isinstance(value, torch.Tensor):
                raise UsageError(f"An input of this {self.kind} is a tensor", given=f"{name} is {type(value).__name__}")
            if wanted is not None and value.dtype != wanted:
                short = str(wanted).removeprefix("torch.")
                raise UsageError(
                    f"The input {name!r} of this {self.kind} is {short}",
                    given=str(value.dtype).removeprefix("torch."),
                    hint=f"Give an example of that dtype: x.to(torch.{short}).",
                )
            sizes = self.sizes[name]
            if sizes is not None and not _fits(tuple(value.shape), sizes):
                shown = ", ".join("any" if size is None else str(size) for size in sizes)
                raise UsageError(
                    f"The input {name!r} of this {self.kind} has the sizes [{shown}]", given=str(list(value.shape))
                )


def _fits(shape: tuple[int, ...], sizes: tuple[int | None, ...]) -> bool:
    return len(shape) == len(sizes) and all(size in (None, found) for found, size in zip(shape, sizes, strict=True))


def check_inputs(types: Mapping[str, str], known: Container[str], kind: str) -> None:
    """Refuse a model with inputs that cannot be tensors.

    Args:
        types: For each input what the engine calls its type.
        known: Those that can.
        kind: The model's, for messages.

    Raises:
        UsageError: It has one; the message names it.
    """
    odd = {name: what for name, what in types.items() if what not in known}
    if odd:
        raise UsageError(
            f"An {kind} takes tensors of numbers",
            given=", ".join(f"{name} is {what}" for name, what in odd.items()),
            hint="Leave the part that reads it out of the graph.",
        )


def chosen(outputs: Sequence[str], asked: Any, unusable: Mapping[str, str], kind: str) -> tuple[str, ...]:
    """The answers of a model that a member gives.

    Args:
        outputs: All that the model has, in order.
        asked: A name, several, or None for all.
        unusable: Those that cannot be tensors, and what they are.
        kind: The model's, for messages.

    Raises:
        UsageError: It has none of that name, or one that cannot be a tensor.
    """
    names = tuple(outputs) if asked is None else tuple(asked) if isinstance(asked, (list, tuple)) else (asked,)
    strange = [name for name in names if name not in outputs]
    if strange or not names:
        raise unknown(
            f"This {kind} answers with {', '.join(outputs)}",
            next(iter(strange), None),
            outputs,
            given=f"outputs={asked!r}",
            hint="Choose among these.",
        )
    wrong = {name: unusable[name] for name in names if name in unusable}
    if wrong:
        good = [name for name in outputs if name not in unusable]
        others = step(f"kwargs={{'outputs': {good!r}}}", f"--outputs {','.join(good)}")
        raise UsageError(
            "A member answers with tensors of numbers",
            given=", ".join(f"{name} is {what}" for name, what in wrong.items()),
            hint=f"Choose others: {others}."
            if good
            else "Convert the model so that it answers with tensors (skl2onnx: zipmap=False), of float32, say.",
        )
    return names
