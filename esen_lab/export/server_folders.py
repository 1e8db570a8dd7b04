"""What the folders that other servers read have in common: a bundle inside, a name, and what they may replace."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.ensemble import Ensemble
from esen_lab.errors import StoreError, UsageError
from esen_lab.export.bundle import check_readable
from esen_lab.export.bundle_files import Graph, bundle_files, graph_files
from esen_lab.export.trust import content_digest, remember
from esen_lab.files import read_head
from esen_lab.planner.plan import Plan

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
_ALSO_THERE = {"bundle", "README.md", "__pycache__", ".ipynb_checkpoints", ".DS_Store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFolder:
    """By what exports for one server are told from other folders.

    Attributes:
        server: Its name, for people.
        marked: The file that begins with `mark`.
        mark: What no other program writes.
        names: What else lies at the top of it, besides a bundle and a README.
    """

    server: str
    marked: str
    mark: str
    names: frozenset[str] = frozenset()

    def check_free(self, folder: Path) -> None:
        """Refuse to write where something else is.

        Raises:
            StoreError: The folder that it goes into is not there.
            UsageError: It is there, and no such export.
        """
        with looked_at(folder):
            if not folder.absolute().parent.is_dir():
                raise StoreError(
                    "An export is written into a folder that is there",
                    given=f"{str(folder)!r}, whose folder is not",
                    hint="Make that first.",
                )
            if folder.is_symlink() or (folder.exists() and not self._is_one(folder)):
                raise UsageError(
                    f"An export for {self.server} replaces only such an export",
                    given=f"{str(folder)!r}, which is something else",
                    hint="Choose another name.",
                )

    def _is_one(self, folder: Path) -> bool:
        try:
            alone = {path.name for path in folder.iterdir()} <= {self.marked, *self.names, *_ALSO_THERE}
            return alone and self.mark.encode() in read_head(folder / self.marked)
        except (OSError, StoreError):
            return False


@contextmanager
def looked_at(folder: Path) -> Iterator[None]:
    """Around what looks at a folder that is to be written.

    Raises:
        StoreError: The system does not let it be looked at: its name is too long, or it is closed to this user.
    """
    try:
        yield
    except OSError as problem:
        raise StoreError(
            "An export goes where this user may look and write",
            given=f"{str(folder)!r}: {problem.strerror or problem}",
            hint="Choose another name or folder.",
        ) from problem


def check_for_cpu(plan: Plan, rule: str) -> None:
    """Refuse a plan for anything but a CPU.

    Raises:
        UsageError: It is for another device.
    """
    if plan.device.get("kind", "cpu") != "cpu":
        raise UsageError(
            rule,
            given=f"a plan for {plan.device.get('name', plan.device.get('kind'))}",
            hint=f"Export a script instead: {step('lab.export(PATH)', '%esen export PATH')}.",
        )


def name_from(folder: Path) -> str:
    """What clients call the model: as the folder is called, as far as names in addresses go."""
    return _NOT_IN_NAMES.sub("_", folder.absolute().name).strip("_.-") or "ensemble"


def bundle_inside(
    folder: Path,
    plan: Plan,
    ensemble: Ensemble,
    graphs: Sequence[Graph],
    switches: Mapping[str, Any] | None = None,
) -> tuple[dict[str, bytes], str]:
    """The files of `folder/bundle`, by their paths in the folder, and their digest, which is trusted from now on.

    Raises:
        UsageError: The plan is not one of this ensemble, or a sub-model or the combine rule cannot be saved.
    """
    bundle = bundle_files(plan, ensemble, graphs, switches, answers=True)
    check_readable(bundle)
    digest = content_digest(bundle)
    remember(digest, str(folder.absolute() / "bundle"))
    return {f"bundle/{name}": data for name, data in {**bundle, **graph_files(graphs)}.items()}, digest
