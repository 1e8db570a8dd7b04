"""Which global names a piece of source or of compiled code uses, and when: while it runs, or later in its functions."""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import symtable
import types
from dataclasses import dataclass

from esen_lab.errors import UsageError

ONLY_IN_NOTEBOOKS = frozenset({"display", "get_ipython", "In", "Out", "exit", "quit"})
BUILTINS = frozenset(dir(builtins)) - ONLY_IN_NOTEBOOKS
_READS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL")
_READS_ENCLOSED = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_READS_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")


@dataclass(frozen=True, slots=True)
class Uses:
    """Global names: `hard` while the text runs, `soft` when its functions are called, `optional` perhaps."""

    hard: frozenset[str]
    soft: frozenset[str]
    optional: frozenset[str] = frozenset()


_AT_ONCE = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})


def uses_of(text: str) -> Uses:
    """The global names that a text uses and does not bind itself."""
    hard: set[str] = set()
    soft: set[str] = set()
    optional: set[str] = set()

    def walk(table: symtable.SymbolTable, at_once: bool) -> None:
        for symbol in table.get_symbols():
            if not symbol.is_referenced():
                continue
            name = symbol.get_name()
            if table.get_type() == "module":
                if not (symbol.is_assigned() or symbol.is_imported()):
                    hard.add(name)
            elif symbol.is_global():
                (hard if at_once else soft).add(name)
            elif table.get_type() == "class" and symbol.is_local():
                optional.add(name)  # `width = width` in a class body reads the global first
        for child in table.get_children():
            inner = at_once and (str(child.get_type()) == "class" or child.get_name() in _AT_ONCE)
            walk(child, inner)

    walk(symtable.symtable(text, "<text>", "exec"), True)
    own = bound_by(ast.parse(text))
    return Uses(frozenset(hard - own), frozenset(soft - hard - own), frozenset(optional - hard - soft - own))


def bound_by(tree: ast.Module) -> frozenset[str]:
    """The global names that a text binds."""
    table = symtable.symtable(ast.unparse(tree), "<text>", "exec")
    return frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())


def free_in_cell(text: str, what: str) -> list[str]:
    """The names that a cell takes from outside, in order of first use: read before, or never, bound."""
    try:
        tree = ast.parse(text)
        compile(text, "<cell>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as problem:
        raise UsageError(
            f"The body of {what} is plain Python",
            given=f"{problem}",
            hint="Keep magics, shell lines and top-level await out of it.",
        ) from problem
    everywhere = bound_by(tree)
    bound: set[str] = set()
    free: dict[str, None] = {}
    for statement in tree.body:
        alone = ast.Module(body=[statement], type_ignores=[])
        uses = uses_of(ast.unparse(alone))
        read = set(uses.hard)
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            read |= _loads(statement)
        if isinstance(statement, ast.AugAssign):
            read |= _loads(statement) | ({statement.target.id} if isinstance(statement.target, ast.Name) else set())
        free.update(dict.fromkeys(sorted(read - bound)))
        free.update(dict.fromkeys(sorted((uses.soft | uses.optional) - everywhere)))
        bound |= bound_by(alone)
    return [name for name in free if not name.startswith("__") and name not in BUILTINS]


def _loads(node: ast.AST) -> set[str]:
    """Names read by a simple statement itself, not inside functions it makes."""
    found: set[str] = set()
    stack: list[ast.AST] = [node]
    while stack:
        here = stack.pop()
        if isinstance(here, ast.Name) and isinstance(here.ctx, ast.Load):
            found.add(here.id)
        if not isinstance(here, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            stack.extend(ast.iter_child_nodes(here))
    return found


def chains_in(tree: ast.AST) -> set[tuple[str, ...]]:
    """Dotted reads such as ("torch", "nn", "functional", "relu")."""
    found = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        here: ast.AST = node
        while isinstance(here, ast.Attribute):
            parts.append(here.attr)
            here = here.value
        if parts and isinstance(here, ast.Name):
            found.add((here.id, *reversed(parts)))
    return found


def names_in_code(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """The global names that code reads, each with the attributes that are read of it at once."""
    return _chains_in_code(code, _READS_GLOBAL)


def enclosed_in_code(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """The same of the names that code takes from the functions around it."""
    return tuple(chain for chain in _chains_in_code(code, _READS_ENCLOSED) if chain[0] in code.co_freevars)


@functools.lru_cache(maxsize=4096)
def _chains_in_code(code: types.CodeType, reads: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    chains: dict[tuple[str, ...], None] = {}
    current: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in reads:
            if current:
                chains[tuple(current)] = None
            current = [str(instruction.argval)]
        elif current and instruction.opname in _READS_ATTRIBUTE:
            current.append(str(instruction.argval))
        elif instruction.opname not in ("CACHE", "PRECALL", "PUSH_NULL", "EXTENDED_ARG"):
            if current:
                chains[tuple(current)] = None
            current = []
    if current:
        chains[tuple(current)] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            chains |= dict.fromkeys(_chains_in_code(constant, reads))
    return tuple(chains)


@functools.lru_cache(maxsize=4096)
def imports_in_code(code: types.CodeType, package: str) -> tuple[frozenset[str], frozenset[str]]:
    """The modules that code imports while it runs, and all names that it may read of them.

    Args:
        code: Of a function.
        package: Where the function is from, for relative imports.
    """
    modules: set[str] = set()
    names = set(code.co_names)
    before: list[object] = []  # what `import` takes: how many folders up, and the names after `from ... import`
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, wanted = before[-2:] if len(before) > 1 else (0, None)
            module = _absolute(str(instruction.argval), level if isinstance(level, int) else 0, package)
            modules.add(module)
            modules |= {f"{module}.{name}" for name in wanted} if isinstance(wanted, tuple) else set()
        if instruction.opname != "EXTENDED_ARG":
            before = [*before, instruction.argval][-2:]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more, theirs = imports_in_code(constant, package)
            modules |= more
            names |= theirs
    return frozenset(modules), frozenset(names)


def _absolute(name: str, level: int, package: str) -> str:
    if not level:
        return name
    base = package.rsplit(".", level - 1)[0]
    return f"{base}.{name}" if name else base
