"""A live module pickled for this machine's own workers; the saved form of what has no other (`kinds/estimator.py`).

Cloudpickle takes classes of the notebook by value; torch's own container around it takes memory that several tensors
share once. Loading such bytes executes what they say, so they travel over private pipes, and are written to exported
folders only, which are code.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from esen_lab.common.surroundings import model_cell
from esen_lab.ensemble.fingerprint import text_digest
from esen_lab.ensemble.origin import RAISED, custom_operator, home_of, is_installed, is_module, is_operator
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_MADE_WHEN_ASKED = frozenset({"__annotations__", "__annotations_cache__", "__annotate_func__", "__doc__"})  # by Python


def take_snapshot(module: Any) -> bytes:
    """A module, or an estimator, as bytes.

    Raises:
        UsageError: Something in it cannot leave this process; the message names the attribute.
    """
    import cloudpickle
    import torch
    from torch import nn

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle publishes no types
        """Cloudpickle, plus parametrized modules: torch refuses to pickle the class it makes for them."""

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, nn.Module) and is_parametrized(thing):
                base, names = parametrized_parts(thing)
                own: Any = (
                    base  # whose state leaves out what it makes anew, such as an LSTM's references to its weights
                )
                return (_blank, (base,), (names, own.__getstate__(thing)), None, None, _fill)
            if is_operator(thing) or type(thing).__module__ == "torch._ops":
                return _operator_reduced(thing)
            if isinstance(thing, functools.cached_property):  # it holds a lock before Python 3.12
                return functools.cached_property, (thing.func,), {"attrname": thing.attrname}
            if isinstance(thing, functools._lru_cache_wrapper) and thing.__module__ == "__main__":
                return _cached, (thing.__wrapped__, thing.cache_parameters())
            return _with_tracker_of_lanes(thing, super().reducer_override(thing))

    holder = types.SimpleNamespace(Pickler=Pickler, __name__="esen_lab_snapshot")
    buffer = io.BytesIO()
    try:
        torch.save(module, buffer, pickle_module=holder)
    except RAISED as problem:  # whatever an attribute's own reduction raises
        raise UsageError(
            "A live module can be sent to a worker process",
            given=f"{_culprit(module)}: {problem}",
            hint=f"Leave that attribute out, or build the sub-model {model_cell()}.",
        ) from problem
    return buffer.getvalue()


def class_by_value(kind: type) -> bytes:
    """A class of the notebook, pickled: loaded in a lane, it is the one that the networks sent there know."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle publishes no types
        def reducer_override(self, thing: Any) -> Any:
            return _with_tracker_of_lanes(thing, super().reducer_override(thing))

    buffer = io.BytesIO()
    Pickler(buffer).dump(kind)
    return buffer.getvalue()


def load_snapshot(data: bytes) -> Any:
    """A new one from `take_snapshot`'s bytes, its tensors on the CPU."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def is_parametrized(module: nn.Module) -> bool:
    """Whether torch has replaced the module's class to compute some of its tensors (`torch.nn.utils.parametrize`)."""
    from torch import nn

    held = vars(module).get("_modules", {}).get("parametrizations")
    return isinstance(held, nn.ModuleDict) and type(module).__name__.startswith("Parametrized")


def parametrized_parts(module: nn.Module) -> tuple[type[nn.Module], tuple[str, ...]]:
    """The class a parametrized module had before, and the names of the tensors that are computed."""
    base = type(module).__mro__[1]
    return base, tuple(vars(module)["_modules"]["parametrizations"].keys())


def parametrize(module: nn.Module, names: tuple[str, ...]) -> None:
    """Replace the class of a filled module as torch's own `register_parametrization` does."""
    from torch.nn.utils import parametrize as torch_parametrize

    torch_parametrize._inject_new_class(module)
    for name in names:
        torch_parametrize._inject_property(module, name)


def _with_tracker_of_lanes(thing: Any, reduced: Any) -> Any:
    """Cloudpickle's reduction of a class, with another number than the one that finds the class in this process.

    Finding it, cloudpickle would overwrite the methods of the user's own class with copies that see other globals. By a
    number of its own the class is one and the same for all networks of it that one process is sent, and what is sent
    last is what its methods are: as here, where all instances follow their class. With other names in it, or other
    classes above it, it is another one: what the first one has would stay in it, also what is not here any more.
    """
    import cloudpickle

    if not isinstance(thing, type) or not isinstance(reduced, tuple):
        return reduced
    number = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(thing)
    if number is None:
        return reduced
    function, args, *rest = reduced
    own = f"{number} in lanes {text_digest(*_names_in(thing))}"
    return (function, tuple(own if arg == number else arg for arg in args), *rest)


def _names_in(kind: type) -> Iterator[str]:
    """The classes above one, itself the first, each with what it has by name where it may be sent by value."""
    for base in kind.__mro__:
        yield f"{base.__module__}:{base.__qualname__}"
        if not is_installed(base):
            yield from sorted(vars(base).keys() - _MADE_WHEN_ASKED)


def _operator_reduced(thing: Any) -> Any:
    """An operator of torch, or a namespace of them, by its name; what else makes it must be imported elsewhere too."""
    import torch

    made = custom_operator(thing) if is_operator(thing) else None
    if made is None:
        path = thing.__name__.removeprefix("torch.") if isinstance(thing, types.ModuleType) else f"ops.{thing}"
        return attrgetter(path), (torch,)
    home = home_of(made._init_fn)
    if home == "__main__":
        raise pickle.PicklingError(
            f"the operator {made._qualname} is made in the notebook, and lanes have those that modules make which they "
            "import"
        )
    return _made_operator, (home, made._qualname.replace("::", ".") if thing is made else str(thing), thing is made)


def _made_operator(home: str, path: str, whole: bool) -> Any:
    """An operator that `torch.library.custom_op` makes in a module, or all that it made."""
    import torch

    import_module(home)
    operator = attrgetter(path)(torch.ops)
    return custom_operator(operator) if whole else operator


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function of the notebook that remembers its results, with nothing remembered yet."""
    return functools.lru_cache(**parameters)(function)


def _blank(base: type[nn.Module]) -> nn.Module:
    return base.__new__(base)


def _fill(module: nn.Module, state: tuple[tuple[str, ...], dict[str, Any]]) -> None:
    names, attributes = state
    module.__setstate__(attributes)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    parametrize(module, names)


def _culprit(module: Any) -> str:
    """The attribute that cannot be pickled, as a path, or the module's class."""
    import cloudpickle

    for path, part in module.named_modules() if is_module(module) else [("", module)]:
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                cloudpickle.dumps(value)
            except RAISED:
                where = f"{path}.{name}" if path else name
                return f"the attribute {where} of type {type(value).__name__}"
    return f"a {type(module).__name__}"
