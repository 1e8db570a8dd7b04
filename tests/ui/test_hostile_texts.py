"""Hostile text in every field of every record and file: no view, picture, slider, terminal or script obeys it."""

from __future__ import annotations

import ast
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_lab import (
    IDENTITY,
    FakeLab,
    a_cluster,
    a_comparison,
    a_load_table,
    a_plan,
    a_rate_plan,
    a_refinement,
    a_report,
    a_repository,
    a_verdict,
    failed_point,
    point,
    progress,
    some_backends,
    some_precision,
)
from hostile import EVIL, MARKUP, STEERING, check_html, check_svg, check_text, evil
from past import a_profile, an_entry
from torch import nn

from esen_lab.cli import main
from esen_lab.cost_model import fit_points
from esen_lab.devices import FakeDevice
from esen_lab.devices.telemetry import Channel
from esen_lab.ensemble import Ensemble, make_submodel
from esen_lab.errors import EsenError
from esen_lab.export import Exported, load_bundle
from esen_lab.export.bundle_files import bundle_files
from esen_lab.export.ray_serve import RayServeApplication
from esen_lab.export.script import script_text
from esen_lab.history import Past, changes
from esen_lab.lab import Action, DeviceChange, NextStep
from esen_lab.lab.lab_status import Status
from esen_lab.planner import allocate
from esen_lab.planner.editor.editor_state import EditorState, Measurement
from esen_lab.planner.plan import Plan
from esen_lab.profiler.progress import JobState
from esen_lab.profiler.records import Profile
from esen_lab.profiler.store import PointKey, ProfileStore
from esen_lab.serving.status import ServerStatus
from esen_lab.studies.placement import DeviceTables
from esen_lab.studies.replicas import replicate
from esen_lab.studies.thresholds import ThresholdState
from esen_lab.ui import views
from esen_lab.ui.html import bundle, html_of, text_of
from esen_lab.ui.magics.magics import _TerminalLive
from esen_lab.ui.panel.messages import plain
from esen_lab.ui.panel.sections import _comparison, _plan
from esen_lab.ui.pictures import draw
from esen_lab.ui.widgets.reading_columns import mark_text, plot_text

LAB = FakeLab()


def _state(**known: Any) -> EditorState:
    from dataclasses import replace

    lab = FakeLab()
    made = lab.tune()
    made.split("deep")
    return replace(made.state, **known)


def _ensemble() -> Ensemble:
    made = [make_submodel(name, nn.Linear(4, 2).eval(), torch.ones(2, 4)) for name in ("a", "b")]
    return Ensemble(submodels=tuple(made))


def _status(plan: Plan | None) -> Status:
    row = {"name": "a", "class": "Linear", "parameters": 3, "memory_bytes": 12, "recipe": "live", "example": "float32"}
    return Status(
        device=IDENTITY,
        device_notes=("cannot pin",),
        submodels=({**row, "fingerprint": "0", "notes": ["remark"]},),
        combine="mean",
        profiled={"a": 2},
        job="half way",
        plan=plan,
        running=True,
        next_step=NextStep(action=Action.SEARCH, why="there is no plan"),
    )


MEASURED = Measurement(median_s=0.004, spread_s=0.0001, repeats=5, predicted_s=0.004, lanes="2: a")
RECORDS: dict[str, Any] = {
    "load": a_load_table(),
    "rate": a_rate_plan(),
    "repository": a_repository(),
    "plan": a_plan(left_out=("x",), combine="mean", example="float32", created_at="2026"),
    "past": Past(
        project="p",
        entries=(an_entry(number=1), an_entry(number=2, code="c2"), a_profile(number=3)),
        others={"q": 1},
        notes=("n",),
    ),
    "entry": an_entry(load=0.5),
    "entry of a profile": a_profile(),
    "two entries": changes(an_entry(number=1), an_entry(0.002, number=2, code="c2")),
    "plan over devices": a_plan(left_out=("x",), searcher="placement"),
    "report": a_report(nan=("deep",), notes=("a note",)),
    "comparison": a_comparison(),
    "verdict": a_verdict(),
    "wrong verdict": a_verdict(0.5),
    "unsteady verdict": a_verdict(0.5, repeats=False),
    "backends": some_backends(),
    "precision": some_precision(),
    "profile": Profile(device=IDENTITY, units=4, points=(point(), point(units=2)), failures=(failed_point(),)),
    "job": progress(failures=(failed_point(),), notes=("a note",)),
    "finished job": progress(JobState.FINISHED, notes=("a note",)),
    "failed job": progress(JobState.FAILED, message="why"),
    "cost model": fit_points("wide", {1: 0.004, 2: 0.0022, 4: 0.002}, 4),
    "allocation": allocate({"a": [0.004, 0.002], "b": [0.003, 0.002]}, units=2),
    "refined": a_refinement(),
    "front": LAB.members(None, None),
    "placement": LAB.place(None),
    "replication": replicate(
        [DeviceTables(name=name, units=1, latencies={"a": [1.0]}) for name in ("n1", "n2")], rate_per_s=0.5
    ),
    "cascade": LAB.cascade(None),
    "thresholds": ThresholdState(thresholds=(0.5,), cascade=LAB.cascade(None), message="why"),
    "status": _status(a_plan()),
    "status without a plan": _status(None),
    "device change": DeviceChange(
        before=IDENTITY,
        after={**IDENTITY, "kind": "b"},
        device_notes=("n",),
        profiled={"a": 1},
        plan=a_plan(),
        put_away=a_plan(),
        notes=("m",),
    ),
    "tuning": _state(measured=MEASURED, message="said"),
    "failed tuning": _state(failed=True, message="why"),
    "ensemble": _ensemble(),
    "sub-model": _ensemble().submodels[0],
    "server": ServerStatus(name="m", url="u", state="s", joins=False, why_alone="w", failed={"busy": 1}),
    "cluster": a_cluster(),
    "application": RayServeApplication(folder=Path("f"), name="m", units=2, files=(Path("f/app.py"),)),
    "export": Exported(
        script=Path("plan.py"), folder=Path("plan_files"), files=(Path("plan.py"), Path("plan_files/x"))
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_no_field_of_a_record_makes_markup_or_steers_a_terminal(name: str) -> None:
    record = evil(RECORDS[name])
    made = html_of(record)
    check_html(made)
    assert "&lt;img src=x onerror=" in made
    told = text_of(record)
    check_text(told)
    assert "\\x1b]8;;http:" in told
    if type(record).__str__ is not object.__str__ and "__str__" in vars(type(record)):
        check_text(str(record))
    check_text(repr(record))


def test_every_record_that_is_shown_is_driven_through() -> None:
    driven = {f"{type(record).__module__}.{type(record).__qualname__}" for record in RECORDS.values()}
    jobs_and_labs = {  # shown by the records above
        "esen_lab.lab.lab.Lab",
        "esen_lab.profiler.job.ProfileJob",
        "esen_lab.studies.adaptive_profiling.AdaptiveProfileJob",
        "esen_lab.planner.search_job.SearchJob",
        "esen_lab.planner.editor.editor.PlanEditor",
        "esen_lab.serving.server.Server",
    }
    assert set(views.RECORDS) - driven == jobs_and_labs


def test_other_views_make_no_markup_either() -> None:
    job = SimpleNamespace(title=EVIL, error=ValueError(EVIL), done=True, cancelled=False, best=None, trace=())
    reached = SimpleNamespace(
        evaluations=1, elapsed_s=1.0, jct_s=None, bound_s=None, message=EVIL, proven=False, kept=None
    )
    for view in (
        views.searching(reached, job),
        views.offers(evil(LAB.offers()), views.View()),
        views.forgotten({EVIL: (1,)}, EVIL),
        views.left_gpu((EVIL,)),
        views.View(blocks=(views.failure(evil(failed_point())),)),
        views.exported(evil(RECORDS["export"])),
        views.device(evil(IDENTITY), (EVIL,), ((EVIL, EVIL),)),
    ):
        shown = bundle(view)
        check_html(shown["text/html"])
        check_text(shown["text/plain"])


def test_no_picture_obeys_a_name() -> None:
    for picture in (
        views.editor_picture(evil(_state())),
        *(block for record in RECORDS.values() for block in _pictures(evil(record))),
    ):
        check_svg(draw(picture))


def _pictures(record: Any) -> Iterator[Any]:
    from esen_lab.ui.pictures import _DRAW

    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(record).__mro__]
    view = next(views.RECORDS[name] for name in names if name in views.RECORDS)(record)
    return (block for block in view.blocks if type(block) in _DRAW)


@pytest.mark.parametrize(
    "state",
    [_state(measured=MEASURED), _state(failed=True, message="why"), _state(oversubscribe=True)],
    ids=["measured", "failed", "over"],
)
def test_no_slider_makes_markup_of_a_name_or_a_unit(state: EditorState) -> None:
    widgets = pytest.importorskip("ipywidgets")
    from esen_lab.ui.widgets.sliders import SliderPanel

    state = evil(state)
    acts = dict.fromkeys(("propose", "cancel", "undo", "redo", "reset", "apply", "measure"), lambda: None)
    panel = SliderPanel(SimpleNamespace(state=state, listen=lambda show: lambda: None, **acts))  # type: ignore[arg-type]
    seen = 0
    todo = [panel.box]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        if isinstance(widget, (widgets.HTML, widgets.HTMLMath)):
            seen += 1
            check_html(widget.value)
        for trait in ("description", "tooltip"):
            check_text(getattr(widget, trait, None) or "")
        assert not getattr(widget, "description_allow_html", False)
    assert seen >= 5
    panel._refused(EsenError(EVIL), None)
    check_html(panel.why.value)
    panel.close()


def test_the_board_gets_texts_that_are_plain() -> None:
    from esen_lab.planner.editor import Offered, PastPlan
    from esen_lab.ui.widgets.board_view import models_data, view_data

    state = evil(_state(measured=MEASURED))
    lanes = ((1, (EVIL,)),)
    past = PastPlan(number=1, lanes=lanes, described=EVIL, predicted_s=1.0, measured_s=None, in_force=False)
    offered = Offered(number=0, members=(EVIL,), jct_s=1.0, accuracy=0.5, in_force=False)
    editor = SimpleNamespace(ran=lambda: None, past=(past,), offered=(offered,))
    shown = view_data(editor, state)  # type: ignore[arg-type]
    known = models_data({EVIL: fit_points("a", {1: 1.0}, 1)}, 1, EVIL)
    told = [*shown["notes"], shown["measured"], shown["past"][0]["described"], shown["offered"][0]["members"]]
    for text in (*told, shown["stuck"], known["unit"], known["models"][0]["label"]):
        check_text(text)
    # The page has the names themselves only to compare and to send back; what it writes is text nodes and attributes.


def test_plain_text_that_reaches_a_widget_is_escaped() -> None:
    pytest.importorskip("ipywidgets")
    from esen_lab.ui.widgets.panel import Shows

    shown = Shows()
    shown.show(EVIL)
    check_html(shown.value)
    assert "&lt;img" in shown.value
    shown.close()


def test_a_live_line_of_a_terminal_is_steered_by_us_alone(capsys: pytest.CaptureFixture[str]) -> None:
    live = _TerminalLive()
    live.update(views.progress(evil(progress())))
    live.update(views.progress(evil(progress(JobState.FINISHED))), last=True)
    for line in capsys.readouterr().out.split("\r\x1b[K"):
        check_text(line)


def test_plots_typeset_nothing_of_a_label() -> None:
    for text in (plot_text(EVIL), mark_text(EVIL, "begin"), plot_text("a $$x$$ \\(y\\) \\[z\\] $$$")):
        check_text(text)
        assert not any(sign in text for sign in ("$$", "\\(", "\\[", "\\)", "\\]"))
    assert plot_text("costs $5 (net)") == "costs $5 (net)"


def test_plots_get_labels_that_are_plain() -> None:
    from fake_lab import FakeMeter, MarkLog, Sampler

    from esen_lab.ui.widgets.reading_columns import PlotReadings

    marks = MarkLog()
    marks.add(EVIL, "begin")
    found = PlotReadings(Sampler(FakeMeter(Channel(key="cpu", label=EVIL, unit="%", group=EVIL))), marks).whole()
    for text in (found.channels[0][1], found.channels[0][3], *found.marks["what"], found.said):
        check_text(text)
        assert "$$" not in text


def test_the_panel_is_sent_text_that_can_be_sent_and_steers_nothing() -> None:
    lab = FakeLab()
    lab.plan, lab.comparison = evil(a_plan()), evil(a_comparison())
    plan = evil(a_plan())
    made = plain(
        {"plan": _plan(SimpleNamespace(**vars(lab), **_OF_A_LAB), plan), "comparison": _comparison(lab.comparison)}
    )
    sent = json.dumps(made, ensure_ascii=False)
    sent.encode("utf-8")
    check_text(sent)
    assert "\\\\x1b]8;;" in sent


_OF_A_LAB: dict[str, Any] = {
    "state": SimpleNamespace(measured_s=None),
    "lanes": SimpleNamespace(in_force=lambda: (), unlike=(EVIL,)),
    "points": SimpleNamespace(wrong_answers=lambda plan: (EVIL,)),
}


# --- files ------------------------------------------------------------------------------------------------------------


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every text in JSON data, values and keys."""
    if isinstance(data, str):
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in items:
        yield from _leaves(inner, (*path, key))
        if isinstance(key, str):
            yield (*path, f"key:{key}")


def _with(data: Any, path: tuple[Any, ...]) -> Any:
    """The same data with hostile text in that place."""
    made = json.loads(json.dumps(data))
    if not path:
        return EVIL
    here = made
    for key in path[:-1]:
        here = here[key]
    last = path[-1]
    if isinstance(last, str) and last.startswith("key:"):
        here[EVIL] = here.pop(last.removeprefix("key:"))
    else:
        here[last] = EVIL
    return made


PLAN = a_plan(
    left_out=("x",), combine="mean", example="float32", created_at="2026", fingerprints={"wide": "0"}
).to_dict()


@pytest.mark.parametrize("path", list(_leaves(PLAN)), ids=lambda path: ".".join(map(str, path)))
def test_no_field_of_a_plan_file_is_obeyed(path: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(_with(PLAN, path)))
    try:
        plan = Plan.load(tmp_path / "plan.json")
    except EsenError as problem:
        check_text(str(problem))
        return
    check_html(html_of(plan))
    check_text(text_of(plan))
    check_text(str(plan))
    check_text(repr(plan))


RECORDED = {"name": "NVIDIA A100", "units": 4, "unit": "percent", "latency_s": {"wide": {"1": 0.004, "4": 0.001}}}


@pytest.mark.parametrize("path", list(_leaves(RECORDED)), ids=lambda path: ".".join(map(str, path)))
def test_no_field_of_recorded_latencies_is_obeyed(path: tuple[Any, ...], tmp_path: Path) -> None:
    file = tmp_path / "recorded.json"
    file.write_text(json.dumps(_with(RECORDED, path)))
    try:
        device = FakeDevice.load(file)
    except EsenError as problem:
        check_text(str(problem))
        return
    identity = device.identity
    plan = a_plan(device=identity.to_dict())
    for record in (plan, _status(plan)):
        check_html(html_of(record))
        check_text(text_of(record))
    shown = bundle(views.device(identity.to_dict(), device.notes))
    check_html(shown["text/html"])
    check_text(shown["text/plain"])


@pytest.mark.parametrize("column", ["name", "measured_at", "readings"])
def test_no_field_of_a_profile_store_is_obeyed(column: str, tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles.sqlite3")
    key = PointKey(fingerprint="f", example="e", device="{}", versions="v", units=1)
    store.put(key, point())
    evil = EVIL.replace("\ud800", "")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        text = json.dumps({evil: 1.0}) if column == "readings" else evil
        connection.execute(f"UPDATE points SET {column} = ?", (text,))
    found = store.get(key)
    if found is None:  # refused as it was read
        return
    profile = Profile(device=IDENTITY, units=4, points=(found,))
    check_html(html_of(profile))
    check_text(text_of(profile))
    check_text(str(profile))


def test_no_field_of_an_exported_folder_is_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hashlib import blake2b

    ensemble = _ensemble()
    from esen_lab.planner.plan import Lane

    plan = Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1, fingerprints=ensemble.fingerprints, notes=("n",))
    files = bundle_files(plan, ensemble)
    manifest = json.loads(files.pop("bundle.json"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    places = [("bundle.json", manifest, path) for path in _leaves(manifest)]
    places += [
        (n, json.loads(files[n]), p) for n in ("plan.json", "submodel_00.json") for p in _leaves(json.loads(files[n]))
    ]
    assert len(places) > 60
    for name, data, path in places:
        changed = json.dumps(_with(data, path)).encode()
        now = changed
        if name != "bundle.json":
            (folder / name).write_bytes(changed)
            manifest["files"][name] = blake2b(changed, digest_size=16).hexdigest()
            now = json.dumps(manifest).encode()
        (folder / "bundle.json").write_bytes(now)
        with pytest.raises(EsenError) as refused:
            load_bundle(folder)
        check_text(str(refused.value))
        assert "\n" not in "".join(getattr(refused.value, "runs", ()))
        assert main(["run", str(folder)]) == 1
        check_text(capsys.readouterr().err)
        try:
            _, found = load_bundle(folder, trust=True)
        except EsenError as problem:
            check_text(str(problem))
        else:
            check_html(html_of(found))
            check_text(text_of(found))
            check_text(str(found))
        if name != "bundle.json":
            (folder / name).write_bytes(files[name])
            manifest["files"][name] = blake2b(files[name], digest_size=16).hexdigest()


@pytest.mark.parametrize("text", [EVIL, MARKUP, STEERING, '"""\nimport os\n', "'\nimport os\n#", "\\", "{mark}", "%s"])
def test_an_exported_script_holds_text_as_values_alone(text: str) -> None:
    usual = ast.parse(script_text(stem="plan", folder="f", device="cpu", digest="0"))
    made = script_text(stem=text, folder=text, device=text, digest=text)
    made.encode("ascii")
    check_text(made)
    found = ast.parse(made)
    assert len(found.body) == len(usual.body)
    values = {
        n.targets[0].id: n.value for n in found.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    assert ast.literal_eval(values["DEVICE"]) == ast.literal_eval(values["DIGEST"]) == text
    for name in ("DEVICE", "DIGEST", "FILES"):
        values.pop(name)
    assert not values


def test_the_command_line_shows_hostile_names_and_obeys_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = (MARKUP + STEERING).replace("\0", "").replace("/", "").replace("\ud800", "")
    monkeypatch.setattr(sys, "argv", [name])
    assert main(["run", str(tmp_path / name)]) == 1
    assert main(["doctor", "--device", name]) == 2
    assert main(["doctor", "--device", f"fake:{tmp_path / name}"]) == 1
    told = capsys.readouterr()
    check_text(told.err)
    check_text(told.out)
