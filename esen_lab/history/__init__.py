"""REMEMBER: the comparisons, plans, profiles and runs of a project, from one session to the next.

entry.py     one of them, as it is kept
book.py      all of them, in one SQLite file that any number of notebooks read and write at once
changes.py   what differs between two of them
past.py      some of them in their order, with what changed on the way
"""

from __future__ import annotations

from esen_lab.history.book import Book, Slot
from esen_lab.history.changes import Changes, changed, changes
from esen_lab.history.entry import Entry, EntryKind, Member, Strategy
from esen_lab.history.past import Past

__all__ = ["Book", "Changes", "Entry", "EntryKind", "Member", "Past", "Slot", "Strategy", "changed", "changes"]
