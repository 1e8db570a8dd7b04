"""The few names, checks and number formats used everywhere.

Inside the package there is one unit each: seconds for time, bytes for memory, integer device units for shares. They
are converted here, once, at the edge where people read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from esen_lab.common.fitting import table_lines, terminal_columns
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.terminal import visible_line

MOST_UNITS = 4096
"""More than any device has; keeps what is read from a file within what can be computed."""
BACKENDS = ("eager", "channels_last", "inductor", "openvino", "onnxruntime", "cuda-graph", "tensorrt")
"""What executes a sub-model, each a file of `esen_lab.lanes.backends`; "inductor" is `torch.compile`."""
PRECISIONS = ("bf16", "fp16", "int8")
"""What a backend may be asked to compute in, in place of a network's own precision: "openvino@bf16"."""
_BEFORE = {"compile": "inductor", "graph": "cuda-graph"}  # what backends were called
OLD_DAYS = 7
"""A measurement or a plan that is older says so where its figures are explained."""
NAME_RULE = "A name starts with a letter or underscore and goes on with letters, digits, '_', '-' or '.', 64 at most"
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
_NAME = re.compile(r"[^\W\d][\w.-]{0,63}\Z")


def check_name(name: object, what: str = "sub-model") -> str:
    """Return `name` when it may name a `what`, else raise `UsageError`.

    Names appear in tables, file names, generated scripts and magic lines, so quotes, spaces, slashes and line breaks
    are refused at the door.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise UsageError(f"{NAME_RULE}", given=f"{what} name {name!r}", hint="Choose another name.")
    return name


def check_backend(name: object) -> str:
    """The name of a backend as it is called today, with a precision after it where one was asked for ("eager@bf16").

    Raises:
        UsageError: There is no such backend, or no such precision.
    """
    bare, at, precision = name.partition("@") if isinstance(name, str) else ("", "", "")
    known = _BEFORE.get(bare, bare)
    if known not in BACKENDS or (at and precision not in PRECISIONS):
        with_one = ", ".join(f"@{each}" for each in PRECISIONS)
        near = [known + at + each for each in PRECISIONS] if known in BACKENDS else BACKENDS
        raise unknown(
            f"A backend, with {with_one} after it where that is asked for, is one of {', '.join(BACKENDS)}",
            name if known in BACKENDS else bare,
            near,
            given=repr(name),
        )
    return known + at + precision


def backend_parts(name: str) -> tuple[str, str]:
    """The backend alone, and the precision asked for, "" for the network's own; raises as `check_backend` does."""
    bare, _, precision = check_backend(name).partition("@")
    return bare, precision


def check_units(units: object, of_units: int, what: str = "a share") -> int:
    """Return `units` when it is an integer share in 1..of_units, else raise `UsageError`."""
    if isinstance(units, bool) or not isinstance(units, int):
        raise UsageError(f"{what[:1].upper()}{what[1:]} is a whole number of units", given=units)
    if not 1 <= units <= of_units:
        rule = f"{what[:1].upper()}{what[1:]} lies between 1 and {of_units} units, all the device has"
        raise UsageError(rule, given=f"{units}")
    return units


def format_seconds(seconds: float | None) -> str:
    """A duration for people with three significant digits ("1.23 ms"); "-" when it is absent."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "never"
    scale, unit = next((pair for pair in _TIMES if abs(seconds) >= pair[0]), _TIMES[-1])
    value = seconds / scale
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f} {unit}"


def format_bytes(size: int | None) -> str:
    """A size for people ("12.3 MB", powers of 1000); "-" when it is absent."""
    if size is None:
        return "-"
    scale, unit = next((pair for pair in _SIZES if abs(size) >= pair[0]), _SIZES[-1])
    return f"{size} B" if scale == 1 else f"{size / scale:.1f} {unit}"


def format_units(units: int, unit: str) -> str:
    """A share in words: "1 core", "3 cores", "30 %"."""
    return f"{units} {unit}" if units == 1 or unit.endswith("%") else f"{units} {unit}s"


def format_percent(ratio: float | None, *, signed: bool = False) -> str:
    """A ratio as a percentage ("3.2 %"), from 2 on in times ("46 times"); "-" when it is absent or without bounds."""
    if ratio is None or not math.isfinite(ratio):
        return "-"
    if abs(ratio) >= 2:
        return format_times(ratio, signed=signed)
    return f"{100 * ratio:+.1f} %" if signed else f"{100 * ratio:.1f} %"


def format_times(ratio: float, *, signed: bool = False) -> str:
    """A ratio in words ("2.5 times", "46 times")."""
    decimals = 0 if abs(ratio) >= 10 else 1
    return f"{ratio:{'+' if signed else ''}.{decimals}f} times"


def format_change(ratio: float | None) -> str:
    """How a time compares with another one, of which it is `ratio`: "12.3 % slower", "46 times slower"; "-" if unknown.

    Args:
        ratio: This time / the other one. "3 times slower" takes three times as long.
    """
    if ratio is None or not math.isfinite(ratio) or ratio <= 0:
        return "-"
    word = "slower" if ratio >= 1 else "faster"
    if 0.5 < ratio < 2:
        return f"{format_percent(abs(ratio - 1))} {word}"
    return f"{format_times(max(ratio, 1 / ratio))} {word}"


def format_spread(spread_s: float, median_s: float) -> str:
    """An interquartile range beside its median ("3.2 %"); a larger one than the median says that it is unsteady."""
    if not (median_s > 0 and math.isfinite(spread_s)):
        return "-"
    return "unsteady" if spread_s > median_s else format_percent(spread_s / median_s)


def with_marks(text: str, *marks: str) -> str:
    """A text with its marks, where there are any: "wide (compile, extrapolated)"."""
    told = ", ".join(mark for mark in marks if mark)
    return f"{text} ({told})" if told else text


def marked(text: str, unmeasured: Mapping[str, str]) -> str:
    """A predicted figure with those whose part of it rests on no measurement: "4.50 ms (extrapolated: wide, deep)"."""
    names: dict[str, list[str]] = {}
    for name, word in unmeasured.items():
        if word:
            names.setdefault(word, []).append(name)
    return with_marks(text, "; ".join(f"{word}: {', '.join(own)}" for word, own in names.items()))


def days_since(moment: str, now: datetime | None = None) -> float | None:
    """Days since an ISO 8601 time, negative for one to come; None where it is not such a time.

    Args:
        moment: One without a time zone is taken to be UTC.
        now: None for the present.
    """
    try:
        then = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - then).total_seconds() / 86400


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns for a terminal, headings first; the first column stands to the left, the others to the right.

    Where that is wider than the terminal that this process writes to, each row becomes a short list.
    """
    lines = [[visible_line(cell) for cell in line] for line in (columns, *rows)]
    right = [place > 0 for place in range(len(columns))]
    return "\n".join(table_lines(lines, right, terminal_columns(), ruled=False))
