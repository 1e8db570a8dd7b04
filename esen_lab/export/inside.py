"""What an exported folder would run, as lines to read before it is trusted. Reads text and JSON; runs nothing.

Everything in these lines is the file's own word, so it is shown as Python writes it in a string, and cut where it is
long. The lines say what is there; they do not judge whether it is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 300  # characters of one value
_MOST_NAMES = 40  # imports of one saved module


def what_runs(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[str, ...]:
    """One line for each thing that loading or running the folder would execute.

    Args:
        manifest: What its bundle.json holds; anything may be missing or of another kind.
        files: The content of its other files.
    """
    records = manifest.get("submodels")
    lines: list[str] = []
    for record in records if isinstance(records, list) else []:
        found = record if isinstance(record, Mapping) else {}
        recipe = found.get("recipe")
        name = _shown(found.get("name"))
        lines += [f"sub-model {name}: {line}" for line in _recipe(recipe if isinstance(recipe, Mapping) else {}, files)]
    graphs = manifest.get("graphs")
    for graph in graphs if isinstance(graphs, list) else []:
        found = graph if isinstance(graph, Mapping) else {}
        whose = f"sub-model {_shown(found.get('member'))}"
        lines.append(f"{whose}: has {_shown(found.get('backend'))} execute the graph {_shown(found.get('file'))}")
    combine = manifest.get("combine")
    lines += [f"combine rule: {line}" for line in _combine(combine if isinstance(combine, Mapping) else {}, files)]
    return tuple(lines)


def _recipe(recipe: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[str]:
    match recipe.get("kind"):
        case "import":
            args, kwargs = recipe.get("args"), recipe.get("kwargs")
            given = [_shown(arg) for arg in args] if isinstance(args, list) else [f"*{_shown(args)}"]
            if isinstance(kwargs, Mapping):
                given += [f"{key if str(key).isidentifier() else _shown(key)}={_shown(kwargs[key])}" for key in kwargs]
            yield f"imports and calls {_shown(recipe.get('path'))} with ({', '.join(given)})"
        case "source":
            if "uses" in recipe:
                yield f"runs {_source(recipe['uses'], files)}, what its cell uses"
            yield f"runs {_source(recipe.get('text'), files)}, its cell"
        case "skeleton":
            if "text" in recipe:
                yield f"runs {_source(recipe['text'], files)}, the source of its classes"
            tree = recipe.get("tree")
            yield f"makes what {_shown(tree)} names: {_listed(_imports(files.get(str(tree))))}"
        case "program":
            yield f"loads the torch.export program {_shown(recipe.get('program'))}, which may run anything"
        case "file" if recipe.get("form") == "pickle":
            yield f"unpickles {_content(recipe)}, which may run anything"
        case "file":
            yield f"loads {_content(recipe)}, a model of the form {_shown(recipe.get('form'))}, with its library"
        case other:
            yield f"a recipe of unknown kind, {_shown(other)}"


def _content(recipe: Mapping[str, Any]) -> str:
    content = recipe.get("content")
    return " and ".join(_shown(content[suffix]) for suffix in content) if isinstance(content, Mapping) else "nothing"


def _combine(combine: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[str]:
    match combine.get("rule"):
        case "source":
            yield f"runs {_source('combine.py', files)}, and calls {_shown(combine.get('name'))} in this very process"
        case "import":
            yield f"imports and calls {_shown(combine.get('path'))} in this very process"
        case str() as rule if ":" in rule:
            yield f"imports and calls {_shown(rule)} in this very process"
        case _:
            return


def _source(name: Any, files: Mapping[str, bytes]) -> str:
    data = files.get(name) if _is(name) else None
    if data is None:
        return f"{_shown(name)} (missing)"
    lines = len(data.splitlines())
    return f"{_shown(name)} ({lines} line{'' if lines == 1 else 's'} of Python)"


def _imports(data: bytes | None) -> list[str]:
    """The import paths in a saved module tree, in order; without recursion, since the tree may be of any depth."""
    import json

    try:
        todo = [json.loads(data or b"null")]
    except (ValueError, RecursionError):
        return ["(cannot be read)"]
    found: dict[str, None] = {}
    while todo:
        here = todo.pop()
        if isinstance(here, Mapping):
            todo += reversed(list(here.values()))
        elif isinstance(here, list):
            if len(here) == 2 and here[0] == "import" and isinstance(here[1], str):
                found[here[1]] = None
            todo += reversed(here)
    return list(found)


def _listed(names: Any) -> str:
    if not isinstance(names, list) or not names:
        return "nothing"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(_shown(name) for name in names[:_MOST_NAMES]) + more


def _shown(value: Any) -> str:
    try:
        written = ascii(value)
    except RecursionError:
        return "(too deep to be shown)"
    return written if len(written) <= _MOST else f"{written[:_MOST]}... ({len(written) - _MOST} more characters)"


def _is(name: Any) -> bool:
    return isinstance(name, str)
