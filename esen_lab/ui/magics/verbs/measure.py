"""The verbs that measure: profiles and the models fitted to them, and live plots of the device."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import Argument, names, percentage, seconds, whole_numbers
from esen_lab.ui.magics.verbs.verb import Given, Verb, options, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View
from esen_lab.ui.widgets.watching import APART_S, SECOND_S, Watching


def _profile(session: Session, given: Given) -> Any:
    if given.within is not None and not given.adaptive:
        raise UsageError("--within says when an adaptive profile ends", given="no --adaptive", hint="Add --adaptive.")
    lab = session.lab()
    chosen = [name for part in given.names for name in part]
    if given.names and not chosen:  # an empty list of the notebook is no wish to measure all
        raise UsageError("Sub-models are measured by their names, or all of them without one", given="no name")
    job = lab.profile(
        chosen or None,
        **options(
            shares=given.shares,
            budget_s=given.budget,
            point_timeout_s=given.timeout,
            fresh=given.fresh or None,
            adaptive=given.adaptive or None,
            within=given.within,
            backends=given.backends,
            groups=given.groups or None,
            parts=given.parts or None,
        ),
    )
    if not given.wait and not session.front.updates_in_place:
        now = views.progress(job.snapshot())
        note = "It runs in the background: `%esen` shows how far it is, `%esen cancel` stops it."
        session.front.show(View(title=now.title, blocks=now.blocks[:1], notes=(note,)))
        return None
    ended = session.follow(job, lambda now: views.progress(now, lab.points.fit_so_far(), lab.device.identity.unit))
    if not given.wait:
        return None
    try:
        while not ended.wait(0.1):
            pass
    except KeyboardInterrupt:
        if not session.front.updates_in_place:
            session.follower.close()
        raise
    profile = job.result(timeout=5.0)
    session.front.mark_shown(profile)
    return profile


PROFILE = Verb(
    "measure the sub-models at several shares, in the background",
    _profile,
    (
        Argument("names", "which sub-models (default: all)", names, "NAME", count="*", suggest=suggestions.submodels),
        Argument("--shares", "at how many units", whole_numbers, "1,2,4"),
        Argument("--budget", "seconds for each point after its warm-up", seconds),
        Argument("--timeout", "give a point up after so many seconds", seconds, option="point_timeout_s"),
        Argument("--fresh", "measure again what is stored"),
        Argument("--adaptive", "measure only what the plan rests on, until no other point can change it much"),
        Argument("--within", "with --adaptive: by how much (default: 2%)", percentage(), "PERCENT"),
        Argument(
            "--backends",
            "which to try besides eager: of openvino, onnxruntime, ...; eager for no other (default: all)",
            names,
            "NAME,...",
            suggest=suggestions.backends,
        ),
        Argument("--groups", "measure equal networks as one call of torch.func too: searches use it"),
        Argument("--parts", "measure parts of the batch of the heaviest sub-models too: searches use it"),
        Argument("--wait", "stay in the cell until it is done"),
    ),
    example="%esen profile --shares 1,2,4 --wait",
    interrupted="Interrupted: no longer waiting. What began goes on in the background; `%esen cancel` stops it.",
)


CANCEL_S = 10.0  # for so long a job that was cancelled is waited for


def _cancel(session: Session, given: Given) -> None:
    lab = session.known_lab()
    jobs = [
        (lab.job if lab else None, "Points that were finished stay in the store."),
        (lab.search_job if lab else None, "The best plan found until now stays."),
    ]
    running = [(job, note) for job, note in jobs if job is not None and not job.done]
    if not running:
        raise UsageError(
            "A job that is cancelled is running",
            given="no profile and no search that is",
            hint="`%esen` says where the lab stands.",
        )
    for job, _ in running:
        job.cancel()
    for job, _ in running:
        job.wait(CANCEL_S)  # the next cell may be the next profile
    session.front.show(View(title="Cancelled.", notes=tuple(note for _, note in running)))


CANCEL = Verb(
    "stop the profile and the search that are running; what they have found is kept",
    _cancel,
    example="%esen cancel",
    interrupted="Interrupted: no longer waiting. What was told to stop ends by itself; `%esen` shows what still runs.",
)


def _measurements(session: Session, given: Given) -> Any:
    profile = session.lab().measurements
    if profile is None:
        raise UsageError(
            "Points are shown once there are some", given="none yet", hint="`%esen profile` measures them."
        )
    return show(session, profile, profile_view(session.lab(), profile))


def profile_view(lab: Any, profile: Any) -> View:
    """The points of a profile, with the models fitted to them where every sub-model has a point."""
    try:
        models: Mapping[str, Any] = lab.points.fit()
    except UsageError:
        models = {}
    view = views.profile(profile, models)
    if not lab.points.derived:
        return view
    note = f"Groups and parts were measured besides, and searches use them: {', '.join(lab.points.derived)}."
    return View(title=view.title, blocks=view.blocks, notes=(*view.notes, note))


MEASUREMENTS = Verb("the points measured so far", _measurements, example="%esen measurements")


def _fit(session: Session, given: Given) -> None:
    lab = session.lab()
    session.front.show(views.cost_models(lab.points.fit(), lab.measurements))


FIT = Verb("the cost models: latency against share, with their error", _fit, example="%esen fit")


def _watch(session: Session, given: Given) -> None:
    if given.stop and (given.every is not None or given.history is not None):
        raise UsageError("--stop ends the plots", given="--every or --history besides", hint="Leave them out.")
    was_on = session.stop_watching()
    if given.stop:
        if not was_on:
            session.front.show(View(notes=("Nothing was being watched. `%esen watch` begins.",)))
        return
    plotted = session.front.updates_in_place
    every_s = given.every or 0.5
    watching = Watching(session.lab(), every_s if plotted else min(every_s, APART_S), given.history or 1800.0)
    session.watching = watching  # from here on whoever interrupts finds it
    try:
        if plotted:
            plots = watching.open_plots()
            watching.keep(session.front.show_widget(plots, watching.table(), "the device was being watched"))
            return
        now = watching.table(SECOND_S)
    except ImportError:
        now = watching.table(SECOND_S)
        now = replace(now, notes=(*now.notes, _NO_PLOTS))
    except BaseException:
        session.stop_watching()
        raise
    session.stop_watching()
    session.front.show(now)


_NO_PLOTS = "Live plots need anywidget and bokeh: `pip install 'esen_lab[notebook]'`, then restart the kernel."


WATCH = Verb(
    "live plots of utilization, memory and what each worker takes",
    _watch,
    (
        Argument("--every", "how far samples are apart (default: 500ms)", seconds, "SECONDS"),
        Argument("--history", "how much is kept (default: 1800)", seconds, "SECONDS"),
        Argument("--stop", "end the plots; a summary stays"),
    ),
    example="%esen watch --every 250ms",
    interrupted="Interrupted: plots that had begun may go on; `%esen watch --stop` ends them.",
)
