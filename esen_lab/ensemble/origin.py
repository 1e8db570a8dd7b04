"""What an object is and where it comes from: importable elsewhere, installed, a tensor, a network. Imports no torch."""

from __future__ import annotations

import contextvars
import functools
import importlib.metadata
import sys
import sysconfig
import types
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import esen_lab
from esen_lab.common.packages import installed_version

RAISED = (Exception, SystemExit)
"""What an object of the user's may raise while it is looked at; whoever looks at one goes on without what it says."""
_SEARCHED = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "math", "operator", "numpy")


def import_path(thing: Any) -> str:
    """Where another process can import the class or function `thing` from, as "package.module:name", or ""."""
    name = asked(thing, "__qualname__") or asked(thing, "__name__")
    if not isinstance(name, str) or is_a(thing, types.MethodType):
        return ""
    home = asked(thing, "__module__")
    for module in (home,) if isinstance(home, str) else ():
        if reaches(module, name, thing):
            return f"{module}:{name}"
    # Functions written in C name a private home, or none.
    short = name.rpartition(".")[2]
    if isinstance(thing, types.BuiltinFunctionType):
        for module in _SEARCHED:
            if module in sys.modules and reaches(module, short, thing):
                return f"{module}:{short}"
    return ""


def imported(path: str) -> Any:
    """What an import path as `import_path` gives it names; raises what importing and looking it up raise."""
    module, _, attribute = path.partition(":")
    thing: Any = import_module(module)
    for part in attribute.split("."):
        thing = getattr(thing, part)
    return thing


def reaches(module: str, name: str, thing: Any) -> bool:
    """Whether importing `name` from `module` gives `thing`, in another process too."""
    found: Any = sys.modules.get(module)
    if not is_importable(found):
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def is_importable(module: Any) -> bool:
    """Whether `module` is one that another process can import."""
    return (
        isinstance(module, types.ModuleType)
        and module.__name__ != "__main__"
        and getattr(module, "__spec__", None) is not None
        and sys.modules.get(module.__name__) is module
    )


def deepest(module: types.ModuleType, parts: Sequence[str]) -> str:
    """The name of the innermost module on the way from `module` along `parts`."""
    here: Any = module
    for part in parts:
        deeper: Any = sys.modules.get(f"{here.__name__}.{part}")
        if deeper is None or getattr(here, part, None) is not deeper or not is_importable(deeper):
            break
        here = deeper
    return str(here.__name__)


# --- what is installed ------------------------------------------------------------------------------------------------


def home_of(thing: Any) -> str:
    """The name of the module that a class or function says it was defined in, or ""."""
    return str(getattr(thing, "__module__", "") or "")


def is_installed(thing: Any) -> bool:
    """Whether a class or function comes from the standard library or an installed package."""
    if isinstance(thing, types.FunctionType):
        filename = thing.__code__.co_filename
        return filename.startswith(("<frozen", *installed_folders()))
    module = sys.modules.get(home_of(thing))
    if module is None:
        return False
    if home_of(thing) == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return (file is None and not hasattr(module, "__path__")) or (file or "").startswith(installed_folders())


def is_as_installed(name: str, value: Any) -> bool:
    """Whether a name holds what its package has given that name."""
    if is_a(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        return value.__name__.rpartition(".")[2] == name and (file is None or file.startswith(installed_folders()))
    named = is_a(value, (type, types.FunctionType, types.BuiltinFunctionType))
    return named and value.__name__ == name and (isinstance(value, types.BuiltinFunctionType) or is_installed(value))


@functools.cache
def installed_folders() -> tuple[str, ...]:
    """Where installed code lies, this package's own included; each ends with a slash."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if paths.get(name)}
    found |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    found.add(str(Path(esen_lab.__file__).parent))
    return tuple(f"{folder.rstrip('/')}/" for folder in found)


@functools.cache
def version_of(root: str) -> str:
    """The version of the installed package that has the top-level module `root`; "" for a module of the user's own."""
    try:
        return installed_version(root)
    except importlib.metadata.PackageNotFoundError:
        pass
    module = sys.modules.get(root)
    if module is None or not (getattr(module, "__file__", "") or "").startswith(installed_folders()):
        return ""  # a module of the user's own: its code itself is what counts
    return str(getattr(module, "__version__", ""))


# --- asking objects of the user's ------------------------------------------------------------------------------------


def asked(thing: Any, name: str, otherwise: Any = None) -> Any:
    """An attribute of an object that may raise anything when it is asked, such as a proxy of what is not there."""
    try:
        return getattr(thing, name, otherwise)
    except RAISED:
        return otherwise


def is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance`, of an object that may raise when it is asked for its class."""
    try:
        return isinstance(value, kinds)
    except RAISED:
        return False


class InContext(NamedTuple):
    """What a context variable holds in the session, on its way to another process."""

    value: Any


def held_in(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    """What a context variable holds for whoever calls now, as a row of one; of none where it holds nothing."""
    try:
        return (variable.get(),)
    except LookupError:
        return ()


# --- tensors and networks ---------------------------------------------------------------------------------------------


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and is_a(value, torch.Tensor)


def is_module(value: Any) -> bool:
    """Whether `value` is an `nn.Module`."""
    nn = sys.modules.get("torch.nn")
    return nn is not None and is_a(value, nn.Module)


# --- operators of torch -----------------------------------------------------------------------------------------------


def is_operator(value: Any) -> bool:
    """Whether `value` is one of `torch.ops`, or what `torch.library.custom_op` has made."""
    home = type(value).__module__
    return (home == "torch._ops" and not is_a(value, types.ModuleType)) or home == "torch._library.custom_ops"


def custom_operator(operator: Any) -> Any:
    """What `torch.library.custom_op` keeps of an operator; None where it was made otherwise."""
    made: Any = sys.modules.get("torch._library.custom_ops")
    return None if made is None else made.OPDEFS.get(_operator_name(operator))


def kernels_of(operator: Any) -> tuple[Any, ...]:
    """What runs when an operator is called: another row once anybody gives it a kernel, or takes one from it.

    Nothing for torch's own, which the session's settings look at, and for those that call functions they are given.
    """
    name, made = _operator_name(operator), custom_operator(operator)
    if "::" not in name or name.startswith("aten::"):
        return ()
    dumped: Any = sys.modules["torch"]._C._dispatch_dump
    overloads = vars(operator).get("_overload_names", ("",))
    own = () if made is None else (*made._backend_fns.items(), *made._disabled_kernel)
    return (*(dumped(f"{name}.{overload}".rstrip(".")) for overload in overloads), *own)


def _operator_name(operator: Any) -> str:
    """Such as "aten::relu", or "aten::add.Tensor"."""
    own = vars(operator)
    name = own.get("_qualified_op_name") or own["_name"]
    return f"{own['_namespace']}::{name}" if "_namespace" in own else str(name)
