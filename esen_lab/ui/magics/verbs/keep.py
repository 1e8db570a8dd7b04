"""The verbs at the end of a session: show again, save, load, record, export, close."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics.arguments import Argument, text
from esen_lab.ui.magics.verbs.measure import profile_view
from esen_lab.ui.magics.verbs.verb import PLAN_FILE, Given, Verb, show
from esen_lab.ui.pictures.rows import Shares
from esen_lab.ui.session import Session
from esen_lab.ui.views import View

_RECORDS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], View]]] = {
    "lab": (lambda lab: lab.status(), views.status),
    "ensemble": (lambda lab: lab.ensemble, views.ensemble),
    "profile": (lambda lab: lab.measurements, views.profile),
    "plan": (lambda lab: lab.plan, views.plan),
    "editor": (lambda lab: lab.tune().state, views.editor),
    "search": (lambda lab: lab.tune().proposal, views.allocation),
    "report": (lambda lab: lab.report, views.report),
    "comparison": (lambda lab: lab.comparison, views.comparison),
    "numerics": (lambda lab: lab.numerics, views.numerics),
    "backends": (lambda lab: lab.backends, views.backends),
    "precision": (lambda lab: lab.lanes.precision, views.precision),
}
"""What `%esen show` takes -> (the lab's record or None, its view)."""

_MADE_BY: Mapping[str, str] = {
    "profile": "profile",
    "plan": "search",
    "search": "tune propose",
    "report": "run x",
    "comparison": "compare x",
    "numerics": "numerics",
    "backends": "backends",
    "precision": "precision bf16",
}
"""Record that may not be there yet -> what follows %esen to make it."""

_OLD_WORDS = {"tuning": "editor", "mechanisms": "backends"}
"""Words of earlier versions."""


def _show(session: Session, given: Given) -> Any:
    lab = session.lab()
    what = _OLD_WORDS.get(given.what, given.what)
    if what not in _RECORDS:
        raise unknown(f"%esen show has no {what!r}", what, _RECORDS, hint=f"It has {', '.join(_RECORDS)}.")
    find, draw = _RECORDS[what]
    record = find(lab)
    if record is None:
        raise UsageError(
            f"What is shown of {what} is there", given="nothing yet", hint=f"`%esen {_MADE_BY[what]}` makes it."
        )
    return show(session, record, profile_view(lab, record) if what == "profile" else draw(record))


def _record_names(session: Session) -> tuple[str, ...]:
    return tuple(_RECORDS)


SHOW = Verb(
    "show again what there is",
    _show,
    (
        Argument(
            "what",
            f"{', '.join(_RECORDS)}; search is the history of the last `%esen tune propose`",
            text,
            "WHAT",
            suggest=_record_names,
        ),
    ),
    example="%esen show ensemble",
)


def _save(session: Session, given: Given) -> None:
    session.front.show(View(title=f"Plan saved to {session.lab().save(given.path)}"))


_FILE = "Interrupted: the file is whole, as it was before or as it was to be."
SAVE = Verb("write the plan as JSON", _save, (PLAN_FILE,), example="%esen save plan.json", interrupted=_FILE)


def _load(session: Session, given: Given) -> Any:
    lab = session.lab()
    before = lab.plan
    plan = lab.load(given.path)
    view = views.plan(plan)
    if before is not None and before.lanes == plan.lanes:  # its picture is above
        view = replace(view, blocks=tuple(block for block in view.blocks if not isinstance(block, Shares)))
    return show(session, plan, view)


LOAD = Verb(
    "read a plan; it is put in force",
    _load,
    (PLAN_FILE,),
    example="%esen load plan.json",
    interrupted="Interrupted: `%esen plan` shows the plan in force, the one before or the one of the file.",
)


def _record(session: Session, given: Given) -> None:
    path = session.lab().points.record(given.path)
    session.front.show(
        View(title=f"Latencies recorded in {path}", notes=(f"Elsewhere: `%esen device fake:{path}` plans with them.",))
    )


RECORD = Verb(
    "write the measured latencies, to plan for this device on another machine",
    _record,
    (Argument("path", "the file, such as h100.json", text, "PATH"),),
    example="%esen record h100.json",
    interrupted=_FILE,
)


def _export(session: Session, given: Given) -> Any:
    if len(given.path) > 2:
        raise UsageError("%esen export takes a script, or a form and a folder", given=" ".join(given.path))
    if given.path in (["triton"], ["ray-serve"]):
        form = given.path[0]
        raise UsageError(
            f"`%esen export {form}` takes a folder", given="nothing", hint=f"Such as `%esen export {form} FOLDER`."
        )
    lab, path = session.lab(), given.path[-1]
    if len(given.path) == 1:
        exported = lab.export(path)
        return show(session, exported, views.exported(exported))
    made = lab.export(path, form=given.path[0])
    return show(session, made, views.RECORDS[f"{type(made).__module__}.{type(made).__qualname__}"](made))


EXPORT = Verb(
    "write the plan as a script that runs without Jupyter, or for another server",
    _export,
    (
        Argument(
            "path",
            "the script, such as plan.py; or `triton FOLDER`: a model repository for NVIDIA Triton; or "
            "`ray-serve FOLDER`: an application for Ray Serve",
            text,
            "PATH",
            count="+",
        ),
    ),
    example="%esen export plan.py",
    interrupted="Interrupted: what was being written may not be there; export again.",
)


def _close(session: Session, given: Given) -> None:
    session.stop_watching()
    labs = session.open_labs
    for lab in labs:
        lab.close()
    notes = ("Sub-models and plan are kept; the next run or profile starts workers again.",) if labs else ()
    session.front.show(View(title="Every worker and job has ended." if labs else "Nothing is open.", notes=notes))


CLOSE = Verb(
    "end every worker and job; sub-models and plan are kept",
    _close,
    example="%esen close",
    interrupted="Interrupted while closing: some workers and jobs may have ended; `%esen close` again ends the rest.",
)
STOP = replace(CLOSE, summary="the same as close", example="%esen stop")
