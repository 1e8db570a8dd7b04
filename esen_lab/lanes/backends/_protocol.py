"""What a backend promises: a way to execute a sub-model that gives the answer it gives eagerly.

    why_not     what it lacks here, before anything is built
    version     of the engine, for those who keep what it makes
    prepare     once per look of the input: what is called from then on

A backend is one class in one file, which ends with `BACKEND = TheClass`, and one name in
`esen_lab.common.units.BACKENDS`; the file has that name, with "_" for "-".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from esen_lab.common.trees import Structure, Tree, call_with, flatten

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    from esen_lab.lanes.backends._cache import Cache

CAN_EXECUTE = "can execute the sub-model"  # the rule of the error of one that cannot
Call: TypeAlias = "Callable[[Sequence[torch.Tensor], Sequence[Any], Mapping[str, Any]], Tree]"
"""Takes an input three ways, each backend what it needs of them: its tensors, positional and keyword arguments."""


class Refused(Exception):  # noqa: N818  an answer, not a fault
    """A backend does not take a sub-model; the text says why, as one sentence without its full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Inputs like those that will come, which say how large the values inside a network get.

    Attributes:
        leaves: Their tensors, samples along the first dimension.
        structure: What is left of them, as in `Example`.
    """

    leaves: Sequence[torch.Tensor]
    structure: Structure

    @classmethod
    def of(cls, inputs: Tree) -> Calibration:
        """Of the input of a sub-model with as many samples as there are."""
        leaves, structure = flatten(call_with(lambda *args, **kwargs: (list(args), kwargs), inputs))
        return cls(leaves=leaves, structure=structure)

    def like(self, example: Example) -> list[list[torch.Tensor]]:
        """The samples as inputs of an example's look; the first ones come twice where there are fewer than one takes.

        Raises:
            Refused: They do not look like the example but for the number of samples.
        """
        sizes = {leaf.shape[0] for leaf in example.leaves if leaf.dim()}
        mine, wanted = ([(leaf.dtype, leaf.shape[1:]) for leaf in given] for given in (self.leaves, example.leaves))
        by_sample = len(sizes) == 1 and min(sizes) > 0 and all(leaf.dim() for leaf in example.leaves)
        if self.structure != example.structure or mine != wanted or not by_sample:
            raise Refused("its calibration data does not look like its input")
        size, samples = sizes.pop(), self.leaves[0].shape[0]
        firsts = range(0, max(1, samples - size + 1), size)
        return [[leaf[[(first + i) % samples for i in range(size)]] for leaf in self.leaves] for first in firsts]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How a sub-model is to be executed.

    Attributes:
        precision: What products may be computed in (one of `esen_lab.common.units.PRECISIONS`); "" for that of the
            network.
        calibration: For int8: what it is quantised by.
        own_threads: Whether the engine computes in threads of its own where it can, so that the calling one may have
            others begin meanwhile.
        cache: Where what was prepared is kept for other processes, or None.
        fingerprint: Of the sub-model; "" where it has none, and nothing is shared with other backends of it.
    """

    precision: str = ""
    calibration: Calibration | None = None
    own_threads: bool = False
    cache: Cache | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An input of one look, and the eager answer to it.

    Attributes:
        leaves: The tensors of the input, as `trees.flatten` gives them of ([positional], {keyword}).
        structure: What is left of it.
        answer: The tensors of the answer.
        answer_structure: What is left of that.
        threads: How many the lane computes with.
        switches: What else a trace depends on: see `switches_now`.
    """

    leaves: Sequence[torch.Tensor]
    structure: Structure
    answer: Sequence[torch.Tensor]
    answer_structure: Structure
    threads: int
    switches: str = ""

    @property
    def form(self) -> str:
        """The input without its values, as a text that is the same in every process."""
        return form_of(self.leaves, self.structure) + self.switches

    @property
    def look(self) -> str:
        """All of it but the values, as a text that is the same in every process."""
        tensors = [(str(leaf.dtype), tuple(leaf.shape)) for leaf in (*self.leaves, *self.answer)]
        return repr((self.structure, self.answer_structure, tensors, self.threads)) + self.switches


def form_of(leaves: Sequence[torch.Tensor], structure: Structure) -> str:
    """See `Example.form`."""
    return repr((structure, [(str(leaf.dtype), tuple(leaf.shape)) for leaf in leaves]))


def switches_now() -> str:
    """What this thread has set of torch that a trace of a network keeps; "" where all is as usual."""
    import torch

    cast = [
        f"{kind} in {torch.get_autocast_dtype(kind)}" for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
    ]
    usual = torch.get_default_dtype() is torch.float32
    return "".join([*(f"; autocast on {one}" for one in cast), "" if usual else f"; {torch.get_default_dtype()}"])


class Backend(Protocol):
    """One sub-model with one backend, in the process and under the limits of its lane.

    Args:
        module: The network, which stays as it answers now: later looks are compared with it.
        settings: How.

    Attributes:
        reads: The kinds of members beside networks that its engine takes as they are (see `SubModel.kind`).
        as_torch: Whether torch's own operators compute, so that any input comes to what it does eagerly. Where they do
            not, an engine is compared on more than the example (`_agreement.py`), and an input that holds NaN or
            infinities, or that it is not known to answer as eager does, is left to eager.
    """

    reads: ClassVar[tuple[str, ...]]
    as_torch: ClassVar[bool]

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None: ...

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """Why it can't be had where lanes compute on `torch_device`, as a sentence without its end; "" where it can.

        Args:
            torch_device: Such as "cpu" or "cuda:0".
            precision: As in `BackendSettings`.
        """

    @staticmethod
    def version() -> str:
        """Of the engine; "" where torch itself is it."""

    def program(self, example: Example) -> ExportedProgram | None:
        """The graph of operators that it is traced as; asked only where torch does not compute (`as_torch`).

        It is traced for this where that was not done, since what was kept was enough.

        Args:
            example: The look.

        Returns:
            None where there is none: it is no network.

        Raises:
            Refused: It cannot be traced.
        """

    def prepare(self, example: Example) -> Call:
        """Make ready for inputs that look like the example; called with gradients and inference mode off.

        What is returned computes with `example.threads` threads, which have the affinity of the calling one, and which
        sleep between calls. Its answer may lie where the next call writes it.

        Raises:
            Refused: This sub-model, or this look, is not for it. So is whatever else is raised, in fewer words.
        """
