"""A plan as a script, with everything it needs in a folder beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.ensemble import Ensemble
from esen_lab.errors import StoreError, UsageError
from esen_lab.export.bundle import check_readable
from esen_lab.export.bundle_files import Graph, bundle_files, graph_files
from esen_lab.export.bundle_layout import MANIFEST, OUR_FILES
from esen_lab.export.elsewhere import notes_on_own_modules, notes_on_switches
from esen_lab.export.script import MARK, check_name, script_text
from esen_lab.export.server_folders import looked_at
from esen_lab.export.trust import content_digest, remember
from esen_lab.files import Kind, as_path, check_free, read_head, write_file, write_folder
from esen_lab.planner.plan import Plan

SCRIPT_FILE = Kind(
    what="an exported script",
    is_one=lambda head: MARK.encode() in head[:4000],
    example="plan.py",
    never=frozenset(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Shown):
    """What an export wrote.

    Attributes:
        script: The script.
        folder: The folder beside it.
        files: Every file, the script first.
        notes: What it needs elsewhere, and what it sets as the session had it.
    """

    script: Path
    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for people, and one for each note."""
        return "\n".join([f"{self.script} and {len(self.files) - 1} files in {self.folder}", *self.notes])


def export_plan(
    plan: Plan,
    ensemble: Ensemble,
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    graphs: Sequence[Graph] = (),
    switches: Mapping[str, Any] | None = None,
) -> Exported:
    """Write `plan` as a script that runs without a notebook.

    The folder is called like the script ("plan.py": "plan_files"). An export that is there already is replaced, first
    the folder, then the script; each is complete before it appears. The script holds the digest of its folder, and
    runs these very files unasked, anywhere; on this machine they are remembered as this user's. Other files are never
    replaced.

    Args:
        plan: What to run; its sub-models are those of `ensemble`, unchanged.
        ensemble: The sub-models and the combine rule.
        path: The script, ending with ".py"; of a link what it points to is written, and the folder beside that.
        device: The name of the device that the script opens; None takes the plan's where it has a known one ("cpu"),
            else the best one there.
        graphs: What engines have made of sub-models; where they are put beside the script, it begins sooner.
        switches: Switches of torch that the session has set, as `Settings.named` has them: the script sets them, too.

    Raises:
        UsageError: The path does not end with .py or is taken by something else, the folder holds files that no export
            wrote, the plan is not one of this ensemble, or a sub-model or the combine rule cannot be saved.
        StoreError: It cannot be written; an older export is as it was.
    """
    script = Path(os.path.realpath(as_path(path))) if os.path.islink(as_path(path)) else as_path(path)
    if script.suffix != ".py" or not script.stem:
        raise UsageError("A script's name ends with .py", given=repr(str(script)))
    folder = script.with_name(f"{script.stem}_files")
    if not script.absolute().parent.is_dir():
        raise StoreError(
            "A script goes into a folder that is there", given=f"{str(script)!r}", hint="Make its folder first."
        )
    _check_free(script, folder)
    if device is None and plan.device.get("kind") == "cpu":
        cores = dict(plan.device.get("details") or {}).get("cores")
        device = f"cpu:{cores}" if cores in ("all", "slow") else "cpu"
    files = bundle_files(plan, ensemble, graphs, switches, answers=True)
    check_readable(files)
    check_name(script, files)
    digest = content_digest(files)
    remember(digest, str(folder.absolute()))  # before the swap: then an older script runs the new folder, too
    written = write_folder(folder, {**files, **graph_files(graphs)})
    text = script_text(stem=script.stem, folder=folder.name, device=device, digest=digest)
    write_file(script, text.encode(), SCRIPT_FILE)
    notes = (*notes_on_switches(switches or {}), *notes_on_own_modules(files, script.absolute().parent))
    return Exported(script=script, folder=folder, files=(script, *written), notes=notes)


def _check_free(script: Path, folder: Path) -> None:
    check_free(script, SCRIPT_FILE)
    with looked_at(folder):
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not _is_bundle(folder)):
        raise UsageError(
            "An export replaces only an export", given=f"{str(folder)!r}, which is another folder", hint=_OTHER
        )
    if folder.exists():
        foreign = sorted(path.name for path in folder.iterdir() if not OUR_FILES.fullmatch(path.name))
        if foreign:
            raise UsageError(
                "An export replaces a folder that holds nothing else",
                given=f"{', '.join(foreign[:4])} in {str(folder)!r}",
                hint="Move it elsewhere, or choose another name.",
            )


def _is_bundle(folder: Path) -> bool:
    try:
        return b'"bundle_version"' in read_head(folder / MANIFEST)
    except StoreError:
        return False


_OTHER = "Choose another name."
