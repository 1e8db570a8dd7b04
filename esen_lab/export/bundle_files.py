"""A plan and its ensemble as the files of a folder: see `bundle_layout.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.surroundings import model_cell
from esen_lab.common.trees import Tree, TreeSpec, flatten, select
from esen_lab.common.units import backend_parts
from esen_lab.ensemble import (
    Ensemble,
    FileRecipe,
    ImportRecipe,
    ProgramRecipe,
    Recipe,
    SkeletonRecipe,
    SourceRecipe,
)
from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.errors import UsageError
from esen_lab.export.arrays import npy_bytes, npz_bytes
from esen_lab.export.bundle_layout import (
    BUNDLE_VERSION,
    MANIFEST,
    PLAN,
    check_same,
    digests_of_tensors,
    to_json,
)
from esen_lab.export.forms import answer_of, answer_of_rule, saved_form
from esen_lab.planner.plan import Plan, backends_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What an engine has made of a sub-model.

    Attributes:
        member: The sub-model.
        backend: Whose graph it is.
        name: Its own, by which the engine asks for it.
        content: The graph.
    """

    member: str
    backend: str
    name: str
    content: bytes


def graph_files(graphs: Sequence[Graph]) -> dict[str, bytes]:
    """The content of the files of graphs, by name."""
    return {f"graph_{index:02}.bin": graph.content for index, graph in enumerate(graphs)}


def bundle_files(
    plan: Plan,
    ensemble: Ensemble,
    graphs: Sequence[Graph] = (),
    switches: Mapping[str, Any] | None = None,
    *,
    answers: bool = False,
) -> dict[str, bytes]:
    """The content of every file of the bundle but those of graphs, by name.

    Args:
        plan: What to run.
        ensemble: Its sub-models and combine rule.
        graphs: What engines have made of sub-models.
        switches: Switches of torch that it runs under, by name, where they are not as a new process has them.
        answers: Whether what the sub-models answer here goes along, for whoever runs them elsewhere to compare with.

    Raises:
        UsageError: The plan is not one of this very ensemble, or a sub-model or the combine rule cannot be saved.
    """
    check_same(plan, ensemble)
    files: dict[str, bytes] = {PLAN: _json(plan.to_dict())}
    trees: dict[str, str] = {}
    known: dict[str, Tree] = {}
    records = []
    quantised = {name for name, how in backends_of(plan).items() if backend_parts(how)[1] == "int8"}
    for index, submodel in enumerate(ensemble.submodels):
        form = saved_form(submodel)
        record = _write_recipe(form, f"submodel_{index:02}", files)
        data = submodel.calibration if submodel.name in quantised else None
        answer = answer_of(submodel, select(ensemble.example, submodel.input_keys)) if answers else None
        known |= {} if answer is None else {submodel.name: answer}
        records.append(
            {
                "name": submodel.name,
                "kind": submodel.kind,
                "recipe": record,
                "example": _write_tree(submodel.example, "example", trees, files),
                **({} if data is None else {"calibration": _write_tree(data, "calibration", trees, files)}),
                **({} if answer is None else {"answer": _write_tree(answer, "answer", trees, files)}),
                "output": _spec_to_json(submodel.output_spec),
                "parameters": submodel.parameters,
                "memory_bytes": submodel.memory_bytes,
                "class_name": submodel.class_name,
                "fingerprint": submodel.fingerprint,
                "notes": list(submodel.notes),
                "protect_input": submodel.protect_input,
                "called": {
                    "grad": submodel.traits.grad,
                    "state": list(submodel.traits.state),
                    "random": submodel.traits.random,
                    "steady": submodel.traits.steady,
                },
            }
        )
    alone = npy_bytes(ensemble.example)
    if alone is None:
        files["example.npz"] = npz_bytes(ensemble.example)
    else:
        files["example.npy"] = alone
    combine = ensemble.combine.to_dict()
    if combine["rule"] == "source":
        files["combine.py"] = combine["closure"].pop("text").encode()
    combined = answer_of_rule(ensemble, known) if answers else None
    if combined is not None:
        combine["answer"] = _write_tree(combined, "answer", trees, files)
    manifest = {
        "bundle_version": BUNDLE_VERSION,
        "submodels": records,
        "combine": combine,
        "switches": dict(switches or {}),
        "tensors": {name: digests_of_tensors(data) for name, data in files.items() if name.endswith(".safetensors")},
        "files": {name: bytes_digest(data) for name, data in sorted(files.items())},
        "graphs": [
            {
                "member": graph.member,
                "backend": graph.backend,
                "file": name,
                "name": graph.name,
                "digest": hashlib.sha256(graph.content).hexdigest(),
            }
            for name, graph in zip(graph_files(graphs), graphs, strict=True)
        ],
    }
    files[MANIFEST] = _json(manifest)
    return files


def _write_recipe(recipe: Recipe, stem: str, files: dict[str, bytes]) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": recipe.kind}
    match recipe:
        case ImportRecipe():
            record |= {"path": recipe.path, "args": list(recipe.args), "kwargs": dict(recipe.kwargs)}
        case SourceRecipe():
            files[f"{stem}.py"] = recipe.text.encode()
            record |= {"name": recipe.name, "text": f"{stem}.py", "modules": list(recipe.context.modules)}
            if recipe.context.text:
                files[f"{stem}_uses.py"] = recipe.context.text.encode()
                record["uses"] = f"{stem}_uses.py"
        case SkeletonRecipe():
            source = dict(recipe.skeleton["source"])
            text = source.pop("text")
            files[f"{stem}.json"] = _json({**recipe.skeleton, "source": source})
            record["tree"] = f"{stem}.json"
            if text:
                files[f"{stem}.py"] = text.encode()
                record["text"] = f"{stem}.py"
        case ProgramRecipe():
            files[f"{stem}.pt2"] = recipe.program
            record["program"] = f"{stem}.pt2"
        case FileRecipe():
            names = {suffix: f"{stem}.{suffix}" for suffix in recipe.files}
            files.update((names[suffix], data) for suffix, data in recipe.files.items())
            record |= {"form": recipe.form, "content": names, "options": dict(recipe.options)}
        case _:
            raise UsageError("A sub-model is saved as text and weights", given=recipe.describe())
    if not isinstance(recipe, (ProgramRecipe, FileRecipe)):
        files[f"{stem}.safetensors"] = recipe.weights
        record["weights"] = f"{stem}.safetensors"
    return record


def _write_tree(tree: Tree, stem: str, known: dict[str, str], files: dict[str, bytes]) -> dict[str, Any]:
    """A tree of tensors as a file, which another one with the same content shares; and what the manifest says of it."""
    from esen_lab.ensemble.weights import to_bytes

    leaves, structure = flatten(tree, f"the {stem}")
    content = to_bytes({str(i): leaf for i, leaf in enumerate(leaves)})
    number = sum(name.startswith(stem) for name in known.values())
    file = known.setdefault(bytes_digest(content), f"{stem}_{number:02}.safetensors")
    files[file] = content
    return {"file": file, "structure": to_json(structure)}


def _spec_to_json(spec: TreeSpec) -> dict[str, Any]:
    tensors = [[t.dtype, list(t.shape), t.channels_last] for t in spec.tensors]
    return {"structure": to_json(spec.structure), "tensors": tensors}


def _json(data: Any) -> bytes:
    try:
        return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError, RecursionError) as problem:
        raise UsageError(
            "An export holds plain data and finite numbers: as arguments of a factory, and in the plan",
            given=str(problem),
            hint=f"Build the sub-model {model_cell()} instead, or search for a plan again.",
        ) from problem
