"""`lab.history`: what was measured and planned in this project, also in earlier sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Integral
from typing import Any

from esen_lab.common.units import check_count
from esen_lab.common.words import listed, unknown
from esen_lab.errors import StoreError, UsageError
from esen_lab.history import Changes, Entry, EntryKind, Past, changes
from esen_lab.lab.plan_checks import differences
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan

LAST = 50


class LabHistory:
    """The history of one lab's project. Nothing here raises because of the file: what is wrong with it is a note."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def project(self) -> str:
        """What entries are kept under: the folder that the lab was made in, `$ESEN_LAB_PROJECT`, or what was set."""
        return self._runtime.recorder.project

    @project.setter
    def project(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UsageError("A project has a name", given=repr(name), hint="Such as a folder, or 'digits'.")
        self._runtime.recorder.flush()  # what came before belongs to the one before
        self._runtime.recorder.rename(name)

    @property
    def on(self) -> bool:
        """Whether anything is kept from now on; `$ESEN_LAB_HISTORY=off` turns it off from the beginning."""
        return self._runtime.recorder.on

    @on.setter
    def on(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise UsageError("The history is on or off: True or False", given=repr(on))
        self._runtime.recorder.on = on

    def past(self, last: int = LAST, kinds: Sequence[EntryKind | str] | str | None = None) -> Past:
        """The last entries of this project, oldest first: a table, and a picture of the JCT over time.

        Args:
            last: How many, at least 1.
            kinds: Of which kinds alone: "comparison", "plan", "profile", "runs"; one may stand for a list of itself;
                None: all.

        Raises:
            UsageError: `last` is no whole number above 0, or a kind is unknown.
        """
        last = check_count(last, "A list has a whole number of entries above 0")
        known = [str(kind) for kind in EntryKind]
        asked = known if kinds is None else [str(kind) for kind in listed(kinds)]
        for kind in asked:
            if kind not in known:
                raise unknown(f"An entry of the history is one of {', '.join(known)}", kind, known, given=kind)
        entries, notes = self._entries()
        recorder = self._runtime.recorder
        others: dict[str, int] = {}
        with suppress(StoreError):
            others = {name: n for name, n in recorder.book.projects().items() if name != recorder.project}
        chosen = tuple([entry for entry in entries if str(entry.kind) in asked][-last:])
        numbers = {entry.number for entry in chosen}
        unlisted = tuple(entry for entry in entries if entry.number not in numbers)
        return Past(project=recorder.project, entries=chosen, unlisted=unlisted, others=others, notes=notes)

    def entry(self, number: int) -> Entry:
        """One entry.

        Raises:
            UsageError: There is none of that number.
        """
        entries, notes = self._entries()
        return Past(project=self.project, entries=entries, notes=notes).entry(number)

    def compare(self, before: int, after: int) -> Changes:
        """Two entries side by side: what changed of sub-models, lanes, backends, device, versions and load.

        Raises:
            UsageError: There is no entry of one of these numbers.
        """
        return changes(self.entry(before), self.entry(after))

    def take(self, number: int) -> Plan:
        """Put the plan of an entry in force. What differs from when it was made is said in its notes.

        Raises:
            UsageError: There is no such entry, or it has no plan, or the plan is for other sub-models or a larger
                device; the plan in force stays.
        """
        entry = self.entry(number)
        if entry.plan is None:
            raise UsageError("An entry whose plan is taken has one", given=f"a {entry.kind} without a plan")
        state = self._runtime.state
        check_fits(entry.plan, state.ensemble, state.device)
        news = differences(entry.plan, state.ensemble, state.device)
        told = [f"Taken from the history: number {number}, of {entry.when} UTC.", *news]
        plan = replace(entry.plan, notes=(*entry.plan.notes, *(note for note in told if note not in entry.plan.notes)))
        put_in_force(self._runtime, plan)
        return plan

    def forget(self, numbers: Sequence[int] | int | None = None) -> int:
        """Take entries of this project out of the history.

        Args:
            numbers: Which, or one of them; None: all of the project.

        Returns:
            How many there were.

        Raises:
            UsageError: There is no entry of one of these numbers.
        """
        if numbers is not None:
            numbers = _numbers(numbers)
            for number in numbers:
                self.entry(number)
        self._runtime.recorder.flush()
        try:
            return self._runtime.recorder.forget(numbers)
        except StoreError:
            return 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the history: what happened to its file, what cannot be kept at present."""
        recorder = self._runtime.recorder
        off = () if recorder.on else ("Nothing is kept at present: `lab.history.on = True` begins again.",)
        try:
            return (*recorder.book.notes, *filter(None, [recorder.trouble]), *off)
        except StoreError as problem:
            return (f"Nothing is kept: {problem}", *off)

    def _entries(self) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
        recorder = self._runtime.recorder
        recorder.flush()
        try:
            entries = recorder.book.entries(recorder.project)
        except StoreError:
            entries = ()
        return entries, self.notes


def _numbers(given: object) -> list[Any]:
    """The numbers of entries, where one may stand for a list of itself."""
    if isinstance(given, Integral):
        return [given]
    if isinstance(given, Iterable) and not isinstance(given, str):
        return list(given)
    raise UsageError("Entries are forgotten by their numbers; None forgets the whole project", given=repr(given))
