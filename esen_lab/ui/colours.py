"""One colour per sub-model, in every picture, plot and panel: by the order in which they were registered.

The palette is that of Okabe and Ito (2008), which colour-blind people can tell apart. Its yellow and grey come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from esen_lab.common.locks import Lock

PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#999999")
NEUTRAL = ("#767676", "#8a6f4f", "#5b7a8c", "#84709a")
"""Of lines that are no sub-model's: a core, the memory, a GPU."""
LEAST_OF_LINES = 3.0  # of what is drawn: WCAG 2, level AA
_PART = re.compile(r"(.+) \d+/\d+")  # "wide 1/2": a part of the batch of "wide"


class Colours:
    """Which sub-model has which colour. A colour, once given, stays; safe for several threads."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._learned: list[str] = []  # the ensemble that was learned last
        self._lock = Lock()
        self.given = 0
        """Counts the colours that were given and forgotten: as long as it stays, everybody keeps theirs."""

    def learn(self, names: Iterable[str]) -> None:
        """Give colours to the sub-models of an ensemble, in their order; no two share one while there are others."""
        ensemble = list(dict.fromkeys(names))
        if ensemble == self._learned:
            return
        with self._lock:
            taken: set[int] = set()
            for name in ensemble:
                place = self._places.get(name)
                if place is None or (place in taken and len(taken) < len(PALETTE)):
                    later = {self._places[other] for other in ensemble if other != name and other in self._places}
                    place = self._give(name, taken | later)
                taken.add(place)
            self._learned = ensemble

    def of(self, name: str) -> str:
        """The colour of a sub-model; of a group that of its first member, of a part that of the whole."""
        place = self._places.get(name)
        if place is not None:
            return colour(place)
        with self._lock:
            if name not in self._places:
                part = _PART.fullmatch(name)
                known = part[1] if part else name.split("+", maxsplit=1)[0]
                if known != name:
                    return self.of(known)
                self._give(name, set(self._places.values()))
            return colour(self._places[name])

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._places.clear()
            self._learned = []
            self.given += 1

    def _give(self, name: str, taken: set[int]) -> int:
        place = self._places[name] = _next(taken)
        self.given += 1
        return place


def _next(taken: set[int]) -> int:
    free = [number for number in range(len(PALETTE)) if number not in taken]
    return free[0] if free else len(taken)


COLOURS = Colours()
"""Of this process: a notebook shows one ensemble, whichever record of it is drawn."""


def colour(index: int) -> str:
    """The palette's colour number `index`, around and around."""
    return PALETTE[index % len(PALETTE)]


def stroke(fill: str) -> str:
    """That colour for a thin line: darker where it would not stand out on a light page; it does on a dark one."""
    scale = min(1.0, (1.05 / LEAST_OF_LINES - 0.05) / _luminance(fill))
    return "#" + "".join(f"{int(255 * _as_written(scale * part)):02x}" for part in _linear(fill))


def ink_on(fill: str) -> str:
    """Black or white: what stands out more on that colour."""
    return max(("#000", "#fff"), key=lambda ink: contrast(ink, fill))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21, by WCAG 2."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(written: str) -> float:
    red, green, blue = _linear(written)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(written: str) -> list[float]:
    """Red, green and blue in proportion to their light, 0 to 1."""
    digits = written.lstrip("#")
    pairs = [digit * 2 for digit in digits] if len(digits) == 3 else re.findall("..", digits)
    parts = [int(pair, 16) / 255 for pair in pairs]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _as_written(light: float) -> float:
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
