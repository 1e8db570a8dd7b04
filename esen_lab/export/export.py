"""A plan as a script, with everything it needs in a folder beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from esen_lab.ensemble import Ensemble
from esen_lab.errors import StoreError, UsageError
from esen_lab.export.bundle import MANIFEST, bundle_files
from esen_lab.export.script import MARK, script_text
from esen_lab.export.swap import replace_folder
from esen_lab.planning import Plan, write_text_atomically
from esen_lab.showing import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Shown):
    """What an export wrote.

    Attributes:
        script: The script.
        folder: The folder beside it.
        files: Every file, the script first.
    """

    script: Path
    folder: Path
    files: tuple[Path, ...]

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.script} and {len(self.files) - 1} files in {self.folder}"


def export_plan(plan: Plan, ensemble: Ensemble, path: str | os.PathLike[str], *, device: str | None = None) -> Exported:
    """Write `plan` as a script that runs without a notebook.

    The folder is called like the script ("plan.py": "plan_files"). An export that is there already is replaced, first
    the folder, then the script; each is complete before it appears, and the script does not depend on what the folder
    holds. Other files are never replaced.

    Args:
        plan: What to run; its sub-models are those of `ensemble`, unchanged.
        ensemble: The sub-models and the combine rule.
        path: The script, ending with ".py".
        device: The name of the device that the script opens; None takes the plan's where it has a known one ("cpu"),
            else the best one there.

    Raises:
        UsageError: The path does not end with .py or is taken by something else, the plan is not one of this
            ensemble, or a sub-model or the combine rule cannot be saved.
        StoreError: It cannot be written; an older export is as it was.
    """
    plan.check_runnable()
    script = Path(path)
    if script.suffix != ".py" or not script.stem:
        raise UsageError("A script's name ends with .py", given=repr(str(script)))
    folder = script.with_name(f"{script.stem}_files")
    if not script.absolute().parent.is_dir():
        raise StoreError(f"{str(script)!r} can be written", given="its folder is not there", hint="Make it first.")
    _check_free(script, folder)
    if device is None and plan.device.get("kind") == "cpu":
        device = "cpu"
    files = bundle_files(plan, ensemble)
    written = replace_folder(folder, files)
    write_text_atomically(script, script_text(stem=script.stem, folder=folder.name, device=device))
    return Exported(script=script, folder=folder, files=(script, *written))


def _check_free(script: Path, folder: Path) -> None:
    try:
        taken_script = script.exists() and MARK not in script.read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        taken_script = True
    if taken_script:
        raise UsageError(
            "An export replaces only an export", given=f"{str(script)!r}, which is another file", hint=_OTHER
        )
    taken_folder = folder.exists() and not (folder / MANIFEST).is_file()
    if taken_folder or folder.is_symlink():
        raise UsageError(
            "An export replaces only an export", given=f"{str(folder)!r}, which is another folder", hint=_OTHER
        )


_OTHER = "Choose another name."
