"""What `%esen share` and `%esen tune` understand: words -> one call on the lab's tuning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.errors import UsageError
from esen_lab.notebook.line import text, unknown

if TYPE_CHECKING:
    from esen_lab.notebook.session import Session

_SHARE = re.compile(r"(?P<lane>[^=]+)=(?:(?P<pin>pin)(?::(?P<pinned>\d+%?))?|(?P<unpin>unpin)|(?P<units>\d+%?))\Z")
WAIT_S = 600.0  # for a search that is asked for on a line: Ctrl-C ends the waiting earlier


def read_share(session: Session, word: str) -> tuple[str, str, bool | None]:
    """`wide=30`, `wide=25%`, `wide=pin:20`, `wide=pin`, `wide=unpin` as (lane, share or "", pinned or None)."""
    found = _SHARE.match(text(session, word))
    if found is None:
        raise UsageError(
            "A share is written LANE=UNITS, LANE=PERCENT%, LANE=pin:UNITS, LANE=pin or LANE=unpin", given=word
        )
    pinned = True if found["pin"] else False if found["unpin"] else None
    return found["lane"], found["units"] or found["pinned"] or "", pinned


def share(lab: Any, given: Sequence[tuple[str, str, bool | None]]) -> Any:
    """Set, pin and free shares, all in one move; returns the state after it."""
    tuning = lab.tune()
    of_units = tuning.state.units
    return tuning.share(
        {lane: _units(written, of_units) for lane, written, _ in given if written},
        pin=[lane for lane, _, pinned in given if pinned],
        unpin=[lane for lane, _, pinned in given if pinned is False],
    )


def _units(written: str, of_units: int) -> int:
    if not written.endswith("%"):
        return int(written)
    return max(1, round(int(written[:-1]) * of_units / 100))


def tune(lab: Any, words: Sequence[str]) -> Any:
    """Do one step of tuning, or none; returns the state after it."""
    tuning = lab.tune()
    if words:
        name, *rest = words
        if name not in STEPS:
            raise unknown(f"%esen tune has no step {name!r}", name, STEPS, "`%esen tune -h` lists them.")
        least, most, act = STEPS[name]
        if not least <= len(rest) <= most:
            raise UsageError(f"`%esen tune {name}` takes {_count(least, most)}", given=" ".join(rest) or "none")
        act(tuning, rest)
    return tuning.state


def _count(least: int, most: int) -> str:
    if least == most:
        return f"{least or 'no'} word{'' if least == 1 else 's'}"
    return f"{least} words or more" if most >= _MANY else f"{least} to {most} words"


def _propose(tuning: Any, words: Sequence[str]) -> None:
    job = tuning.propose(*words)
    try:
        job.result(timeout=WAIT_S)
    except KeyboardInterrupt:
        job.cancel()
        raise


def _switch(tuning: Any, words: Sequence[str]) -> None:
    if words[0] not in ("on", "off"):
        raise UsageError("Oversubscription is on or off", given=words[0])
    tuning.oversubscribe(words[0] == "on")


_MANY = 1000
STEPS: Mapping[str, tuple[int, int, Callable[[Any, Sequence[str]], Any]]] = {
    "propose": (0, 1, _propose),
    "apply": (0, 0, lambda tuning, _: tuning.apply()),
    "measure": (0, 0, lambda tuning, _: tuning.measure()),
    "undo": (0, 0, lambda tuning, _: tuning.undo()),
    "redo": (0, 0, lambda tuning, _: tuning.redo()),
    "reset": (0, 0, lambda tuning, _: tuning.reset()),
    "cancel": (0, 0, lambda tuning, _: tuning.cancel()),
    "save": (1, 1, lambda tuning, words: tuning.save(words[0])),
    "export": (1, 1, lambda tuning, words: tuning.export(words[0])),
    "move": (1, 2, lambda tuning, words: tuning.move(*words)),
    "split": (1, _MANY, lambda tuning, words: tuning.split(*words)),
    "merge": (2, _MANY, lambda tuning, words: tuning.merge(*words)),
    "oversubscribe": (1, 1, _switch),
}
"""Step -> (fewest words, most words, what it does)."""
