"""What lanes are compared with: the notebook's own process; of an export what its members answered where it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.locks import Lock
from esen_lab.common.trees import Tree, flatten, select
from esen_lab.ensemble import Ensemble, SubModel, answer_here
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.errors import EsenError, ModelError
from esen_lab.lanes.settings import Settings, left_as_set, with_threads_own

if TYPE_CHECKING:
    from torch import nn

_KEPT = 32


class NotebookAnswers:
    """Asks the user's own networks, and those built again in this process where the user holds none.

    Answers on the ensemble's example are kept; those of a registration count while the settings are what they were.

    Args:
        module_of: The user's own network of a sub-model, or None.
    """

    def __init__(self, module_of: Callable[[str], nn.Module | None]) -> None:
        self._module_of = module_of
        self._lock = Lock()
        self._kept: OrderedDict[tuple[Any, ...], Tree] = OrderedDict()

    def keep(self, submodel: SubModel, settings: Settings) -> None:
        """Remember what a sub-model answered on its example when it was registered."""
        if submodel.traits.steady:
            self._keep((submodel.name, submodel.fingerprint, submodel.content, settings.key), submodel.answer)

    def again(self, submodel: SubModel, x: Tree, settings: Settings | None) -> Tree | None:
        """See `OwnAnswers.again`."""
        own = select(x, submodel.input_keys)
        try:
            first, second = (self._ask(submodel, own, settings) for _ in range(2))
        except EsenError:
            return None
        with self._lock:
            for key in [key for key in self._kept if key[0] == submodel.name]:
                del self._kept[key]
        return first if difference(second, first, OTHER_ORDER).agrees else None

    def __call__(
        self, ensemble: Ensemble, x: Tree, settings: Settings | None, *, anew: bool = False
    ) -> dict[str, Tree]:
        """See `OwnAnswers`."""
        found: dict[str, Tree] = {}
        on_example = x is ensemble.example
        for submodel in ensemble.submodels:
            if submodel.answer is None or not submodel.traits.steady:
                continue
            own = select(x, submodel.input_keys)
            as_registered = _same(own, submodel.example)
            # By name too: what equal members draw depends on it.
            key = (submodel.name, submodel.fingerprint, submodel.content, None if settings is None else settings.key)
            with self._lock:
                known = self._kept.get(key) if as_registered and not anew else None
            if known is None:
                try:
                    known = self._ask(submodel, own, settings)
                except ModelError as problem:  # its lane raises too, or is told apart by it
                    found[submodel.name] = problem
                    continue
                except EsenError:
                    continue
                if as_registered and on_example:
                    self._keep(key, known)
            found[submodel.name] = known
        return found

    def _ask(self, submodel: SubModel, x: Tree, settings: Settings | None) -> Tree:
        users = self._module_of(submodel.name)
        module = submodel.build() if users is None else users
        # The session's settings: this may be a thread of a search.
        with left_as_set(), nullcontext() if settings is None else with_threads_own(settings):
            return answer_here(submodel.name, module, x, own=users is None)

    def _keep(self, key: tuple[Any, ...], answer: Tree) -> None:
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


class ExportedAnswers:
    """What the members of an export answered to its example, where it was made.

    What an export does not hold (modules, packages, what the session had set in them) may be another here, and nobody
    else would tell. Under other switches of torch than those of the export other answers are right: none is compared.

    Args:
        under: The switches that were set there, by name, as `Settings.named` has them.
    """

    def __init__(self, under: Mapping[str, Any]) -> None:
        self._under = dict(under)

    def again(self, submodel: SubModel, x: Tree, settings: Settings | None) -> Tree | None:  # noqa: ARG002
        """See `OwnAnswers.again`: what was answered there stays."""
        return submodel.answer

    def __call__(
        self,
        ensemble: Ensemble,
        x: Tree,
        settings: Settings | None,
        *,
        anew: bool = False,  # noqa: ARG002
    ) -> dict[str, Tree]:
        """See `OwnAnswers`; nothing for other inputs than the example."""
        if settings is None or settings.named != self._under or not _same(x, ensemble.example):
            return {}
        return {submodel.name: submodel.answer for submodel in ensemble.submodels if submodel.answer is not None}


def _same(x: Tree, example: Tree) -> bool:
    """Whether an input is the example itself, or equal to it in every bit."""
    if x is example:
        return True
    leaves, structure = flatten(x)
    wanted, expected = flatten(example)
    return structure == expected and same_bits(leaves, wanted)
