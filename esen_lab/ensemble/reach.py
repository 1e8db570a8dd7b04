"""What a network's answer comes from besides its tensors: the code that runs, wherever it is defined.

From the module, everything that its calls can get to is followed:

    a part of the module      its class and those above it; functions and objects kept in it (hooks, a `forward`)
    a class or function       the functions in it; global names that their code reads; cells, defaults, decorators
    a global name             what it holds now: followed in turn, or a plain value that counts itself; one that is not
                              there may be later, and is Python's own until then, which may be replaced too; the
                              attributes that code reads of a module or a class, by its name here or in a cell
    a module as a value       all that it holds, where it is the user's: which names are read, nobody can see
    something installed       not followed: the version of its package stands for it; but names that it calls may hold
                              somebody else's function, now or later

Two pictures are made of it. `Reach.digest` is the same in every process that has the same code and values, and becomes
part of the fingerprint. `Reach.names`, `classes` and `functions` are the objects themselves, to look at again later.
"""

from __future__ import annotations

import builtins
import contextvars
import functools
import pickle
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble.fingerprint import code_digest, text_digest, value_digest
from esen_lab.ensemble.origin import (
    RAISED,
    InContext,
    asked,
    custom_operator,
    held_in,
    home_of,
    installed_folders,
    is_a,
    is_as_installed,
    is_installed,
    is_module,
    is_operator,
    is_tensor,
    version_of,
)
from esen_lab.ensemble.source.definitions import functions_in
from esen_lab.ensemble.source.names import enclosed_in_code, imports_in_code, names_in_code

if TYPE_CHECKING:
    import torch
    from torch import nn

_MOST = 20_000  # things followed, so that a network that reaches a whole program is looked at for a moment only
_MOST_ITEMS = 1_000  # of one container
_MOST_READ = 64  # functions of packages, the nearest ones, and what these read
_LARGEST_CARRIED = 1 << 20
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: a class whose attributes nobody can set
_NOT_IMPORTED = ("__main__", "esen_lab_source_")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""The tables of hooks of a module that calls of it run."""
NOT_ATTRIBUTES = frozenset(
    {
        "training",
        "_parameters",
        "_buffers",
        "_modules",
        "_non_persistent_buffers_set",
        "_backward_pre_hooks",
        "_backward_hooks",
        "_is_full_backward_hook",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    }
)
"""What `vars` of a module holds besides attributes: its tables, and torch's own book-keeping."""


@dataclass(slots=True)
class Reach:
    """What a network reaches; filled while it is followed, read after.

    Attributes:
        functions: The functions of the user's that can run.
        classes: The user's classes.
        installed: Classes of packages.
        names: (where, name, value): global names that the code reads, names that it encloses (`Cell`), attributes of
            modules and of installed classes.
        tensors: Tensors that are no part of the module: globals, cells, defaults.
        objects: Objects of the user's classes that are no part of the module.
        code: For each function of the user's, a digest of what it does, by module and qualified name.
        values: For each name that is read, and each attribute, a digest of what it holds.
        packages: For each installed package that is called, its version.
        held: See `carried`.
        bound: For each function or class that a name in a module holds, or an attribute of a class of a file, which it
            is; so that another process can tell whether its own name holds the same.
        replaced: Names in imported modules at which there is a function of the session.
        settings: (where, name): what code of packages reads of their modules, which their own functions may set.
        whole: Whether everything was followed.
    """

    functions: list[types.FunctionType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    installed: list[type] = field(default_factory=list)
    names: list[tuple[Mapping[str, Any], str, Any]] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    held: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    bound: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    settings: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)
    whole: bool = True

    @property
    def carried(self) -> tuple[tuple[str, str, str, bytes], ...]:
        """(module, path of a class in it or "", name, value, pickled): values in modules that another process imports.

        They may have been set at run time here, so whoever builds the network elsewhere sets them there.
        """
        return tuple(self.held)

    @property
    def digest(self) -> str:
        """Of the code, the values and the packages' versions: the same wherever these are the same."""
        return text_digest(
            *(
                part
                for table in (self.code, self.values, self.packages)
                for pair in sorted(table.items())
                for part in pair
            )
        )

    @property
    def of_files(self) -> dict[str, str]:
        """The part of `code` that another process would import for itself, and what its names hold."""
        return {key: digest for key, digest in self.comparable.items() if not key.startswith(_NOT_IMPORTED)}

    @property
    def comparable(self) -> dict[str, str]:
        """What two processes compare: see `code` and `bound`."""
        return {**self.code, **self.bound}


def reach_of(module: nn.Module, *, digests: bool = True) -> Reach:
    """What `module` reaches. Runs no code of the user's; takes some milliseconds.

    Args:
        module: The network.
        digests: Whether values are told by digests and carried, which takes most of the time.
    """
    walk = _Walk(digests=digests)
    for path, part in module.named_modules():
        walk.add(type(part))
        for name, value in vars(part).items():
            if name in HOOKS:  # by numbers that are others in every process
                walk.add(list(value.values()))
                walk.value(f"self:{path}.{name}", list(value.values()))
            elif name not in NOT_ATTRIBUTES:
                walk.add(value)
                walk.value(f"self:{path}.{name}", value)
    walk.run()
    return walk.reach


def other_code(there: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    """What is other code here: functions, and names that hold another function or class, or one at all.

    Args:
        there: What `Reach.of_files` gave in the session.
        here: What `Reach.comparable` gives in another process, which may have imported more.
    """
    differ = [key for key, digest in there.items() if here.get(key, digest) != digest]
    # Of a class that both know, the session may have taken a function away.
    more = [key for key in here.keys() - there.keys() if f"{key.rpartition('.')[0]}.__bases__" in there]
    return tuple(sorted((*differ, *more)))


class _Walk:
    """One way through everything that is reached."""

    def __init__(self, *, digests: bool) -> None:
        self.reach = Reach()
        self._digests = digests
        self._seen: set[int] = set()
        self._named: set[tuple[int, str]] = set()
        self._bases: set[int] = set()
        self._met: set[int] = set()  # functions of packages
        self._read: set[int] = set()  # and those whose settings are known
        self._asked: list[tuple[list[Any], Mapping[str, Any]]] = []  # of packages: functions, methods they may call
        self._kept: list[Any] = []  # what was seen stays alive, or another thing could have its identity
        self._waiting: list[Any] = []

    def add(self, thing: Any) -> None:
        """Follow `thing` later, if it was not followed before."""
        if thing is None or type(thing) in (bool, int, float, complex, str, bytes) or id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        self._kept.append(thing)
        self._waiting.append(thing)

    def run(self) -> None:
        """Follow all that waits."""
        while self._waiting:
            if len(self._seen) > _MOST:
                self.reach.whole = False
                return
            thing = self._waiting.pop()
            try:
                self._follow(thing)
            except RAISED:  # an object of the user's may raise wherever it is looked at
                self.add(type(thing))
        called = {name for function in self.reach.functions for name in function.__code__.co_names}
        for functions, methods in self._asked:
            self._settings([*functions, *(methods[name] for name in methods.keys() & called)], methods)

    def _follow(self, thing: Any) -> None:
        if isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, types.BuiltinFunctionType):
            self._package(str(getattr(thing, "__module__", "") or ""))
        elif isinstance(thing, types.ModuleType):
            self._module(thing)
        elif is_tensor(thing):
            self.reach.tensors.append(thing)
        elif is_operator(thing):
            self._operator(thing)
        elif (inner := _inner_of(thing)) is not None:
            self._items(inner, len(inner))
        else:
            self._object(thing)

    def _module(self, module: types.ModuleType) -> None:
        """A module that is handed on as a value, as to `getattr`; of the others, names are followed that are read."""
        if module.__name__ == "__main__" or _is_of_package(module.__name__):
            return
        for name, value in list(vars(module).items()):
            if not name.startswith("__"):
                self._name(vars(module), name, module.__name__, follow=not is_a(value, types.ModuleType))

    def _operator(self, operator: Any) -> None:
        """An operator of torch, with the kernels in Python that torch can name: those of `torch.library.custom_op`."""
        made = custom_operator(operator)
        if made is not None:
            self.add([made._init_fn, *made._backend_fns.values()])

    def _items(self, items: Any, count: int) -> None:
        if count > _MOST_ITEMS:
            self.reach.whole = False
            return
        for item in list(items):
            self.add(item)

    def _object(self, thing: Any) -> None:
        self.add(type(thing))
        wrapped = asked(thing, "__wrapped__")  # functools.cache and other decorators
        if is_a(wrapped, (types.FunctionType, type)):
            self.add(wrapped)
        own = asked(thing, "__dict__")
        if isinstance(own, dict) and (not is_installed(type(thing)) or is_module(thing)):
            self._items(own.values(), len(own))
            if not is_module(thing):
                self.reach.objects.append(thing)

    def _class(self, cls: type) -> None:
        if is_installed(cls):
            self._package(cls.__module__)
            # Somebody may have put a function of his own into it.
            for base in cls.__mro__:
                if base is not object and id(base) not in self._bases:
                    self._bases.add(id(base))
                    self._installed(base)
            self._called_by(cls)
            return
        self.reach.classes.append(cls)
        bases = [f"{home_of(base)}:{base.__qualname__}" for base in cls.__bases__]
        self.reach.bound[f"{home_of(cls)}.{cls.__qualname__}.__bases__"] = text_digest(*bases)
        for base in cls.__bases__:
            self.add(base)
        self.add(type(cls))
        for name, value in vars(cls).items():
            if name not in ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__"):
                self.add(value)
                self.value(f"{home_of(cls)}:{cls.__qualname__}.{name}", value)
                self._bind(f"{home_of(cls)}.{cls.__qualname__}.{name}", value)
                if not name.startswith("__"):
                    self._carry(home_of(cls), cls.__qualname__, name, value)

    def _installed(self, cls: type) -> None:
        """A class of a package: the functions in it that are somebody else's, and those that always count."""
        if cls.__module__ == "torch.fx.graph_module" and cls.__qualname__ != "GraphModule":
            return  # one graph's own: its forward is made anew of the graph whenever that is pickled
        if cls.__module__ not in _NOT_LOOKED_AT and not cls.__flags__ & _IMMUTABLE:
            self.reach.installed.append(cls)
        for name, value in vars(cls).items():
            if isinstance(value, types.FunctionType):
                own = is_installed(value) or value.__module__ == cls.__module__
                if not own or name in ("forward", "__call__"):
                    self._name(vars(cls), name, f"{cls.__module__}.{cls.__qualname__}", follow=not own)

    def _called_by(self, cls: type) -> None:
        """Functions that calls of an installed class get to by their names: somebody may put others there."""
        if home_of(cls) in ("builtins", *_NOT_LOOKED_AT):
            return
        methods = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        waiting: list[Any] = [methods.get("forward"), methods.get("__call__")]
        while waiting:
            function = waiting.pop()
            if not is_a(function, types.FunctionType) or id(function) in self._met:
                continue
            self._met.add(id(function))
            waiting.append(asked(function, "__wrapped__"))
            home = str(function.__globals__.get("__name__", ""))
            if home == home_of(cls) or home.startswith("torch.nn."):
                waiting += [methods.get(name) for name in function.__code__.co_names]
                waiting += [self._called(function.__globals__, chain) for chain in names_in_code(function.__code__)]
        begin = ("forward", "__call__") if "forward" in methods else ("__init__", "__call__")
        self._asked.append(([methods.get(name) for name in begin], methods))

    def _called(self, namespace: Mapping[str, Any], chain: tuple[str, ...]) -> Any:
        """The function that installed code reads by a name, or as an attribute of a module; None where it is none."""
        for name in chain:
            value = namespace.get(name)
            if is_a(value, _FUNCTIONS):
                self._name(namespace, name, str(namespace.get("__name__", "")), follow=not is_installed(value))
                return value
            if not is_a(value, types.ModuleType):
                return None
            namespace = vars(value)
        return None

    def _settings(self, functions: Sequence[Any], methods: Mapping[str, Any]) -> None:
        """What functions of a package, and those of it that they call by their names, read of its modules."""
        waiting = deque(function for function in functions if is_a(function, types.FunctionType))
        while waiting and max(len(self._read), len(self.reach.settings)) < _MOST_READ:
            function = waiting.popleft()
            home = str(function.__globals__.get("__name__", ""))
            root = home.partition(".")[0]
            if id(function) in self._read or root in _WITHOUT_SETTINGS or root in sys.stdlib_module_names:
                continue
            self._read.add(id(function))
            found = [asked(function, "__wrapped__"), *map(methods.get, function.__code__.co_names)]
            found += [self._setting(function.__globals__, chain, root) for chain in names_in_code(function.__code__)]
            waiting += [one for one in found if is_a(one, types.FunctionType) and is_installed(one)]

    def _setting(self, namespace: Mapping[str, Any], chain: tuple[str, ...], root: str) -> Any:
        """What is read by a name, or as an attribute of a module of the same package: kept, and followed if it runs."""
        for name in chain:
            value: Any = namespace.get(name)
            if is_a(value, types.ModuleType):
                if value.__name__.partition(".")[0] != root:
                    return None
                namespace = vars(value)
                continue
            named = (id(namespace), name)
            fixed = name.startswith("__") or (callable(value) and not is_a(value, types.FunctionType))
            if name in namespace and named not in self._named and not fixed:
                self._named.add(named)
                self.reach.settings.append((namespace, name))
            return value if home_of(value).partition(".")[0] == root else None
        return None

    def _function(self, function: types.FunctionType) -> None:
        if is_installed(function):
            self._package(function.__module__ or "")
            self._asked.append(([function], {}))
            self._around_users(function)
            return
        self.reach.functions.append(function)
        key = f"{home_of(function)}:{function.__qualname__}"
        digest = code_digest(function.__code__)
        self.reach.code[key] = text_digest(self.reach.code[key], digest) if key in self.reach.code else digest
        own = (function.__defaults__, function.__kwdefaults__, vars(function))
        self.value(f"{key} defaults", own)
        self.add(own)
        enclosed: dict[str, list[tuple[str, ...]]] = {}
        for chain in enclosed_in_code(function.__code__):
            enclosed.setdefault(chain[0], []).append(chain[1:])
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                held = cell.cell_contents
            except ValueError:
                continue  # not filled yet
            self.reach.names.append((Cell(cell, name), name, held))
            self.value(f"{key} {name}", held)
            self.add(held)
            for chain in enclosed.get(name, ()):
                self._attributes(held, chain)
        self.add(getattr(function, "__wrapped__", None))
        for chain in names_in_code(function.__code__):
            self._chain(function.__globals__, chain, home_of(function))
        modules, names = imports_in_code(function.__code__, str(function.__globals__.get("__package__") or ""))
        for name in sorted(modules & sys.modules.keys()):
            self._imported(sys.modules[name], names)
        self._by_text(function, names, modules)

    def _around_users(self, function: types.FunctionType) -> None:
        """A package's function that may enclose one of the user's, such as `torch.no_grad()` around a method."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                held = cell.cell_contents
            except ValueError:
                continue  # not filled yet
            if _is_users(held):
                self.reach.names.append((Cell(cell, name), name, held))
                self.add(held)
            elif is_a(held, types.FunctionType):
                self.add(held)

    def _by_text(self, function: types.FunctionType, names: frozenset[str], modules: frozenset[str]) -> None:
        """What a function asks for by texts, as far as they stand in its code."""
        texts = {constant for constant in _constants_of(function.__code__) if isinstance(constant, str)}
        if "globals" in names:
            for text in sorted(texts & function.__globals__.keys()):
                self._chain(function.__globals__, (text,), home_of(function))
        whole = modules if not names.isdisjoint(("getattr", "vars", "__dict__")) else frozenset()
        if not names.isdisjoint(("modules", "import_module", "__import__")):
            whole |= texts
        for name in sorted(whole & sys.modules.keys()):
            self.add(sys.modules[name])

    def _imported(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """A module that a function imports while it runs, and which of these names it has."""
        if (id(module), "") in self._named:
            return
        self._named.add((id(module), ""))
        self._package(module.__name__)
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            inner = is_a(value, types.ModuleType)
            self._name(vars(module), name, module.__name__, follow=not inner)
            if inner:
                self._imported(value, names)

    def _chain(self, namespace: Mapping[str, Any], chain: tuple[str, ...], home: str) -> None:
        """A global name, and the attributes that are read of it as long as it is a module or a class."""
        first = chain[0]
        if first not in namespace:
            self._not_there(namespace, first)
            namespace, home = vars(builtins), "builtins"
        if first in namespace:
            self._name(namespace, first, home, follow=len(chain) == 1 or not is_a(namespace[first], types.ModuleType))
            self._attributes(namespace[first], chain[1:])

    def _attributes(self, value: Any, chain: tuple[str, ...]) -> None:
        """The attributes that are read one of the other, as long as what has them is a module or a class."""
        for number, name in enumerate(chain, 1):
            if is_a(value, types.ModuleType):
                namespace, home = vars(value), value.__name__
                self._package(home)
            elif is_a(value, type):
                namespace, home = vars(value), f"{home_of(value)}:{value.__qualname__}"
            else:
                return
            if type(value).__module__ == "torch._ops":
                asked(value, name)  # torch.ops binds an operator once it is asked for it
            if name not in namespace:
                if isinstance(namespace, dict) and not _is_of_package(home):  # some packages import when asked
                    self._not_there(namespace, name)
                return
            value = namespace[name]
            self._name(namespace, name, home, follow=number == len(chain) or not is_a(value, types.ModuleType))
        if is_a(value, types.ModuleType):
            self._package(value.__name__)

    def _not_there(self, namespace: Mapping[str, Any], name: str) -> None:
        """A name that is read and that nothing has: it is there later, perhaps."""
        if (id(namespace), name) not in self._named:
            self._named.add((id(namespace), name))
            self.reach.names.append((namespace, name, None))

    def _name(self, namespace: Mapping[str, Any], name: str, home: str, *, follow: bool) -> None:
        value = namespace[name]
        if (id(namespace), name) in self._named:
            return
        self._named.add((id(namespace), name))
        self.reach.names.append((namespace, name, value))
        if not is_as_installed(name, value):  # what is, may be there or not yet: some packages import when asked
            self.value(f"{home}:{name}", value)
        self._bind(f"{home.replace(':', '.')}.{name}", value)
        if is_a(value, types.FunctionType) and value.__module__ == "__main__" and home != "__main__":
            self.reach.replaced.append(f"{home.replace(':', '.')}.{name}")
        if namespace is vars(sys.modules.get(home, _Nothing)):
            self._carry(home, "", name, value)
        if follow:
            self.add(value)

    def _carry(self, module: str, path: str, name: str, value: Any) -> None:
        """Keep a value of a module that another process imports from a file of the user's."""
        if module == "__main__" or "<locals>" in path or _is_of_package(module):
            return
        data = _carried(value, module) if self._digests else None
        if data is not None:
            self.reach.held.append((module, path, name, data))

    def _bind(self, key: str, value: Any) -> None:
        """Keep which function or class a name holds; of what is installed, only that it is, where it is at home.

        Some packages choose one of their classes by where they run, such as a bar of progress in a notebook, and some
        wrap their own functions, such as torch when it compiles.
        """
        if is_a(value, types.FunctionType) and is_installed(value) and _is_of_package(key.partition(".")[0]):
            self.reach.bound[key] = "installed"
        elif is_a(value, types.FunctionType):
            self.reach.bound[key] = text_digest(home_of(value), value.__qualname__, code_digest(value.__code__))
        elif is_a(value, type) or is_a(value, types.BuiltinFunctionType):
            self.reach.bound[key] = "installed" if is_installed(value) else f"{home_of(value)}:{value.__qualname__}"

    def value(self, key: str, value: Any) -> None:
        """Keep the digest of a value."""
        if self._digests:
            self.reach.values[key] = value_digest(value)

    def _package(self, module: str) -> None:
        root = module.partition(".")[0]
        if root and root not in self.reach.packages and root not in sys.stdlib_module_names and root not in _OURS:
            version = version_of(root)
            if version:
                self.reach.packages[root] = version


# What nobody can put anything into, and the class that all networks share: the session's settings look at that.
_NOT_LOOKED_AT = ("builtins", "torch.nn.modules.module")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_WITHOUT_SETTINGS = ("torch", "numpy", "esen_lab")  # what these keep, `lanes/settings.py` looks at
_OURS = ("esen_lab", "__main__", "torch", "builtins")  # torch's version is told with every measured point


def _is_users(thing: Any) -> bool:
    """Whether something that a package's function encloses is code of the user's, or holds some."""
    if is_a(thing, (types.FunctionType, type)):
        return not is_installed(thing)
    return is_module(thing) or is_a(thing, (types.MethodType, functools.partial))


def _constants_of(code: types.CodeType) -> Iterator[Any]:
    """The constants of code, and of the functions in it."""
    for constant in code.co_consts:
        yield constant
        if isinstance(constant, types.CodeType):
            yield from _constants_of(constant)


def _inner_of(thing: Any) -> Sequence[Any] | None:
    """What is in a container or around a function; None for other objects."""
    if isinstance(thing, (staticmethod, classmethod, property, functools.cached_property)):
        return list(functions_in(thing))
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, contextvars.ContextVar):
        return held_in(thing)
    if isinstance(thing, (tuple, list, set, frozenset)):
        return list(thing)
    return list(thing.values()) if isinstance(thing, Mapping) else None


class _Nothing:
    """Stands for a module that is not there."""


class Cell(Mapping[str, Any]):
    """A closure's cell as a namespace of one name, so that it is looked at again and set like any other."""

    __slots__ = ("_name", "cell")

    def __init__(self, cell: types.CellType, name: str) -> None:
        self.cell = cell
        self._name = name

    def __getitem__(self, name: str) -> Any:
        try:
            return self.cell.cell_contents
        except ValueError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self.cell.cell_contents = value

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1


def name_in(space: Mapping[str, Any], name: str) -> str:
    """What a name is called, for people."""
    return f"the enclosed name {name}" if isinstance(space, Cell) else f"the global name {name}"


def _is_of_package(module: str) -> bool:
    """Whether a module is an installed one, or none that is imported from a file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return not file or file.startswith(installed_folders())


def _carried(value: Any, module: str) -> bytes | None:
    """A value that can be set in another process, pickled; None for code, and for what is too large or cannot be.

    A function is sent where it is none of the module's own: one that was perhaps put there while the session ran. One
    of the notebook is sent by value, any other one by its name.
    """
    try:
        if is_a(value, types.FunctionType):
            data = None if home_of(value) == module or is_installed(value) else _function_bytes(value)
        elif isinstance(value, contextvars.ContextVar):
            data = pickle.dumps(InContext(*held)) if (held := held_in(value)) else None
        elif is_a(value, (type, types.ModuleType)) or callable(value) or is_module(value):
            data = None
        else:
            data = pickle.dumps(value)
    except RAISED:
        return None
    return data if data is not None and len(data) <= _LARGEST_CARRIED else None


def _function_bytes(function: types.FunctionType) -> bytes:
    import cloudpickle

    data: bytes = (cloudpickle if home_of(function) == "__main__" else pickle).dumps(function)
    return data
