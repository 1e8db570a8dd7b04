"""Views of the lab's state, its device and its sub-models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.common.surroundings import step
from esen_lab.common.trees import tree_spec
from esen_lab.common.units import format_bytes, format_units
from esen_lab.common.words import some_of
from esen_lab.ui.views.blocks import Block, Table, View, device_text, facts, one_line

if TYPE_CHECKING:
    from esen_lab.lab.lab_status import NextStep

_MOST_NAMES = 4  # of those who share a remark


def status(record: Any) -> View:
    """A `Status`."""
    rows = tuple(
        (
            str(row["name"]),
            str(row["class"]),
            f"{row['parameters']:,}",
            str(row["example"]),
            str(record.profiled.get(row["name"], 0) or "-"),
        )
        for row in record.submodels
    )
    columns = ("sub-model", "class", "parameters", "example", "shares measured")
    blocks: list[Block] = [
        facts(
            ("device", device_text(record.device)),
            ("combined by", record.combine if record.submodels else ""),
            ("profile", one_line(record.job)),
            ("plan", "" if record.plan is None else record.plan.describe()),
            ("predicted JCT", "" if record.plan is None else record.plan.predicted_text()),
            ("lanes", "warm" if record.running else ""),
            ("nodes", "; ".join(record.nodes)),
            ("served", one_line(record.served)),
            ("calls that wait for their turn", str(record.waiting) if record.waiting else ""),
        )
    ]
    if rows:
        blocks.insert(0, Table(columns=columns, rows=rows, numbers=("parameters", "shares measured")))
    title = f"Lab with {format_units(len(rows), 'sub-model')}" if rows else "Lab without sub-models yet"
    return View(title=title, blocks=tuple(blocks), notes=(*record.device_notes, f"Next: {in_words(record.next_step)}"))


def cluster(record: Any) -> View:
    """A `ClusterStatus`."""
    rows = tuple(
        (
            node.name,
            node.host,
            str(node.units),
            str(node.gpus or "-"),
            format_bytes(node.memory_bytes),
            node.state,
            ", ".join(node.members) or "-",
        )
        for node in record.nodes
    )
    columns = ("node", "machine", "cores", "GPUs", "memory", "state", "sub-models")
    own = tuple(f"{node.name}: {note}" for node in record.nodes for note in node.notes)
    dashboard = (f"Ray's dashboard: {record.dashboard}",) if record.dashboard else ()
    return View(
        title=f"Cluster of {format_units(len(rows), 'node')} at {record.address}",
        blocks=(Table(columns=columns, rows=rows, numbers=("cores", "GPUs", "memory"), wide=("machine",)),),
        notes=(*record.notes, *own, *dashboard),
    )


def device(identity: Mapping[str, Any], notes: Sequence[str], inside: Sequence[tuple[str, str]] = ()) -> View:
    """A device's identity as plain data, what limits shares on it, and what it looks like inside."""
    details = tuple((str(key).replace("_", " "), str(value)) for key, value in identity.get("details", {}).items())
    details = (*details, *inside)
    return View(title=device_text(identity), blocks=(facts(*details),) if details else (), notes=tuple(notes))


def offers(records: Sequence[Any], present: View) -> View:
    """`Offer`s, the best first, above the device in use."""
    rows = []
    for offer in records:
        size = "" if offer.units is None else format_units(offer.units, offer.unit)
        state = "yes" if offer.available else "no"
        if offer.passed is not None:
            state = "yes, tested" if offer.passed else "fails its test"
        said = "; ".join(offer.missing) if offer.missing else offer.verdict
        rows.append((f"{offer.name}{' (default)' if offer.chosen else ''}", offer.hardware, size, state, said))
    notes = [f"{offer.name}: {offer.how}" for offer in records if offer.how]
    table = Table(
        columns=("device", "hardware", "size", "can be had", "what is missing, what was seen"), rows=tuple(rows)
    )
    return View(
        title=f"In use: {present.title}",
        blocks=(table, *present.blocks),
        notes=(
            *present.notes,
            *notes,
            f"`{step('lab.use_device(NAME)', '%esen device NAME')}` goes on with another one.",
        ),
    )


def device_change(record: Any) -> View:
    """A `DeviceChange`."""
    return View(title=device_text(record.after), notes=(*record.device_notes, *record.notes))


def left_gpu(moved: Sequence[str]) -> View:
    """What `leave_gpu` moved."""
    what = f"Moved to the CPU: {', '.join(moved)}." if moved else "No registered module of this notebook is on a GPU."
    return View(notes=(what,))


def ensemble(record: Any) -> View:
    """An `Ensemble`."""
    if not record.submodels:
        add = step("lab.register('NAME', module, example=x)", "%esen register NAME --example EXPR")
        return View(title="No sub-models yet", notes=(f"`{add}` adds a module.",))
    size = format_units(len(record.submodels), "sub-model")
    return View(
        title=f"Ensemble of {size}, combined by {record.combine.describe()}",
        blocks=(_submodels(record.submodels),),
        figures=False,
        notes=tuple(_noted(record.submodels)),
    )


def _noted(records: Sequence[Any]) -> Iterator[str]:
    """What is to be known of sub-models, each remark once, with whom it is of."""
    names: dict[str, list[str]] = {}
    for record in records:
        for note in record.notes:
            names.setdefault(note, []).append(record.name)
    return (f"{some_of(named, _MOST_NAMES)}: {note}" for note, named in names.items())


def submodel(record: Any) -> View:
    """A `SubModel`."""
    table = _submodels([record])
    return View(title=f"Sub-model {record.name}", blocks=(table,), notes=tuple(record.notes), figures=False)


def _submodels(records: Sequence[Any]) -> Table:
    return Table(
        columns=("sub-model", "class", "parameters", "memory", "recipe", "example"),
        rows=tuple(
            (
                s.name,
                s.class_name,
                f"{s.parameters:,}",
                format_bytes(s.memory_bytes),
                s.recipe.describe(),
                str(tree_spec(s.example)),
            )
            for s in records
        ),
        numbers=("parameters", "memory"),
    )


_WORDS: Mapping[str, tuple[str, str, str]] = {
    "register": (
        "Register a sub-model: ",
        "lab.register('NAME', module, example=x)",
        "%esen register NAME --example EXPR",
    ),
    "wait": ("Profiling runs in the background: wait, or ", "lab.job.cancel()", "%esen cancel"),
    "profile": ("Measure the sub-models: ", "lab.profile()", "%esen profile"),
    "search": ("Find a plan: ", "lab.search()", "%esen search"),
    "run": ("Run the ensemble: ", "lab.run(x)", "%esen run x"),
    "compare": ("Compare with how you run it today: ", "lab.compare(x)", "%esen compare x"),
    "export": ("Keep the plan: ", "lab.export('plan.py')", "%esen export plan.py"),
}
"""Action -> what it is for, the step in Python, the step as a magic."""


def in_words(found: NextStep) -> str:
    """What to do, and how it is done here."""
    told, python, magic = _WORDS[found.action]
    return told + step(python, magic)
