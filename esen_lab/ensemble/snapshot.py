"""A picture of a live module as bytes, for this machine's own workers only: never a saved form.

Cloudpickle takes classes of the notebook by value; torch's own container around it takes memory that several tensors
share once. Loading such bytes executes what they say, so they travel over private pipes and are never written down.
"""

from __future__ import annotations

import io
import types
from typing import TYPE_CHECKING, Any

from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def take_snapshot(module: nn.Module) -> bytes:
    """`module` as bytes.

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
                return (_blank, (base,), (names, vars(thing)), None, None, _fill)
            return _without_tracker(thing, super().reducer_override(thing))

    holder = types.SimpleNamespace(Pickler=Pickler, __name__="esen_lab_snapshot")
    buffer = io.BytesIO()
    try:
        torch.save(module, buffer, pickle_module=holder)
    except Exception as problem:  # whatever an attribute's own reduction raises
        raise UsageError(
            "A live module can be sent to a worker process",
            given=f"{_culprit(module)}: {problem}",
            hint="Leave that attribute out, or build the sub-model in a %%esen model cell.",
        ) from problem
    return buffer.getvalue()


def load_snapshot(data: bytes) -> nn.Module:
    """A new module from `take_snapshot`'s bytes, its tensors on the CPU."""
    import torch

    module: nn.Module = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    return module


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


def _without_tracker(thing: Any, reduced: Any) -> Any:
    """Cloudpickle's reduction of a class, less the number by which it would find the class again in this process.

    Finding it, cloudpickle overwrites the methods of the user's own class with copies that see other globals.
    """
    import cloudpickle

    if not isinstance(thing, type) or not isinstance(reduced, tuple):
        return reduced
    number = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(thing)
    if number is None:
        return reduced
    function, args, *rest = reduced
    return (function, tuple(None if arg == number else arg for arg in args), *rest)


def _blank(base: type[nn.Module]) -> nn.Module:
    return base.__new__(base)


def _fill(module: nn.Module, state: tuple[tuple[str, ...], dict[str, Any]]) -> None:
    names, attributes = state
    module.__dict__.update(attributes)
    parametrize(module, names)


def _culprit(module: nn.Module) -> str:
    """The attribute that cannot be pickled, as a path, or the module's class."""
    import cloudpickle

    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                cloudpickle.dumps(value)
            except Exception:  # noqa: BLE001, RUF100  any failure is what is looked for
                where = f"{path}.{name}" if path else name
                return f"the attribute {where} of type {type(value).__name__}"
    return f"a {type(module).__name__}"
