"""The few names, checks and number formats used everywhere.

Inside the package there is one unit each: seconds for time, bytes for memory, integer device units for shares. They
are converted here, once, at the edge where people read them.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from numbers import Integral, Real

from esen_lab.common.fitting import table_lines, terminal_columns
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.terminal import visible_line

MOST_UNITS = 4096
"""More than any device has; keeps what is read from a file within what can be computed."""
MOST_SEED = 2**32 - 1
"""The largest seed that all generators take: numpy's old one, which optuna uses, has 32 bits."""
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
_LONGEST_TOLD = 100  # of what was given as a name: a value of the notebook may stand there
_NAME = re.compile(r"[^\W\d][\w.-]{0,63}\Z")


def check_name(name: object, what: str = "sub-model") -> str:
    """Return `name` when it may name a `what`, else raise `UsageError`.

    Names appear in tables, file names, generated scripts and magic lines, so quotes, spaces, slashes and line breaks
    are refused at the door.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        told = repr(name) if isinstance(name, str) and len(name) <= _LONGEST_TOLD else reprlib.repr(name)
        near = re.sub(r"\W+", "_", name).strip("_")[:64] if isinstance(name, str) else ""
        hint = f"Such as {near}." if _NAME.match(near) else "Choose another name."
        raise UsageError(f"{NAME_RULE}", given=f"{what} name {told}", hint=hint)
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


def whole(value: object) -> int | None:
    """A whole number as an `int`, NumPy's among them; None for everything else, also for true and false."""
    return None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)


def check_seed(seed: object) -> int:
    """Return `seed` when every generator of random numbers takes it, else raise `UsageError`."""
    number = whole(seed)
    if number is None or not 0 <= number <= MOST_SEED:
        raise UsageError(f"A seed is a whole number from 0 to {MOST_SEED}", given=repr(seed))
    return number


def check_number(
    value: object,
    rule: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> float:
    """Return `value` when it is a number within these bounds, else raise `UsageError` with the rule. NaN never is."""
    if not isinstance(value, bool) and isinstance(value, Real):
        number = float(value)
        if (
            not math.isnan(number)
            and (above is None or number > above)
            and (least is None or number >= least)
            and (most is None or number <= most)
            and (below is None or number < below)
        ):
            return number
    raise UsageError(rule, given=repr(value), hint=hint)


def check_count(value: object, rule: str, *, least: int = 1, most: int | None = None) -> int:
    """Return `value` as an `int` when it is a whole number within these bounds, else raise `UsageError` with `rule`."""
    number = whole(value)
    if number is not None and number >= least and (most is None or number <= most):
        return number
    raise UsageError(rule, given=repr(value))


def check_units(units: object, of_units: int, what: str = "a share") -> int:
    """Return `units` as an `int` when it is a whole share in 1..of_units, else raise `UsageError`."""
    number = whole(units)
    if number is None:
        raise UsageError(f"{what[:1].upper()}{what[1:]} is a whole number of units", given=units)
    if not 1 <= number <= of_units:
        rule = f"{what[:1].upper()}{what[1:]} lies between 1 and {of_units} units, all the device has"
        raise UsageError(rule, given=f"{units}")
    return number


def format_seconds(seconds: float | None) -> str:
    """A duration for people with three significant digits ("1.23 ms"); "-" when it is absent."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "never"
    scale, unit = next((pair for pair in _TIMES if abs(seconds) >= pair[0]), _TIMES[-1])
    value = seconds / scale
    if 0 < abs(value) < 0.01:
        return f"{value:.2g} {unit}"  # a limit that somebody asked for is no 0.00 µs
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{_written(value, decimals)} {unit}"


def _written(value: float, decimals: int) -> str:
    """A figure with so many decimals; as a power of ten where its digits would fill the line."""
    return f"{value:.{decimals}f}" if abs(value) < 1e9 else f"{value:.3g}"


def format_rate(per_s: float) -> str:
    """How many a second, whole from 10 on ("240", "2.4", "0.031"): few are not none."""
    return _written(per_s, 0) if per_s >= 10 else f"{per_s:.2g}"


def format_bytes(size: int | None) -> str:
    """A size for people ("12.3 MB", powers of 1000); "-" when it is absent."""
    if size is None:
        return "-"
    scale, unit = next((pair for pair in _SIZES if abs(size) >= pair[0]), _SIZES[-1])
    return f"{size} B" if scale == 1 else f"{_written(size / scale, 1)} {unit}"


def format_units(units: int, unit: str) -> str:
    """A share in words: "1 core", "3 cores", "2 groups of 8 SMs", "30 %"."""
    return f"{units} {unit if units == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """What several of a unit are called: "cores", "groups of 8 SMs"; a measure stays as it is ("%", "percent")."""
    if unit.endswith("%") or unit == "percent":
        return unit
    what, of, rest = unit.partition(" of ")
    return f"{what}s{of}{rest}"


def format_switch(value: object) -> str:
    """What a switch of torch is set to, for people: "on", "off", "float16"."""
    return "on" if value is True else "off" if value is False else str(value).removeprefix("torch.")


def format_count(count: int, what: str) -> str:
    """How many there are ("1 plan", "1,200 plans")."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def format_percent(ratio: float | None, *, signed: bool = False) -> str:
    """A ratio as a percentage ("3.2 %"), from 2 on in times ("46 times"); "-" when it is absent or without bounds."""
    if ratio is None or not math.isfinite(ratio):
        return "-"
    if abs(ratio) >= 2:
        return format_times(ratio, signed=signed)
    return f"{100 * ratio:+.1f} %" if signed else f"{100 * ratio:.1f} %"


def format_times(ratio: float, *, signed: bool = False) -> str:
    """A ratio in words ("2.5 times", "46 times")."""
    sign = "+" if signed and ratio >= 0 else ""
    return f"{sign}{_written(ratio, 0 if abs(ratio) >= 10 else 1)} times"


def format_confidence(confidence: float) -> str:
    """A confidence for people, with the digits that tell it from 1: "0.9", "0.9985", "0.9999998"."""
    return next(text for digits in range(6, 18) if (text := f"{confidence:.{digits}g}") != "1" or confidence == 1)


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


def now() -> str:
    """The present as plans and files tell it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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


def simulated_line(device: Mapping[str, object]) -> tuple[str, ...]:
    """Of the identity of a simulated device, as plain data: the line that says so below figures; of others none."""
    return (f"For {device.get('name', 'a device')}: simulated, and not measured.",) if device.get("simulated") else ()


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns for a terminal, headings first; the first column stands to the left, the others to the right.

    Where that is wider than the terminal that this process writes to, each row becomes a short list.
    """
    lines = [[visible_line(cell) for cell in line] for line in (columns, *rows)]
    right = [place > 0 for place in range(len(columns))]
    return "\n".join(table_lines(lines, right, terminal_columns(), ruled=False))
