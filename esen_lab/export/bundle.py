"""A plan and its ensemble as a folder of plain files, and back.

    plan.json                     the plan
    bundle.json                   the sub-models, the combine rule, and the digest of every other file
    submodel_00.safetensors       weights            submodel_00.json     a saved module tree
    submodel_00.py                the cell, or the source of the module's classes
    submodel_00_uses.py           what the cell uses of the notebook
    submodel_00.pt2               a torch.export program
    combine.py                    the source of a combine rule
    example.npy, example.npz      an example input of the whole ensemble, in the form that the script reads
    example_00.safetensors        an example input; sub-models with the same one share it

Files are called by number: no name that a user chose becomes a file name. Loading runs the source files, as any script
would, and nothing else; no pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esen_lab.ensemble import (
    Combine,
    Ensemble,
    ImportRecipe,
    ProgramRecipe,
    Recipe,
    SkeletonRecipe,
    SourceRecipe,
    SubModel,
)
from esen_lab.ensemble.closure import Closure
from esen_lab.errors import EsenError, StoreError, UsageError
from esen_lab.export.arrays import npy_bytes, npz_bytes
from esen_lab.export.forms import saved_form
from esen_lab.planning import Plan
from esen_lab.trees import TensorSpec, Tree, TreeSpec, flatten, unflatten

BUNDLE_VERSION = 1
MANIFEST = "bundle.json"
PLAN = "plan.json"


def bundle_files(plan: Plan, ensemble: Ensemble) -> dict[str, bytes]:
    """The content of every file of the bundle, by name.

    Raises:
        UsageError: The plan is not one of this very ensemble, or a sub-model or the combine rule cannot be saved.
    """
    _check_same(plan, ensemble)
    files: dict[str, bytes] = {PLAN: _json(plan.to_dict())}
    examples: dict[str, str] = {}
    records = []
    for index, submodel in enumerate(ensemble.submodels):
        form = saved_form(submodel)
        record = _write_recipe(form, f"submodel_{index:02}", files)
        content, structure = _example_bytes(submodel.example)
        known = examples.setdefault(_digest(content), f"example_{len(examples):02}.safetensors")
        files[known] = content
        records.append(
            {
                "name": submodel.name,
                "recipe": record,
                "example": {"file": known, "structure": structure},
                "output": _spec_to_json(submodel.output_spec),
                "parameters": submodel.parameters,
                "memory_bytes": submodel.memory_bytes,
                "class_name": submodel.class_name,
                "fingerprint": submodel.fingerprint,
                "notes": list(submodel.notes),
                "protect_input": submodel.protect_input,
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
    manifest = {
        "bundle_version": BUNDLE_VERSION,
        "submodels": records,
        "combine": combine,
        "tensors": {name: _tensor_digests(data) for name, data in files.items() if name.endswith(".safetensors")},
        "files": {name: _digest(data) for name, data in sorted(files.items())},
    }
    files[MANIFEST] = _json(manifest)
    return files


def load_bundle(folder: str | Path) -> tuple[Plan, Ensemble]:
    """The plan and the ensemble of a folder that `bundle_files` filled.

    Source files are checked here and run when a sub-model is built.

    Raises:
        StoreError: A file is missing or is not the one that was exported; the message names each, and the tensors that
            differ in a file of weights.
    """
    reader = _Reader(Path(folder))
    reader.check()
    plan = Plan.from_dict(_from_json(reader.files[PLAN], PLAN))
    manifest = reader.manifest
    try:
        ensemble = Ensemble(
            submodels=tuple(_read_submodel(record, reader) for record in manifest["submodels"]),
            combine=_read_combine(manifest["combine"], reader),
        )
    except EsenError as problem:
        raise StoreError(f"The bundle {str(folder)!r} is whole", given=str(problem)) from problem
    except (KeyError, IndexError, TypeError, ValueError) as problem:
        raise StoreError(
            f"The bundle {str(folder)!r} is whole", given=f"a damaged {MANIFEST} ({type(problem).__name__}: {problem})"
        ) from problem
    try:
        _check_same(plan, ensemble)
    except UsageError as problem:
        raise StoreError(problem.rule, given=problem.given, hint="Export it again.") from problem
    return plan, ensemble


def _check_same(plan: Plan, ensemble: Ensemble) -> None:
    missing = [name for name in plan.names if name not in ensemble.names]
    extra = [name for name in ensemble.names if name not in plan.names]
    changed = [name for name, known in ensemble.fingerprints.items() if plan.fingerprints.get(name, known) != known]
    differ = [
        *(f"{name!r} is in the plan only" for name in missing),
        *(f"{name!r} is in the ensemble only" for name in extra),
        *(f"{name!r} has changed since the plan was made" for name in changed),
    ]
    if differ:
        raise UsageError(
            "A plan and its ensemble hold the same sub-models", given="; ".join(differ), hint="Search for a plan again."
        )


# --- writing --------------------------------------------------------------------------------------------------------


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
        case _:
            raise UsageError("A sub-model is saved as text and weights", given=recipe.describe())
    if not isinstance(recipe, ProgramRecipe):
        files[f"{stem}.safetensors"] = recipe.weights
        record["weights"] = f"{stem}.safetensors"
    return record


def _example_bytes(example: Tree) -> tuple[bytes, Any]:
    from esen_lab.ensemble.weights import to_bytes

    leaves, structure = flatten(example, "the example")
    return to_bytes({str(i): leaf for i, leaf in enumerate(leaves)}), structure


def _spec_to_json(spec: TreeSpec) -> dict[str, Any]:
    tensors = [[t.dtype, list(t.shape), t.channels_last] for t in spec.tensors]
    return {"structure": spec.structure, "tensors": tensors}


def _tensor_digests(data: bytes) -> dict[str, str]:
    from esen_lab.ensemble.fingerprint import tensor_digests
    from esen_lab.ensemble.weights import from_bytes

    return tensor_digests(from_bytes(data)) if data else {}


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """The files of one folder, read once and checked against the manifest."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Read every file and compare it with what was exported."""
        data = _from_json(self._read(MANIFEST), MANIFEST)
        version = data.get("bundle_version") if isinstance(data, Mapping) else None
        if version != BUNDLE_VERSION or not isinstance(data.get("files"), Mapping):
            raise StoreError(
                f"This version reads bundles of version {BUNDLE_VERSION}",
                given=f"bundle_version {version!r} in {str(self.folder / MANIFEST)!r}",
                hint="Export again, or install the version that wrote it.",
            )
        self.manifest = data
        differ = []
        for name, expected in data["files"].items():
            if Path(name).name != name:
                raise StoreError("A bundle names files of its own folder", given=repr(name))
            try:
                self.files[name] = self._read(name)
            except StoreError:
                differ.append(f"{name} is missing")
                continue
            if _digest(self.files[name]) != expected:
                differ.append(self._what_differs(name))
        if differ:
            raise StoreError(
                f"The files in {str(self.folder)!r} are those that were exported",
                given="; ".join(differ),
                hint="Copy the whole folder again, or export again.",
            )

    def of(self, name: Any) -> bytes:
        """The content of a file that the manifest lists."""
        return self.files[name]

    def text(self, name: Any) -> str:
        """The same as text."""
        return self.files[name].decode()

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            return path.read_bytes()
        except OSError as problem:
            raise StoreError(
                f"{str(path)!r} can be read", given=problem.strerror, hint="Keep the script beside its folder."
            ) from problem

    def _what_differs(self, name: str) -> str:
        known = self.manifest.get("tensors", {}).get(name)
        if known is None:
            return f"{name} has changed"
        try:
            found = _tensor_digests(self.files[name])
        except StoreError as problem:
            return f"{name} is damaged ({problem.given})"
        tensors = sorted(key for key in {*known, *found} if known.get(key) != found.get(key))
        shown = ", ".join(tensors[:4]) + (f" and {len(tensors) - 4} more" if len(tensors) > 4 else "")
        return f"{name} has other values in {shown}" if tensors else f"{name} has changed"


def _from_json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise StoreError(f"{name} is JSON", given=str(problem), hint="Export again.") from problem


def _read_submodel(record: Mapping[str, Any], reader: _Reader) -> SubModel:
    from esen_lab.ensemble.weights import from_bytes

    example = record["example"]
    leaves = from_bytes(reader.of(example["file"]))
    return SubModel(
        name=record["name"],
        recipe=_read_recipe(record["recipe"], reader),
        example=unflatten(_tuples(example["structure"]), [leaves[str(i)] for i in range(len(leaves))]),
        output_spec=TreeSpec(
            structure=_tuples(record["output"]["structure"]),
            tensors=tuple(
                TensorSpec(dtype=dtype, shape=tuple(shape), channels_last=channels_last)
                for dtype, shape, channels_last in record["output"]["tensors"]
            ),
        ),
        parameters=record["parameters"],
        memory_bytes=record["memory_bytes"],
        class_name=record["class_name"],
        fingerprint=record["fingerprint"],
        notes=tuple(record["notes"]),
        protect_input=record["protect_input"],
    )


def _read_recipe(record: Mapping[str, Any], reader: _Reader) -> Recipe:
    match record["kind"]:
        case "import":
            return ImportRecipe(
                path=record["path"],
                args=tuple(record["args"]),
                kwargs=record["kwargs"],
                weights=reader.of(record["weights"]),
            )
        case "source":
            uses = reader.text(record["uses"]) if "uses" in record else ""
            return SourceRecipe(
                name=record["name"],
                context=Closure(text=uses, modules=tuple(record["modules"])),
                text=reader.text(record["text"]),
                filename=str(reader.folder / record["text"]),
                weights=reader.of(record["weights"]),
            )
        case "skeleton":
            skeleton = _from_json(reader.of(record["tree"]), record["tree"])
            skeleton["source"]["text"] = reader.text(record["text"]) if "text" in record else ""
            return SkeletonRecipe(skeleton=skeleton, weights=reader.of(record["weights"]))
        case "program":
            return ProgramRecipe(program=reader.of(record["program"]))
    raise StoreError("A bundle holds recipes of known kinds", given=record["kind"])


def _read_combine(record: Mapping[str, Any], reader: _Reader) -> Combine:
    if record["rule"] == "source":
        record = {**record, "closure": {**record["closure"], "text": reader.text("combine.py")}}
    return Combine.from_dict(record)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a structure is made of."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
