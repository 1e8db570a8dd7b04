"""How large and how tangled the package is: what `make house` prints, so that a change of the house has figures.

    python tools/house.py                              this checkout
    python tools/house.py --at REV                     a revision of it
    python tools/house.py --at BEFORE --at AFTER       two, side by side
    python tools/house.py --json FILE                  the same as JSON, with every name behind a figure

The counts read source and run nothing of it. The journeys (house_journeys.py) run what users do, on two tiny networks,
and count files entered and moves between files; `--no-journeys` leaves them out. A figure is counted or absent ("-").
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import keyword
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "esen_lab"
JOURNEYS = Path(__file__).with_name("house_journeys.py")
JOURNEYS_LIMIT_S = 300
BLOCK_LINES = 6  # of the same shape in two places: a duplicate
BLOCK_SHAPES = 4  # different lines among them at least, else every list of fields is one
Graph = Mapping[str, set[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file. `name` is dotted ("esen_lab.run.report"), a package's is that of its folder."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Lines of the file, blank ones and comments too."""
        return self.text.count("\n")

    @property
    def room(self) -> str:
        """The part of the package that it lies in; "" for the package's own `__init__` and `__main__`."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


# --- reading ---------------------------------------------------------------------------------------------------------


def read(package: Path) -> list[Module]:
    """All modules of a package's folder, by path."""
    modules = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules.append(Module(name=name, path=str(path.relative_to(package)), text=text, tree=ast.parse(text)))
    return modules


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(place, function) of every function, methods and inner ones too."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{module.path}: {node.name}", node


def classes(module: Module) -> Iterator[ast.ClassDef]:
    """The classes of a module's top level."""
    return (node for node in module.tree.body if isinstance(node, ast.ClassDef))


# --- who imports whom ------------------------------------------------------------------------------------------------


def imports(modules: list[Module]) -> dict[str, set[str]]:
    """Which module imports which: at any depth, lazily and for types only too.

    Whoever imports a module of another folder imports that folder's `__init__` first. The package's own `__init__`,
    which names everything in it, is left out.
    """
    known = {module.name for module in modules}
    root = min(known, key=len, default="")
    edges: dict[str, set[str]] = {}
    for module in modules:
        named: set[str] = set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                named |= {_home(alias.name, known) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                from_ = _absolute(node, module)
                named |= {_home(f"{from_}.{alias.name}", known) for alias in node.names}
        first = {folder for name in named for folder in _folders(name)} - _folders(module.name)
        edges[module.name] = ((named | first) & known) - {root, module.name}
    return {name: found for name, found in edges.items() if name != root}


def _folders(name: str) -> set[str]:
    """The folders that a module lies in: "a.b.c" lies in "a.b" and "a"."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    up = node.level - (module.path.endswith("__init__.py"))
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def _home(dotted: str, known: set[str]) -> str:
    """The module that `dotted` is, or lies in; "" when it is none of ours."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted


def rooms_of(edges: Graph) -> dict[str, set[str]]:
    """The same between rooms."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, targets in edges.items():
        here = name.split(".")[1]
        found[here] |= {target.split(".")[1] for target in targets} - {here}
    return dict(found)


def cycles(edges: Graph) -> list[list[str]]:
    """Groups of two and more in which each reaches each other (Tarjan's algorithm), largest first."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []
    for start in edges:
        if start in number:
            continue
        work = [(start, iter(sorted(edges[start])))]
        number[start] = low[start] = len(number)
        stack.append(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in number:
                    number[target] = low[target] = len(number)
                    stack.append(target)
                    work.append((target, iter(sorted(edges.get(target, ())))))
                    break
                if target in stack:
                    low[node] = min(low[node], number[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    group = stack[stack.index(node) :]
                    del stack[len(stack) - len(group) :]
                    if len(group) > 1:
                        groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group))


def layers(rule_file: Path) -> dict[str, set[str]] | None:
    """`MAY_IMPORT` of test_architecture.py, read without running it; None where there is no such file or rule."""
    if not rule_file.is_file():
        return None
    names: dict[str, Any] = {}
    for node in ast.parse(rule_file.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            try:
                names[target.id] = _literal(value, names)
            except (ValueError, KeyError):
                continue  # something else than sets of names
    found: dict[str, set[str]] | None = names.get("MAY_IMPORT")
    return found


def _literal(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """A literal that may also unite sets and name earlier ones."""
    match node:
        case ast.Name():
            return names[node.id]
        case ast.BinOp(op=ast.BitOr()):
            return _literal(node.left, names) | _literal(node.right, names)
        case ast.Call(func=ast.Name(id="set"), args=[]):
            return set()
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {ast.literal_eval(key): _literal(value, names) for key, value in pairs if key}
        case _:
            return ast.literal_eval(node)


def against(edges: Graph, may_import: Mapping[str, set[str]]) -> list[str]:
    """The edges that the rule does not allow, such as "run.report -> lab.lab"."""
    found = []
    for name, targets in sorted(edges.items()):
        here = name.split(".")[1]
        allowed = {here, *may_import.get(here, ())}
        below = name.partition(".")[2]
        if here in may_import:
            found += [f"{below} -> {to.partition('.')[2]}" for to in sorted(targets) if to.split(".")[1] not in allowed]
    return found


# --- what stands twice -----------------------------------------------------------------------------------------------


def twice(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Of (name, place): the names that have more than one place."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def shapes(text: str) -> list[tuple[int, str]]:
    """(line, shape) of each line of code: names, strings and numbers all look alike in it.

    Imports, docstrings, comments and lines with nothing but brackets are left out.
    """
    tree = ast.parse(text)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: dict[int, list[str]] = defaultdict(list)
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in ignored or token.start[0] in left_out:
            continue
        word = token.string
        if token.type == tokenize.NAME and not keyword.iskeyword(word):
            word = "n"
        elif token.type in (tokenize.STRING, tokenize.NUMBER):
            word = "v"
        lines[token.start[0]].append(word)
    return [(line, " ".join(words)) for line, words in sorted(lines.items()) if not set(words) <= set("()[]{},:")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Lines of the same shape in two places, each such as "run/report.py:12"."""

    first: str
    second: str
    lines: int


def duplicates(files: Mapping[str, str], least: int = BLOCK_LINES) -> list[Duplicate]:
    """Blocks of `least` or more lines of code that have one shape in two places, longest first.

    Each is as long as it can be. A block that stands in three places is two duplicates: of the first, and of the
    second.

    Args:
        files: The text of each file by its path.
        least: Lines of code in a block, at least.
    """
    code = {path: shapes(text) for path, text in files.items()}
    windows: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path, lines in code.items():
        for at in range(len(lines) - least + 1):
            window = tuple(shape for _, shape in lines[at : at + least])
            if len(set(window)) >= min(BLOCK_SHAPES, least):
                windows[window].append((path, at))
    follows = {second: first for places in windows.values() for first, second in pairwise(places)}
    found = []
    for second, first in follows.items():
        if follows.get(_moved(second, -1)) == _moved(first, -1):
            continue  # a part of the block that begins a line earlier
        length = least
        while follows.get(_moved(second, length - least + 1)) == _moved(first, length - least + 1):
            length += 1
        if first[0] == second[0] and second[1] - first[1] < length:
            continue  # a list whose lines all look alike overlaps itself
        names = [f"{path}:{code[path][at][0]}" for path, at in (first, second)]
        found.append(Duplicate(first=names[0], second=names[1], lines=length))
    return sorted(found, key=lambda each: (-each.lines, each.first, each.second))


def _moved(place: tuple[str, int], by: int) -> tuple[str, int]:
    return place[0], place[1] + by


# --- docstrings ------------------------------------------------------------------------------------------------------


def docstrings(module: Module) -> tuple[int, int]:
    """(with docstring, all) of what is public: the module, its classes and functions, their methods."""
    nodes: list[ast.AST] = [module.tree]
    for node in module.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
            nodes.append(node)
            nodes += public_methods(node) if isinstance(node, ast.ClassDef) else []
    told = sum(ast.get_docstring(node) is not None for node in nodes)  # type: ignore[arg-type]
    return told, len(nodes)


def public_methods(owner: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Methods and properties of a class whose names begin without "_"."""
    methods = [node for node in owner.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return list({node.name: node for node in methods if node.name[0] != "_"}.values())


# --- all together ----------------------------------------------------------------------------------------------------


def measures(checkout: Path) -> dict[str, Any]:
    """Every count of the package in a checkout, by name; lists of names stand beside their counts."""
    modules = read(checkout / PACKAGE)
    edges = imports(modules)
    rooms = rooms_of(edges)
    rule = next(iter(sorted((checkout / "tests").rglob("test_architecture.py"))), checkout / "none")
    may_import = layers(rule)
    lengths = {
        place: (node.end_lineno or node.lineno) - node.lineno + 1 for m in modules for place, node in functions(m)
    }
    methods = {f"{m.path}: {owner.name}": len(public_methods(owner)) for m in modules for owner in classes(m)}
    told = [docstrings(module) for module in modules]
    names = [(module.path.rpartition("/")[2], module.path) for module in modules]
    public = [(owner.name, module.path) for module in modules for owner in classes(module) if owner.name[0] != "_"]
    repeated = duplicates({module.path: module.text for module in modules})
    return {
        "files": len(modules),
        "lines": sum(module.lines for module in modules),
        "rooms": len({module.room for module in modules} - {""}),
        "file_lines": spread([module.lines for module in modules]),
        "longest_files": most({module.path: module.lines for module in modules}),
        "function_lines": spread(list(lengths.values())),
        "longest_functions": most(lengths),
        "public_methods": spread([count for count in methods.values() if count]),
        "most_methods": most(methods),
        "module_cycles": cycles(edges),
        "room_cycles": cycles(rooms),
        "room_edges": sum(len(targets) for targets in rooms.values()),
        "against_layers": None if may_import is None else against(edges, may_import),
        "file_names_twice": twice((name, path) for name, path in names if not name.startswith("__")),
        "class_names_twice": twice(public),
        "duplicates": [[each.first, each.second, each.lines] for each in repeated],
        "public_docstrings": round(sum(have for have, _ in told) / max(1, sum(all_ for _, all_ in told)), 3),
    }


def spread(counts: list[int]) -> list[float]:
    """Median, 90th percentile (nearest rank) and largest; nothing of nothing."""
    ranked = sorted(counts)
    return [statistics.median(ranked), ranked[(9 * len(ranked) + 9) // 10 - 1], ranked[-1]] if ranked else []


def most(counts: Mapping[str, int], how_many: int = 5) -> dict[str, int]:
    """The largest few."""
    return dict(Counter(counts).most_common(how_many))


def journeys(checkout: Path) -> dict[str, Any]:
    """What the journeys of house_journeys.py count in a checkout; {} where they cannot be gone."""
    with tempfile.TemporaryDirectory() as home:
        folders = {name: str(Path(home) / name.lower()) for name in ("ESEN_LAB_HOME", "ESEN_LAB_LOCKS", "IPYTHONDIR")}
        ran = subprocess.run(
            [sys.executable, str(JOURNEYS), str(checkout / PACKAGE)],
            cwd=home,
            env={**os.environ, **folders, "PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
            check=False,
            timeout=JOURNEYS_LIMIT_S,
        )
    print(ran.stderr[-2000:], end="", file=sys.stderr)
    if ran.returncode:
        return {}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Measures as a Markdown table: one column for each revision."""
    rows = {
        "files / lines": lambda m: f"{m['files']} / {m['lines']:,}",
        "rooms / edges between them": lambda m: f"{m['rooms']} / {m['room_edges']}",
        "file, lines: median / p90 / longest": lambda m: _slashes(m["file_lines"]),
        "function, lines: median / p90 / longest": lambda m: _slashes(m["function_lines"]),
        "public methods of a class: median / p90 / most": lambda m: _slashes(m["public_methods"]),
        "classes with most of them": lambda m: ", ".join(
            f"{k.split(': ')[1]} {n}" for k, n in m["most_methods"].items()
        ),
        "cycles of modules (modules in them)": lambda m: _groups(m["module_cycles"]),
        "cycles of rooms (rooms in them)": lambda m: _groups(m["room_cycles"]),
        "edges against the layers": lambda m: "-" if m["against_layers"] is None else str(len(m["against_layers"])),
        "file names that occur twice": lambda m: str(len(m["file_names_twice"])),
        "class names that mean two things": lambda m: str(len(m["class_names_twice"])),
        "duplicate blocks (lines in them)": lambda m: f"{len(m['duplicates'])} ({sum(d[2] for d in m['duplicates'])})",
        "public docstrings": lambda m: f"{100 * m['public_docstrings']:.0f} %",
    }
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(cell(found) for found in columns.values()) + " |" for name, cell in rows.items()
    ]
    for name in dict.fromkeys(name for found in columns.values() for name in found.get("journeys", ())):
        cells = [found.get("journeys", {}).get(name) for found in columns.values()]
        lines.append(
            f"| {name}: files / moves | " + " | ".join("-" if c is None else _slashes(c) for c in cells) + " |"
        )
    return "\n".join(lines)


def _slashes(figures: Iterable[float]) -> str:
    return " / ".join(f"{figure:g}" for figure in figures)


def _groups(groups: list[list[str]]) -> str:
    return f"{len(groups)} ({sum(map(len, groups))})" if groups else "0"


def checkout_of(revision: str, folder: Path) -> Path:
    """The files of a revision, in a folder of their own."""
    packed = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--at", action="append", metavar="REV", help="a revision; twice for two columns")
    words.add_argument("--json", type=Path, metavar="FILE", help="write every figure and the names behind it here")
    words.add_argument("--no-journeys", action="store_true", help="count source only")
    given = words.parse_args(arguments)
    columns: dict[str, dict[str, Any]] = {}
    for revision in given.at or [""]:
        with tempfile.TemporaryDirectory() as folder:
            checkout = checkout_of(revision, Path(folder)) if revision else ROOT
            columns[revision or "here"] = measures(checkout)
            columns[revision or "here"]["journeys"] = {} if given.no_journeys else journeys(checkout)
    print(table(columns))
    if given.json:
        given.json.write_text(json.dumps(columns, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
