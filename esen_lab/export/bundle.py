"""A folder that an export wrote, read back: see `bundle_layout.py` for what is in it.

Such a folder is code, as a script is: import paths are called with its arguments, source is run, saved modules and
programs name what to make. So it is loaded only when it is trusted, and until then it is read as text and JSON only.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from esen_lab.common.answers import difference_of_tensors
from esen_lab.common.surroundings import model_cell
from esen_lab.common.trees import TensorSpec, Tree, TreeSpec, unflatten
from esen_lab.common.words import some_of
from esen_lab.ensemble import (
    Combine,
    Ensemble,
    FileRecipe,
    ImportRecipe,
    ProgramRecipe,
    Recipe,
    SkeletonRecipe,
    SourceRecipe,
    SubModel,
)
from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.ensemble.source.closure import Closure
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import EsenError, NotTrusted, StoreError, UsageError
from esen_lab.export.bundle_layout import (
    BUNDLE_VERSION,
    MANIFEST,
    PLAN,
    check_same,
    digests_of_tensors,
    from_json,
)
from esen_lab.export.forms import combined_as_proof
from esen_lab.export.inside import what_runs
from esen_lab.export.manifest import MANIFEST_DEPTH, MOST_JSON_BYTES, TREE_DEPTH, check_manifest, count_tensors
from esen_lab.export.trust import content_digest, is_remembered
from esen_lab.files import decode_json, read_bytes
from esen_lab.planner.plan import Plan
from esen_lab.terminal import visible

_TRIES = 3


class OtherRule(UserWarning):
    """A combine rule answers otherwise than where it was exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What an exported folder holds.

    Attributes:
        plan: The plan.
        ensemble: Its sub-models and combine rule.
        graphs: For each sub-model what engines have made of it, by name.
        switches: Switches of torch that the session had set when it was exported, by name, as plain data.
    """

    plan: Plan
    ensemble: Ensemble
    graphs: Mapping[str, Mapping[str, bytes]]
    switches: Mapping[str, Any] = field(default_factory=dict)


def load_bundle(folder: str | Path, *, trust: bool = False, digest: str = "") -> tuple[Plan, Ensemble]:
    """The plan and the ensemble of a folder that was exported: see `open_bundle`."""
    bundle = open_bundle(folder, trust=trust, digest=digest)
    return bundle.plan, bundle.ensemble


def open_bundle(folder: str | Path, *, trust: bool = False, digest: str = "") -> Bundle:
    """What is in a folder that was exported.

    Trusted means: this user exported these very files on this machine, or the caller says so. The source of a combine
    rule is run here, everything else when a sub-model is built.

    Args:
        folder: The folder.
        trust: Whether whatever is in it may run.
        digest: What `content_digest` gives for the files that the caller vouches for: an exported script has that of
            its own folder.

    Raises:
        NotTrusted: It is not trusted; the error says what it would run. Nothing of it has been run.
        StoreError: A file is missing or is not the one that was exported; the message names each, and the tensors that
            differ in a file of weights.
    """
    reader = _looked_into(Path(folder))
    if not trust:
        _check_trusted(reader, digest)
    return _read(reader)


def bundle_of(files: Mapping[str, bytes]) -> Bundle:
    """The same of the content of its files, by name, that this process has made: trusted, and without graphs.

    Raises:
        StoreError: As for `open_bundle`.
    """
    reader = _Reader(Path("files of this process"), content=files)
    reader.check()
    return _read(reader)


def _read(reader: _Reader) -> Bundle:
    folder = reader.folder
    plan = Plan.from_dict(_from_json(reader.of(PLAN), PLAN))
    manifest = reader.manifest
    try:
        ensemble = Ensemble(
            submodels=tuple(_read_submodel(record, reader) for record in manifest["submodels"]),
            combine=_read_combine(manifest["combine"], reader),
        )
    except EsenError as problem:
        raise StoreError("An exported folder is whole", given=f"{str(folder)!r}: {problem}") from problem
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as problem:
        raise StoreError(
            "An exported folder is whole",
            given=f"{str(folder)!r} with a damaged {MANIFEST} ({type(problem).__name__}: {problem})",
        ) from problem
    try:
        check_same(plan, ensemble)
    except UsageError as problem:
        raise StoreError(problem.rule, given=problem.given, hint="Export it again.") from problem
    other = _other_rule(ensemble, manifest["combine"], reader)
    if other:
        warnings.warn(visible(other), OtherRule, stacklevel=3)
        plan = replace(plan, notes=(*plan.notes, other))
    return Bundle(plan=plan, ensemble=ensemble, graphs=reader.graphs(), switches=manifest.get("switches", {}))


def _other_rule(ensemble: Ensemble, record: Mapping[str, Any], reader: _Reader) -> str:
    """That the combine rule answers otherwise than where it was exported; "" where it does not, or nobody can tell."""
    answers = {submodel.name: submodel.answer for submodel in ensemble.submodels}
    if "answer" not in record or any(answer is None for answer in answers.values()):
        return ""
    try:
        with ensemble.combine.kept():  # the first call is the first that it hears of
            combined = combined_as_proof(ensemble, answers)
        found = difference_of_tensors(combined, _read_tree(record["answer"], reader))
        if found.agrees:
            return ""
        told = str(found)
    except UsageError as problem:
        told = problem.given or problem.rule
    return (
        f"OTHER THAN WHERE IT WAS EXPORTED: the combine rule {ensemble.combine.describe()} answers otherwise here "
        f"({told}). Likely: a module that it imports is another one here, or was changed in the session that exported "
        "it."
    )


def describe_bundle(folder: str | Path) -> tuple[str, ...]:
    """What loading and running an exported folder would execute, line by line. Runs nothing.

    Raises:
        StoreError: As for `load_bundle`.
    """
    reader = _looked_into(Path(folder))
    return what_runs(reader.manifest, reader.files)


def _looked_into(folder: Path) -> _Reader:
    """Its files, all of one export: another one may take its place while it is read."""
    for left in reversed(range(_TRIES)):
        reader = _Reader(folder)
        try:
            reader.check()
            break
        except StoreError:
            if not left or not reader.is_another_by_now():
                raise
    return reader


def _check_trusted(reader: _Reader, digest: str) -> None:
    found = content_digest(reader.everything())
    if found == digest or is_remembered(found):
        return
    runs = what_runs(reader.manifest, reader.files)
    raise NotTrusted(
        "An exported folder is code, and is run only when it is trusted: you did not export these very files here",
        given=f"{str(reader.folder)!r}, which would run: {'; '.join(runs) or 'nothing that this version knows'}",
        hint="Look at these files; if you trust whoever made them, say so: --trust, or trust=True from Python.",
        runs=runs,
    )


@dataclass(slots=True)
class _Reader:
    """The files of one folder, read once and checked against the manifest."""

    folder: Path
    content: Mapping[str, bytes] | None = None  # of files that are on no disk
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    manifest_bytes: bytes = b""

    def check(self) -> None:
        """Read every file and compare it with what was exported."""
        self.manifest_bytes = self._read(MANIFEST)
        data = _from_json(self.manifest_bytes, MANIFEST)
        version = data.get("bundle_version") if isinstance(data, Mapping) else None
        if version != BUNDLE_VERSION or not isinstance(data.get("files"), Mapping):
            raise StoreError(
                f"This version reads bundles of version {BUNDLE_VERSION}",
                given=f"bundle_version {version!r} in {str(self.folder / MANIFEST)!r}",
                hint="Export again, or install the version that wrote it.",
            )
        check_manifest(data, MANIFEST)
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
            if bytes_digest(self.files[name]) != expected:
                differ.append(self._what_differs(name))
        if differ:
            raise StoreError(
                f"The files in {str(self.folder)!r} are those that were exported",
                given="; ".join(differ),
                hint="Copy the whole folder again, or export again.",
            )

    def is_another_by_now(self) -> bool:
        """Whether another export has taken the folder's place since this was made."""
        try:
            return bool(self.manifest_bytes) and self._read(MANIFEST) != self.manifest_bytes
        except StoreError:
            return False

    def everything(self) -> dict[str, bytes]:
        """Every file that is loaded, as it was read: what is trusted is what is used."""
        return {**self.files, MANIFEST: self.manifest_bytes}

    def graphs(self) -> dict[str, dict[str, bytes]]:
        """The graphs that are those that were exported, by sub-model and name."""
        found: dict[str, dict[str, bytes]] = {}
        for record in self.manifest.get("graphs", ()):
            if Path(record["file"]).name == record["file"]:
                with contextlib.suppress(StoreError):
                    content = self._read(record["file"])
                    if hashlib.sha256(content).hexdigest() == record["digest"]:
                        found.setdefault(record["member"], {})[record["name"]] = content
        return found

    def of(self, name: Any) -> bytes:
        """The content of a file that the manifest lists."""
        if name not in self.files:
            raise StoreError(f"A bundle's {MANIFEST} lists all of its files", given=f"no {name!r}")
        return self.files[name]

    def text(self, name: Any) -> str:
        """The same as text."""
        try:
            return self.of(name).decode()
        except UnicodeDecodeError as problem:
            raise StoreError(f"{name} is text", given=str(problem)) from problem

    def _read(self, name: str) -> bytes:
        if self.content is not None:
            if name not in self.content:
                raise StoreError("A bundle has its files", given=f"no {name}")
            return self.content[name]
        path = self.folder / name
        try:
            return read_bytes(path)
        except EsenError as problem:
            raise StoreError(problem.rule, given=problem.given, hint="Keep the script beside its folder.") from problem

    def _what_differs(self, name: str) -> str:
        known = self.manifest.get("tensors", {}).get(name)
        if known is None:
            return f"{name} has changed"
        try:
            found = digests_of_tensors(self.files[name])
        except StoreError as problem:
            return f"{name} is damaged ({problem.given})"
        tensors = sorted(key for key in {*known, *found} if known.get(key) != found.get(key))
        return f"{name} has other values in {some_of(tensors, 4)}" if tensors else f"{name} has changed"


def _from_json(data: bytes, name: str, *, deepest: int = MANIFEST_DEPTH) -> Any:
    if len(data) > MOST_JSON_BYTES:
        raise StoreError(f"A bundle's {name} has at most {MOST_JSON_BYTES:,} bytes", given=f"{len(data):,}")
    try:
        return decode_json(data, deepest=deepest)
    except StoreError as problem:
        raise StoreError(f"{name} is JSON", given=problem.given, hint="Export again.") from problem


def _read_tree(record: Mapping[str, Any], reader: _Reader) -> Tree:
    from esen_lab.ensemble.weights import from_bytes

    leaves = from_bytes(reader.of(record["file"]))
    if set(leaves) != {str(i) for i in range(count_tensors(record["structure"]))}:
        raise StoreError("An example has the tensors that its structure has", given=f"{len(leaves)} tensors")
    return unflatten(from_json(record["structure"]), [leaves[str(i)] for i in range(len(leaves))])


def _read_submodel(record: Mapping[str, Any], reader: _Reader) -> SubModel:
    calibration, answer = record.get("calibration"), record.get("answer")
    return SubModel(
        name=record["name"],
        recipe=_read_recipe(record["recipe"], reader),
        example=_read_tree(record["example"], reader),
        calibration=None if calibration is None else _read_tree(calibration, reader),
        answer=None if answer is None else _read_tree(answer, reader),
        output_spec=TreeSpec(
            structure=from_json(record["output"]["structure"]),
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
        traits=_read_traits(record.get("called", {})),
        kind=record.get("kind", "network"),
    )


def _read_traits(record: Mapping[str, Any]) -> Traits:
    """How a sub-model is called; folders of earlier versions do not say."""
    return Traits(
        grad=record.get("grad", "inference"),
        state=tuple(record.get("state", ())),
        random=record.get("random", False),
        steady=record.get("steady", True),
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
            skeleton = _from_json(reader.of(record["tree"]), record["tree"], deepest=TREE_DEPTH)
            skeleton["source"]["text"] = reader.text(record["text"]) if "text" in record else ""
            return SkeletonRecipe(skeleton=skeleton, weights=reader.of(record["weights"]))
        case "program":
            return ProgramRecipe(program=reader.of(record["program"]))
        case "file":
            files = {suffix: reader.of(name) for suffix, name in record["content"].items()}
            return FileRecipe(form=record["form"], files=files, options=record["options"])
    raise StoreError("A bundle holds recipes of known kinds", given=record["kind"])


def _read_combine(record: Mapping[str, Any], reader: _Reader) -> Combine:
    if record["rule"] == "source":
        record = {**record, "closure": {**record["closure"], "text": reader.text("combine.py")}}
    return Combine.from_dict(record)


def check_readable(files: Mapping[str, bytes]) -> None:
    """Refuse files of an export that cannot be read again, or whose combine rule is another one then.

    Args:
        files: What `bundle_files` gave, with answers.

    Raises:
        UsageError: They are not the same; the message says what.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OtherRule)
            bundle_of(files)
    except OtherRule as problem:
        raise UsageError(
            "What is saved of a combine rule answers as the rule does",
            given=str(problem),
            hint="Define it with def in one cell, with plain values or in a module, and set it again.",
        ) from problem
    except EsenError as problem:
        raise UsageError(
            "What is exported can be read again",
            given=": ".join(filter(None, (problem.rule, problem.given))),
            hint=f"Build the sub-model {model_cell()} instead; a combine rule goes into a module.",
        ) from problem
