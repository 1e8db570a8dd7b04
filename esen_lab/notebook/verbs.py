"""The table of verbs. Each parses its words, calls one `Lab` method and displays what came back; none decides.

What a verb shows it also returns, so that `plan = %esen search` works; the notebook does not show it twice.
"""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

import argparse
import builtins
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from esen_lab.errors import UsageError
from esen_lab.notebook import choosing, suggestions, views
from esen_lab.notebook.line import (
    Argument,
    expression,
    names,
    parse,
    parser,
    percent,
    plain,
    seconds,
    split,
    text,
    unknown,
    whole_number,
    whole_numbers,
    word,
)
from esen_lab.notebook.session import Session
from esen_lab.notebook.tuning_verbs import read_share, share, tune
from esen_lab.notebook.views import Details, Table, View
from esen_lab.notebook.watching import Watching

Given: TypeAlias = argparse.Namespace
_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+\Z")
_STILL_USABLE = "The lab is as it was before; nothing else was lost."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb.

    Attributes:
        summary: One line.
        act: Does it; what it returns is the value of the magic.
        arguments: What it takes.
        example: A line that works.
        interrupted: What Ctrl-C leaves behind, in one line.
    """

    summary: str
    act: Callable[[Session, Given], Any]
    arguments: tuple[Argument, ...] = ()
    example: str = ""
    interrupted: str = f"Interrupted. {_STILL_USABLE}"


def run_line(session: Session, line: str) -> Any:
    """Do what an `%esen` line says.

    Raises:
        EsenError: With one line for the user.
        Exception: What the user's own expression raised.
    """
    return _run(session, "%esen", VERBS, split(line))


def run_cell(session: Session, line: str, cell: str) -> Any:
    """Do what a `%%esen` cell says; raises as `run_line` does."""
    words = split(line)
    if not words or (words[0] not in CELL_VERBS and words[0] in VERBS):
        raise UsageError(
            "A cell that begins with %%esen defines a sub-model: `%%esen model NAME`",
            given=f"%%esen {line.strip()}".strip(),
            hint="Write the other verbs on a line of their own, with a single %.",
        )
    return _run(session, "%%esen", CELL_VERBS, words, cell)


def interrupted(line: str) -> str:
    """What to tell when Ctrl-C ended that line."""
    verb = VERBS.get((line.split() or ["status"])[0])
    return (verb or VERBS["status"]).interrupted


def _run(session: Session, magic: str, table: Mapping[str, Verb], words: list[str], cell: str | None = None) -> Any:
    quiet = bool(words) and words[-1].endswith(";")
    if quiet:
        words = [*words[:-1], *([words[-1][:-1]] if words[-1] != ";" else [])]
    name, *rest = words or ["status"]
    if name in ("-h", "--help"):
        name = "help"
    verb = table.get(name)
    if verb is None:
        raise unknown(f"{magic} has no verb {name!r}", name, table, "`%esen help` lists them all.")
    prog = f"{magic} {name}"
    if "-h" in rest or "--help" in rest:
        session.front.show(_help(prog, verb))
        return None
    given = parse(session, prog, verb.summary, verb.arguments, rest)
    given.cell = cell
    result = verb.act(session, given)
    return None if quiet else result


def _show(session: Session, record: Any, view: View) -> Any:
    session.front.show(view)
    session.front.mark_shown(record)
    return record


# --- who -------------------------------------------------------------------------------------------------------------


def _status(session: Session, given: Given) -> None:
    session.front.show(views.status(session.lab().status()))


def _register(session: Session, given: Given) -> Any:
    written = given.module
    if _IMPORT_PATH.match(plain(written)):
        source, own = plain(written), plain(written).rpartition(":")[2].rpartition(".")[2]
    else:
        source, own = _variable(session, written), written if written.isidentifier() else ""
    name = given.as_name or own
    if not name:
        raise UsageError(
            "A sub-model that is not a plain variable is given a name",
            given=written,
            hint=f"Write `%esen register {written} --as NAME`.",
        )
    made = session.lab().register(name, source, given.example)
    return _show(session, made, views.submodel(made))


def _variable(session: Session, name: str) -> Any:
    known = session.front.namespace
    if name.isidentifier() and name not in known and not hasattr(builtins, name):
        raise unknown(
            f"%esen register takes a variable of this notebook, and there is no {name!r}",
            name,
            [other for other in known if not other.startswith("_")],
            "Run the cell that defines it first.",
        )
    return session.front.evaluate(name)


def _model(session: Session, given: Given) -> Any:
    made = session.lab().register(given.name, given.cell, given.example, namespace=session.front.namespace)
    return _show(session, made, views.submodel(made))


def _model_line(session: Session, given: Given) -> None:
    raise UsageError(
        "`%%esen model NAME` is the first line of the cell that builds the module, with two %",
        hint="For a module that is already a variable, use `%esen register NAME`.",
    )


def _unregister(session: Session, given: Given) -> None:
    lab = session.lab()
    lab.unregister(given.name)
    session.front.show(views.ensemble(lab.ensemble))


def _list(session: Session, given: Given) -> None:
    session.front.show(views.ensemble(session.lab().ensemble))


def _combine(session: Session, given: Given) -> None:
    chosen = session.lab().combine(given.rule, given.weights)
    session.front.show(View(title=f"Combined by {chosen.describe()}"))


def _rule(session: Session, written: str) -> Any:
    # A rule's name, an import path, or the user's own function; a wrong name is for the lab to refuse.
    named = plain(written)
    looks_like_a_name = named.replace("-", "_").isidentifier() and named not in session.front.namespace
    if named in suggestions.RULES or _IMPORT_PATH.match(named) or looks_like_a_name:
        return named
    return session.front.evaluate(written)


# --- measure ---------------------------------------------------------------------------------------------------------


def _profile(session: Session, given: Given) -> Any:
    lab = session.lab()
    chosen = [name for part in given.names for name in part]
    options = {
        "shares": given.shares,
        "budget_s": given.budget,
        "point_timeout_s": given.timeout,
        "fresh": given.fresh or None,
        "adaptive": given.adaptive or None,
        "within": given.within,
    }
    job = lab.profile(chosen or None, **{key: value for key, value in options.items() if value is not None})
    if not given.wait and not session.front.updates_in_place:
        now = views.progress(job.snapshot())
        told = "It runs in the background: `%esen` shows how far it is, `%esen cancel` stops it."
        session.front.show(View(title=now.title, blocks=now.blocks[:1], notes=(told,)))
        return None
    ended = session.follow(job, lambda now: views.progress(now, lab.fit_so_far()))
    if not given.wait:
        return None
    try:
        while not ended.wait(0.1):
            pass
    except KeyboardInterrupt:
        if not session.front.updates_in_place:
            session.follower.close()
        raise
    found = job.result(timeout=5.0)
    session.front.mark_shown(found)
    return found


def _measurements(session: Session, given: Given) -> Any:
    found = session.lab().measurements
    if found is None:
        raise UsageError("Nothing has been measured yet", hint="`%esen profile` does it.")
    return _show(session, found, views.profile(found, _fitted(session.lab())))


def _fitted(lab: Any) -> Mapping[str, Any]:
    try:
        models: Mapping[str, Any] = lab.fit()
    except UsageError:  # some sub-model has no point yet: then the points alone are shown
        return {}
    return models


def _fit(session: Session, given: Given) -> None:
    lab = session.lab()
    session.front.show(views.cost_models(lab.fit(), lab.measurements))


# --- choose ----------------------------------------------------------------------------------------------------------


def _plan(session: Session, given: Given) -> Any:
    found = session.lab().plan
    if found is None:
        raise UsageError("There is no plan yet", hint="`%esen profile` and then `%esen search` make one.")
    return _show(session, found, views.plan(found))


def _share(session: Session, given: Given) -> Any:
    return _show_moved(session, share(session.lab(), given.shares))


def _tune(session: Session, given: Given) -> Any:
    lab = session.lab()
    state = tune(lab, given.words or [])
    view = views.tuning(state)
    if given.words or not session.front.updates_in_place:
        return _show(session, state, view)
    # The sliders come below a static output, which stays when kernel and widgets are gone; they have its picture.
    _show(session, state, View(title=view.title, blocks=view.blocks[:1], notes=view.notes))
    if not session.open_panel(lab.tune(), view):
        told = "There are sliders where ipywidgets is installed; `%esen share` and `%esen tune -h` do the same."
        session.front.show(View(notes=(told,)))
    return state


def _show_moved(session: Session, state: Any) -> Any:
    return _show(session, state, views.tuning(state))


# --- run -------------------------------------------------------------------------------------------------------------


def _run_ensemble(session: Session, given: Given) -> Any:
    lab = session.lab()
    output = lab.run(given.input, timeout_s=given.timeout)
    if lab.report is not None:
        session.front.show(views.report(lab.report))
    return output


def _compare(session: Session, given: Given) -> Any:
    lab = session.lab()
    plans = None if given.plans is None else {path: path for path in given.plans}
    options = {"rounds": given.rounds, "strategies": given.strategies, "plans": plans}
    asked = {key: value for key, value in options.items() if value is not None}
    return session.attend(
        "Comparing", lambda tell: lab.compare(given.input, on_progress=tell, **asked), views.comparison
    )


def _numerics(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.forget is not None:
        session.front.show(views.forgotten(lab.forget_wrong(given.forget), lab.device.identity.unit))
        return None
    asked = {} if given.runs is None else {"runs": given.runs}
    return session.attend(
        "Checking numerics", lambda tell: lab.check_numerics(given.input, on_progress=tell, **asked), views.numerics
    )


def _show_again(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.what not in _SHOWN:
        raise unknown(f"%esen show has no {given.what!r}", given.what, _SHOWN, f"It has {', '.join(_SHOWN)}.")
    find, draw = _SHOWN[given.what]
    found = find(lab)
    if found is None:
        raise UsageError(f"There is nothing to show yet for {given.what}", hint="`%esen` says what comes next.")
    view = views.profile(found, _fitted(lab)) if given.what == "profile" else draw(found)
    return _show(session, found, view)


_SHOWN: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], View]]] = {
    "lab": (lambda lab: lab.status(), views.status),
    "ensemble": (lambda lab: lab.ensemble, views.ensemble),
    "profile": (lambda lab: lab.measurements, views.profile),
    "plan": (lambda lab: lab.plan, views.plan),
    "tuning": (lambda lab: lab.tune().state, views.tuning),
    "search": (lambda lab: lab.tune().found, views.allocation),
    "report": (lambda lab: lab.report, views.report),
    "comparison": (lambda lab: lab.comparison, views.comparison),
    "numerics": (lambda lab: lab.numerics, views.numerics),
    "mechanisms": (lambda lab: lab.mechanisms, views.mechanisms),
}


def _shown(session: Session) -> tuple[str, ...]:
    return tuple(_SHOWN)


# --- keep ------------------------------------------------------------------------------------------------------------


def _save(session: Session, given: Given) -> None:
    session.front.show(View(title=f"Plan saved to {session.lab().save(given.path)}"))


def _record(session: Session, given: Given) -> None:
    path = session.lab().record(given.path)
    session.front.show(
        View(title=f"Latencies recorded in {path}", notes=(f"Elsewhere: `%esen device fake:{path}` plans with them.",))
    )


def _load(session: Session, given: Given) -> Any:
    found = session.lab().load(given.path)
    return _show(session, found, views.plan(found))


def _export(session: Session, given: Given) -> Any:
    made = session.lab().export(given.path)
    return _show(session, made, views.exported(made))


# --- the lab itself --------------------------------------------------------------------------------------------------


def _device(session: Session, given: Given) -> Any:
    name = " ".join(given.device)
    known = session.known_lab()
    if given.leave_gpu:
        session.front.show(views.left_gpu(session.lab().leave_gpu()))
    if name and known is not None:
        change = known.use_device(name)
        return _show(session, change, views.device_change(change))
    lab = session.lab(name or None)
    view = views.device(lab.device.identity.to_dict(), lab.device.notes)
    if not name and not given.leave_gpu:
        view = views.offers(lab.offers(), view)
    session.front.show(view)
    return None


def _watch(session: Session, given: Given) -> None:
    was_on = session.stop_watching()
    if given.stop:
        if not was_on:
            session.front.show(View(notes=("Nothing was being watched. `%esen watch` begins.",)))
        return
    watching = Watching(session.lab(), given.every or 0.5, given.history or 1800.0)
    if not session.front.updates_in_place:
        session.front.show(watching.table())
        watching.lab.unwatch()
        return
    plots = watching.open_plots()
    session.watching = watching
    session.front.show_widget(plots, watching.table())
    watching.keep_summary(session.front.live(View(notes=("A summary stays here after `%esen watch --stop`.",))))


def _close(session: Session, given: Given) -> None:
    session.stop_watching()
    lab = session.known_lab()
    if lab is not None:
        lab.close()
    told = ("Sub-models and plan are kept; the next run or profile starts workers again.",) if lab else ()
    session.front.show(View(title="Every worker and job has ended." if lab else "Nothing is open.", notes=told))


def _show_help(session: Session, given: Given) -> None:
    if given.verb is None:
        session.front.show(_overview())
        return
    table, magic = (CELL_VERBS, "%%esen") if given.verb in CELL_VERBS else (VERBS, "%esen")
    verb = table.get(given.verb)
    if verb is None:
        raise unknown(f"%esen has no verb {given.verb!r}", given.verb, VERBS, "`%esen help` lists them all.")
    session.front.show(_help(f"{magic} {given.verb}", verb))


def _verbs(session: Session) -> tuple[str, ...]:
    return tuple(VERBS)


def _help(prog: str, verb: Verb) -> View:
    epilog = f"example:\n  {verb.example}" if verb.example else ""
    told = parser(prog, verb.summary, verb.arguments, epilog=epilog).format_help().rstrip()
    return View(blocks=(Details(summary=prog, text=told, unfolded=True),))


def _overview() -> View:
    rows = [(f"%esen {name}".replace("%esen model", "%%esen model"), verb.summary) for name, verb in VERBS.items()]
    return View(
        title="%esen shares one device between the sub-models of an ensemble",
        blocks=(Table(rows=tuple(rows)),),
        notes=("`%esen VERB -h` tells what a verb takes. From Python: the same verbs are methods of `lab`.",),
    )


_NAME = Argument(name="name", metavar="NAME", read=text, help="the sub-model", suggest=suggestions.submodels)
_EXAMPLE = Argument(
    name="--example",
    metavar="EXPR",
    read=expression,
    suggest=suggestions.tensors,
    help="an input it takes: a tensor, a tuple by position, a dict by keyword (default: the first sub-model's)",
)
_PLAN_FILE = Argument(name="path", metavar="PATH", read=text, help="the plan's file, such as plan.json")


_INPUT = Argument(
    name="input",
    metavar="EXPR",
    read=expression,
    joined=True,
    suggest=suggestions.tensors,
    help="the batch: any Python expression",
)
_MODEL = Verb(
    summary="register the module that this cell builds; the cell's text is kept as its recipe",
    act=_model,
    arguments=(Argument(name="name", metavar="NAME", read=text, help="what to call it"), _EXAMPLE),
    example="%%esen model wide --example x",
)

CELL_VERBS: Mapping[str, Verb] = {"model": _MODEL}

VERBS: Mapping[str, Verb] = {
    "status": Verb(summary="where the lab stands, and the next sensible step", act=_status),
    "register": Verb(
        summary="add a module of the notebook, or replace the one of that name",
        act=_register,
        arguments=(
            Argument(
                name="module",
                metavar="NAME",
                read=word,
                suggest=suggestions.modules,
                help="a variable that holds a module or builds one, or package.module:factory",
            ),
            Argument(
                name="--as",
                key="as_name",
                metavar="NAME",
                read=text,
                help="what to call it (default: the variable's name)",
            ),
            _EXAMPLE,
        ),
        example="%esen register wide --example x",
    ),
    "model": Verb(summary=_MODEL.summary, act=_model_line, arguments=_MODEL.arguments, example=_MODEL.example),
    "unregister": Verb(summary="remove a sub-model", act=_unregister, arguments=(_NAME,)),
    "list": Verb(summary="the sub-models: parameters, memory, recipe, example", act=_list),
    "combine": Verb(
        summary="choose how the outputs become one",
        act=_combine,
        arguments=(
            Argument(
                name="rule",
                metavar="RULE",
                read=_rule,
                suggest=suggestions.rules,
                help=f"{', '.join(suggestions.RULES)}, a function, or package.module:function",
            ),
            Argument(
                name="--weights",
                metavar="EXPR",
                read=expression,
                help="for weighted: one number per sub-model, such as 0.5,0.3,0.2 or {'wide': 0.7, 'deep': 0.3}",
            ),
        ),
        example="%esen combine weighted --weights 0.5,0.3,0.2",
    ),
    "profile": Verb(
        summary="measure the sub-models at several shares, in the background",
        act=_profile,
        arguments=(
            Argument(
                name="names",
                metavar="NAME",
                read=names,
                count="*",
                suggest=suggestions.submodels,
                help="which sub-models (default: all)",
            ),
            Argument(name="--shares", metavar="1,2,4", read=whole_numbers, help="at how many units"),
            Argument(name="--budget", metavar="S", read=seconds, help="seconds for each point after its warm-up"),
            Argument(name="--timeout", metavar="S", read=seconds, help="give a point up after so many seconds"),
            Argument(name="--fresh", help="measure again what is stored"),
            Argument(
                name="--adaptive", help="measure only what the plan rests on, until no other point can change it much"
            ),
            Argument(
                name="--within", metavar="PERCENT", read=percent, help="with --adaptive: by how much (default: 2%)"
            ),
            Argument(name="--wait", help="stay in the cell until it is done"),
        ),
        example="%esen profile --shares 1,2,4 --wait",
        interrupted="Interrupted: no longer waiting. The profile goes on in the background; %esen cancel stops it.",
    ),
    "cancel": Verb(
        summary="stop the profile and the search that are running; what they have found is kept", act=choosing.cancel
    ),
    "measurements": Verb(summary="the points measured so far", act=_measurements),
    "fit": Verb(summary="the cost models: latency against share, with their error", act=_fit),
    "search": Verb(
        summary="find a plan from the measured points: the first answer at once, the proof in the background",
        act=choosing.search,
        arguments=choosing.SEARCH,
        example="%esen search --pin wide=2 --apart wide,deep --lanes 3",
        interrupted="Interrupted: the search has ended before it had a plan. The plan in force stays.",
    ),
    "refine": Verb(
        summary="run the plan, correct its predictions by what it took, search again; up to four times",
        act=choosing.refine,
        arguments=choosing.REFINE,
        example="%esen refine x --rounds 3",
        interrupted="Interrupted before the first plan was measured. The plan in force stays.",
    ),
    "mechanisms": Verb(
        summary="run each sub-model of the plan eagerly, compiled or as a CUDA graph: what is fastest at its share",
        act=choosing.mechanisms,
        arguments=choosing.MECHANISMS,
        example="%esen mechanisms --only eager,compile",
        interrupted="Interrupted: nothing was chosen. The plan in force stays.",
    ),
    "members": Verb(
        summary="which members at all: accuracy on validation data against JCT; any point can be the plan",
        act=choosing.members,
        arguments=choosing.MEMBERS,
        example="%esen members x x --take 1",
    ),
    "place": Verb(
        summary="spread the sub-models over several devices, alike or not (planned, not run)",
        act=choosing.place,
        arguments=choosing.PLACE,
        example="%esen place 2",
    ),
    "cascade": Verb(
        summary="ask some members first, the others only while the answer is not sure (planned, not run)",
        act=choosing.cascade,
        arguments=choosing.CASCADE,
        example="%esen cascade x x --threshold 0.9",
    ),
    "plan": Verb(summary="the plan in force", act=_plan),
    "share": Verb(
        summary="set shares of the draft that %esen tune shows, pin or free them; predicts, runs nothing",
        act=_share,
        arguments=(
            Argument(
                name="shares",
                metavar="LANE=SHARE",
                read=read_share,
                count="+",
                suggest=suggestions.lanes,
                help="LANE is a sub-model in it or its number; SHARE is 30, 25%, pin:20, pin (as it is) or unpin",
            ),
        ),
        example="%esen share wide=pin:3",
    ),
    "tune": Verb(
        summary="tune a plan by hand: what it predicts; with a word, one step",
        act=_tune,
        arguments=(
            Argument(
                name="words",
                metavar="STEP",
                read=text,
                count="*",
                suggest=suggestions.tuning_steps,
                help="propose [SEARCHER], apply, measure, undo, redo, reset, cancel, save PATH, export PATH, "
                "move NAME LANE, move NAME (to a lane of its own), split NAME ..., merge LANE LANE ..., "
                "oversubscribe on, oversubscribe off",
            ),
        ),
        example="%esen tune",
        interrupted="Interrupted. What was being applied or measured may be half done; the plan in force is whole.",
    ),
    "run": Verb(
        summary="run the ensemble on one batch under the plan; its value is the combined output",
        act=_run_ensemble,
        arguments=(
            _INPUT,
            Argument(name="--timeout", metavar="S", read=seconds, help="give up after so many seconds"),
        ),
        example="y = %esen run x",
        interrupted="Interrupted: this run has no output. The lab stays usable; broken lanes start afresh.",
    ),
    "compare": Verb(
        summary="the plan against the usual ways to run an ensemble, in the same rounds",
        act=_compare,
        arguments=(
            _INPUT,
            Argument(name="--rounds", metavar="N", read=whole_number, help="how many rounds"),
            Argument(
                name="--strategies",
                metavar="A,B",
                read=names,
                suggest=suggestions.strategies,
                help=f"which of {', '.join(suggestions.STRATEGIES)} (default: all)",
            ),
            Argument(name="--plans", metavar="FILE,FILE", read=names, help="saved plans to compare with as well"),
        ),
        example="%esen compare x --rounds 50 --strategies sequential,equal",
        interrupted="Interrupted: nothing was compared. The lab stays usable.",
    ),
    "numerics": Verb(
        summary="whether every sub-model answers at its share as it does on the whole device, all lanes at work",
        act=_numerics,
        arguments=(
            replace(_INPUT, count="*", help=f"{_INPUT.help} (default: the example)"),
            Argument(
                name="--runs",
                metavar="N",
                read=whole_number,
                help="how many runs are compared (default: 5); what is wrong may be wrong only now and then",
            ),
            Argument(
                name="--forget",
                metavar="A,B",
                read=names,
                suggest=suggestions.submodels,
                help="check nothing: let searches use the shares again at which these were found wrong",
            ),
        ),
        example="%esen numerics x --runs 20",
        interrupted="Interrupted: nothing was judged. The lab stays usable; broken lanes start afresh.",
    ),
    "show": Verb(
        summary="show again what there is",
        act=_show_again,
        arguments=(
            Argument(
                name="what",
                metavar="WHAT",
                read=text,
                suggest=_shown,
                help=f"{', '.join(_SHOWN)}; search is the history of the last `%esen tune propose`",
            ),
        ),
        example="%esen show ensemble",
    ),
    "save": Verb(summary="write the plan as JSON", act=_save, arguments=(_PLAN_FILE,), example="%esen save plan.json"),
    "load": Verb(
        summary="read a plan; it is put in force", act=_load, arguments=(_PLAN_FILE,), example="%esen load plan.json"
    ),
    "record": Verb(
        summary="write the measured latencies, to plan for this device on another machine",
        act=_record,
        arguments=(Argument(name="path", metavar="PATH", read=text, help="the file, such as h100.json"),),
        example="%esen record h100.json",
    ),
    "export": Verb(
        summary="write the plan as a script that runs without Jupyter",
        act=_export,
        arguments=(Argument(name="path", metavar="PATH", read=text, help="the script, such as plan.py"),),
        example="%esen export plan.py",
    ),
    "watch": Verb(
        summary="live plots of utilization, memory and what each worker takes",
        act=_watch,
        arguments=(
            Argument(
                name="--every", metavar="SECONDS", read=seconds, help="how far samples are apart (default: 500ms)"
            ),
            Argument(name="--history", metavar="SECONDS", read=seconds, help="how much is kept (default: 1800)"),
            Argument(name="--stop", help="end the plots; a summary stays"),
        ),
        example="%esen watch --every 250ms",
        interrupted="Interrupted. Nothing is being watched.",
    ),
    "device": Verb(
        summary="what this machine could share; with a name, go on with that device",
        act=_device,
        arguments=(
            Argument(
                name="device",
                metavar="NAME",
                read=text,
                count="*",
                suggest=suggestions.devices,
                help="cpu, cuda:0 mps, cuda:0 mps adopt (a daemon that runs already), fake:FILE; "
                "measurements of it come from the store, a plan for another device is put away",
            ),
            Argument(
                name="--leave-gpu",
                help="move the notebook's own registered modules off the GPU, where they would disturb lanes",
            ),
        ),
        example="%esen device cuda:0 mps",
    ),
    "close": Verb(summary="end every worker and job; sub-models and plan are kept", act=_close),
    "stop": Verb(summary="the same as close", act=_close),
    "help": Verb(
        summary="this list, or what a verb takes",
        act=_show_help,
        arguments=(
            Argument(
                name="verb",
                metavar="VERB",
                read=text,
                count="?",
                suggest=_verbs,
                help="a verb",
            ),
        ),
    ),
}
