from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_front import FakeFront
from fake_lab import FakeJob, FakeLab

from esen_lab.errors import Cancelled, EsenError, UsageError
from esen_lab.ui import views
from esen_lab.ui.html import to_text
from esen_lab.ui.magics.lines import interrupted, run_cell, run_line
from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS
from esen_lab.ui.magics.verbs.verb import Verb
from esen_lab.ui.session import Session

CALLS = [
    ("register wide --example x", ("register", "wide", "a module", [1, 2])),
    ("register wide --as deep", ("register", "deep", "a module", None)),
    ("register my.nets:build", ("register", "build", "my.nets:build", None)),
    ('register "wide + wide" --as both', ("register", "both", "a modulea module", None)),
    ("register models/small.onnx", ("register", "small", Path("models/small.onnx"), None)),
    ("register 'a net.pt' --as a", ("register", "a", Path("a net.pt"), None)),
    (
        "register small.onnx --outputs logits,scores",
        ("register", "small", Path("small.onnx"), None, {"outputs": ["logits", "scores"]}),
    ),
    ("register wide --method predict", ("register", "wide", "a module", None, {"method": "predict"})),
    ("combine softmax-mean", ("combine", "softmax-mean", None)),
    ("combine weighted --weights 0.5,0.3", ("combine", "weighted", (0.5, 0.3))),
    ("combine my.rules:best", ("combine", "my.rules:best", None)),
    ("combine max", ("combine", "max", None)),
    ("combine wide", ("combine", "a module", None)),
    ("profile", ("profile", None, {})),
    (
        "profile wide,deep slim --shares 1,2 --budget 500ms --timeout 9 --fresh",
        (
            "profile",
            ["wide", "deep", "slim"],
            {"shares": [1, 2], "budget_s": 0.5, "point_timeout_s": 9.0, "fresh": True},
        ),
    ),
    ("search", ("start_search", "exact", {})),
    ("search --deadline 50ms", ("start_search", "exact", {"deadline_s": 0.05})),
    (
        "search --searcher optuna --trials 9 --seed 1 --time-limit 2s --option sampler='tpe'",
        ("start_search", "optuna", {"n_trials": 9, "seed": 1, "time_limit_s": 2.0, "sampler": "tpe"}),
    ),
    ("run x + [3] --timeout 4", ("run", [1, 2, 3], 4.0)),
    (
        "run x --deadline 50ms --at-least 3 --otherwise first --leave-out --stop-early decided --uncertainty",
        (
            "run",
            [1, 2],
            None,
            {
                "deadline_s": 0.05,
                "at_least": 3,
                "otherwise": "first",
                "on_failure": "leave-out",
                "stop_early": "decided",
                "uncertainty": True,
            },
        ),
    ),
    ("run x --stop-early 95%", ("run", [1, 2], None, {"stop_early": 0.95})),
    (
        "compare x --rounds 3 --strategies equal,threads",
        ("compare", [1, 2], {"rounds": 3, "strategies": ["equal", "threads"]}),
    ),
    (
        "compare x --peers none",
        ("compare", [1, 2], {"peers": "none"}),
    ),
    (
        "compare x --peers inductor,openvino-async",
        ("compare", [1, 2], {"peers": ["inductor", "openvino-async"]}),
    ),
    (
        "compare x --plans plan.json,old/plan.json",
        ("compare", [1, 2], {"plans": {"plan.json": "plan.json", "old/plan.json": "old/plan.json"}}),
    ),
    ("numerics", ("check_numerics", None, {})),
    ("numerics x + [3] --runs 7", ("check_numerics", [1, 2, 3], {"runs": 7})),
    ("numerics --forget a,b", ("forget_wrong", ["a", "b"])),
    ("profile --backends openvino,onnxruntime", ("profile", None, {"backends": ["openvino", "onnxruntime"]})),
    ("backends", ("choose_backends", {})),
    (
        "backends --only eager,inductor --budget 250ms",
        ("choose_backends", {"backends": ["eager", "inductor"], "budget_s": 0.25}),
    ),
    ("precision bf16", ("choose_precision", "bf16", {})),
    ("precision fp32", ("choose_precision", "fp32", {})),
    (
        "precision int8 --agree 99 --on x,[3,4] --error 0.1 --values --only openvino",
        (
            "choose_precision",
            "int8",
            {"agree": 0.99, "on": ([1, 2], [3, 4]), "error": 0.1, "values": True, "backends": ["openvino"]},
        ),
    ),
    ("precision bf16 --on x", ("choose_precision", "bf16", {"on": ([1, 2], None)})),
    ("precision bf16 --on (x,[3,4])", ("choose_precision", "bf16", {"on": (([1, 2], [3, 4]), None)})),
    ("record h100.json", ("record", "h100.json")),
    ('save "{stem}.json"', ("save", "mine.json")),
    ("load plan.json", ("load", "plan.json")),
    ("export plan.py", ("export", "plan.py")),
    ("export triton folder", ("export", "folder", "triton")),
    ("export ray-serve folder", ("export", "folder", "ray-serve")),
    ("cluster", ("cluster.status",)),
    ("cluster auto", ("cluster.connect", "auto")),
    ("cluster one:6379", ("cluster.connect", "one:6379")),
    ("cluster --load", ("cluster.load",)),
    ("cluster --leave", ("cluster.leave",)),
    ("loadtest", ("load_test", None, None, {})),
    (
        "loadtest x --rates 50,100 --p99 50ms --seconds 2 --batch 8 --ways plan,threads --seed 3",
        (
            "load_test",
            [50.0, 100.0],
            [1, 2],
            {"p99_s": 0.05, "duration_s": 2.0, "most_rows": 8, "ways": ["plan", "threads"], "seed": 3},
        ),
    ),
    ("search --rate 200 --p99 50ms", ("rate", 200.0, 0.05, {})),
    ("search --rate 200 --p99 50ms --runs 5", ("rate", 200.0, 0.05, {"runs": 5})),
    ("history", ("history.past", 20)),
    ("history --last 5", ("history.past", 5)),
    ("history 3", ("history.entry", 3)),
    ("history 3 7", ("history.compare", 3, 7)),
    ("history --take 3", ("history.take", 3)),
    ("history --forget 3,7", ("history.forget", [3, 7])),
    ("history --forget all", ("history.forget", None)),
]


@pytest.mark.parametrize(("line", "call"), CALLS, ids=[line for line, _ in CALLS])
def test_a_verb_is_one_call_on_the_lab_and_shows_something(
    session: Session, front: FakeFront, lab: FakeLab, line: str, call: tuple[Any, ...]
) -> None:
    run_line(session, line)
    assert lab.calls == [call]
    assert front.shown or front.lives


def test_the_nodes_of_a_cluster_are_shown_with_what_runs_there(session: Session, front: FakeFront) -> None:
    run_line(session, "cluster auto")
    for word in ("left", "ready", "wide, deep", "right", "gone", "It left.", "http://one:8265"):
        assert word in front.text


def test_alone_it_shows_the_status_and_the_next_step(session: Session, front: FakeFront) -> None:
    run_line(session, "")
    assert "Next: Measure the sub-models" in front.text


def test_forgetting_wrong_answers_says_which_shares_searches_may_use_again(session: Session, front: FakeFront) -> None:
    run_line(session, "numerics --forget a,b")
    assert "Searches may use again: a with 1 or 3 cores." in front.text


def test_shares_that_may_be_used_again_are_counted_as_people_do() -> None:
    assert "a with 1 core." in to_text(views.forgotten({"a": (1,)}, "core"))
    assert "a with 10 or 30 %." in to_text(views.forgotten({"a": (10, 30)}, "%"))


def test_a_cell_registers_its_text_with_the_names_of_the_notebook(
    session: Session, front: FakeFront, lab: FakeLab
) -> None:
    made = run_cell(session, "model deep --example x", "Net()\n")
    assert lab.calls == [("register", "deep", "Net()\n", [1, 2])]
    assert front.marked == [made]


@pytest.mark.parametrize("line", ["", "run x", "profile"])
def test_other_cells_are_refused(session: Session, line: str) -> None:
    with pytest.raises(UsageError, match="`%%esen model NAME`"):
        run_cell(session, line, "1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("profil", "%esen has no verb 'profil'. Did you mean profile"),
        ("xyzzy", "%esen has no verb 'xyzzy'. `%esen help` lists them all."),
        ("help serch", "Did you mean search or serve or use?"),
        ("register", "%esen register takes NAME (a variable that holds a module"),
        ("register widde", "there is no 'widde'. Did you mean wide?"),
        ("register plan.jsn", "of this notebook or a file, and there is no 'plan.jsn'. Run the cell"),
        ("register wide[0]", "%esen register wide[0] --as NAME"),
        ("model deep", "two %"),
        ("plan", "A plan is shown once there is one. Given: none yet. `%esen profile`"),
        ("measurements", "Points are shown once"),
        ("cancel", "A job that is cancelled is running"),
        ("unregister ghost", "knows its own sub-models"),
        ("search --seed one", "A whole number"),
        ("search --rate 200 --p99 50ms --quantile q90 --seed 0", "takes limits, --measure and --runs besides"),
        ("search --seed -1", "A seed is a whole number from 0 to 4294967295. Given: -1."),
        ("members x x --seed 99999999999", "A seed is a whole number"),
        ("best --within 50ms --on x,x --seed -1", "A seed is a whole number"),
        ("loadtest --seed -1", "A seed is a whole number"),
        ("numerics --runs few", "A whole number"),
        ("numerics --input x", "%esen numerics has no option --input"),
        ("backends --budget soon", "positive number of seconds"),
        ("backends wide", "%esen backends takes options alone. Given: wide. `%esen backends -h` shows"),
        ("plan now", "%esen plan takes no words. Given: now."),
        ("save a.json b.json", "%esen save takes PATH and no word more. Given: b.json."),
        ("compare x --rounds", "--rounds takes N (how many rounds). Given: nothing."),
        ("compare x --rounds many", "--rounds: A whole number is needed here. Given: many."),
        ("profile --wait=yes", "--wait stands alone: stay in the cell until it is done. Given: --wait=yes."),
        ("search --apart", "--apart takes A,B (sub-models no two of which may share a lane"),
        ("precision bf16 --agree much", "A percentage above 0, at most 100 is needed"),
        ("precision bf16 --on x --agree 101", "at most 100 is needed here, such as 2 or 2%. Given: 101."),
        ("precision bf16 --on x --agree 0", "A percentage above 0"),
        ("precision bf16 --on x --agree 0.999", "whose answer must stay is above 1 %, such as 99.9. Given: 0.999"),
        ("best --accuracy-loss 101 --on x,x", "from 0 to below 100 is needed here, such as 2 or 2%. Given: 101."),
        ("profile --adaptive --within nan", "A percentage above 0"),
        ("run x --stop-early 101%", "at most 100 is needed here, such as 2 or 2%. Given: 101%."),
        ("precision bf16 --error small", "A number is needed"),
        ("search --option sampler", "NAME=VALUE"),
        ("search --deadline 50ms --deadline=60ms", "takes --deadline once. Given: it twice. Leave one of them out."),
        ("search --apart a,b --apart c,d", "Write all its values behind one --apart."),
        ("run -x", "As a value it is written (-x); `%esen run -h`"),
        ("combine weighted --weights -1,1", "As a value it is written --weights=-1,1;"),
        ("search --memory -4GB", "As a value it is written --memory=-4GB;"),
        ("profile --within 2", "--within says when an adaptive profile ends. Given: no --adaptive"),
        ("share 1=101%", "A percentage above 0, at most 100 is needed here, such as 2 or 2%. Given: 101%."),
        ("share 1=0%", "A percentage above 0"),
        ("best --within 50ms --on x,x,x", "two expressions with a comma between them. Given: 3: x,x,x."),
        ("device abacus", "A device is one of"),
        ("history 1 2 3", "One entry is shown, or two side by side"),
        ("history 1 --take 2", "one at a time"),
        ("history three", "A whole number"),
        ("history 3 --last 5", "--last says how many entries are listed"),
        ("history --forget 3 --last 5", "--last says how many entries are listed"),
        ("serve --stop --port 8000", "--stop ends the server that runs. Given: other options besides"),
        ("watch --stop --every 1", "--stop ends the plots. Given: --every or --history besides"),
        ("profile ,", "by their names, or all of them without one"),
        ("search --runs 5", "Given: no --measure. Add --measure."),
        ("history --forget ,", "by their numbers, or all of them by the word 'all'"),
        ("history --forget []", "by their numbers, or all of them by the word 'all'"),
        ("cluster auto --leave", "reached or left, one at a time"),
        ("numerics x --forget wide", "--forget checks nothing"),
        ("precision --on x", "What is to be checked is a precision"),
        ("search --rate 200 --p99 50ms --seed 0 --no-parts", "Given: --seed, --no-parts."),
        ("--deadline 1s run x", "A verb comes first, its options behind it. Given: --deadline."),
        ("run x -deadline 50ms", "Given: -deadline. Did you mean --deadline?"),
        ("search --option", "--option takes NAME=EXPR (other options of the searcher). Given: nothing."),
        ("tune move", "`%esen tune move` takes 1 to 2 words. Given: none. `%esen tune -h` shows each step"),
        ("tune threshold 0.8", "Thresholds are those of a cascade that is in force"),
        (
            "export triton",
            "`%esen export triton` takes a folder. Given: nothing. Such as `%esen export triton FOLDER`.",
        ),
        ("share wide=" + "9" * 5000, "A share is written LANE=UNITS"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(session: Session, lab: FakeLab, line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_line(session, line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_the_history_that_is_refused_leaves_its_project(session: Session, lab: FakeLab) -> None:
    with pytest.raises(UsageError, match="or two side by side"):
        run_line(session, "history 1 2 3 --project other")
    assert lab.history.project == "here"


@pytest.mark.parametrize("verb", [*VERBS, "help"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_explains_itself(session: Session, front: FakeFront, verb: str, flag: str) -> None:
    run_line(session, f"{verb} {flag}")
    assert front.text.startswith(f"usage: %esen {verb}")
    assert VERBS[verb].summary in " ".join(front.text.split())
    assert session.known_lab() is None


def test_help_lists_every_verb(session: Session, front: FakeFront) -> None:
    run_line(session, "help")
    assert all(f"%esen {verb} " in front.text for verb in VERBS)
    run_line(session, "help model")
    assert "usage: %%esen model" in front.text


def test_the_examples_in_help_can_be_parsed(session: Session, front: FakeFront, lab: FakeLab) -> None:
    for verb in VERBS.values():
        if verb.example.startswith("%%"):
            run_cell(session, verb.example.removeprefix("%%esen "), "1")
        elif verb.arguments and "--wait" not in verb.example:  # without arguments there is nothing to read
            run_line(session, verb.example.partition("%esen ")[2])


def test_device_lists_what_there_is_and_goes_on_with_another(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "device")
    assert "In use: cpu: Fake" in front.text
    assert "2 L3 domains of 2 cores" in front.text
    assert "[0-1] [2-3]" in front.text
    assert "a fairy" in front.text
    assert "Wait for one." in front.text
    change = run_line(session, "device cuda:0 mps adopt")
    assert lab.calls[-1] == ("use_device", "cuda:0 mps adopt")
    assert change.notes == ("All stays.",)
    assert "All stays." in front.text
    run_line(session, "device --leave-gpu")
    assert "Moved to the CPU: wide." in front.text


def test_serve_starts_a_server_in_the_background_and_stops_it(
    session: Session, front: FakeFront, lab: FakeLab, tmp_path: Path
) -> None:
    run_line(session, "serve --stop")
    assert "Nothing is served" in front.text
    token = tmp_path / "token"
    token.write_text("secret\n")
    server = run_line(session, f"serve --port 9000 --name digits --token-file {token} --window 5ms --max-rows 8")
    asked = {"name": "digits", "token": "secret", "window_s": 0.005, "max_rows": 8}
    assert lab.calls[-1] == ("serve", 9000, asked)
    assert server.status().url in front.text
    assert "secret" not in front.text
    assert run_line(session, "serve --stop") is server
    assert lab.calls[-1] == ("serve", None, {})


def test_the_history_goes_on_with_another_project(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "history --project digits")
    assert lab.history.project == "digits"
    assert "History of digits: 2 entries" in front.text
    assert "code of a" in front.text
    assert "%esen history --take 3" in front.text.replace("`", "")


def test_run_returns_the_output_and_a_semicolon_hides_it(session: Session, front: FakeFront, lab: FakeLab) -> None:
    assert run_line(session, "run x") == [[1, 2], "combined"]
    assert run_line(session, "run x;") == [[1, 2], "combined"]
    assert front.hid == [[[1, 2], "combined"]]
    assert run_line(session, "run x ;") == [[1, 2], "combined"]
    assert len(front.hid) == 2
    assert front.text.count("Run: JCT 5.00 ms") == 3


def test_what_was_shown_is_returned_and_marked(session: Session, front: FakeFront, lab: FakeLab) -> None:
    for verb in ("search", "plan", "compare x", "numerics", "backends"):
        assert run_line(session, verb) is front.marked[-1]
    assert front.marked == [lab.plan, lab.plan, lab.comparison, lab.numerics, lab.backends]


@pytest.mark.parametrize(
    "what", ["lab", "ensemble", "plan", "editor", "tuning", "search", "report", "comparison", "numerics", "backends"]
)
def test_show_shows_again(session: Session, front: FakeFront, lab: FakeLab, what: str) -> None:
    if what not in ("lab", "ensemble", "editor", "tuning"):
        with pytest.raises(UsageError, match=f"What is shown of {what} is there. Given: nothing yet"):
            run_line(session, f"show {what}")
    for line in ("search;", "run x;", "compare x;", "tune propose;", "numerics;", "backends;"):
        run_line(session, line)
    front.shown.clear()
    assert run_line(session, f"show {what}") is front.marked[-1]
    assert front.text


def test_show_knows_what_it_can_show(session: Session, lab: FakeLab) -> None:
    with pytest.raises(UsageError, match="Did you mean report"):
        run_line(session, "show raport")


def test_what_is_not_there_yet_says_which_verb_makes_it(session: Session, lab: FakeLab) -> None:
    with pytest.raises(UsageError, match="`%esen compare x` makes it"):
        run_line(session, "show comparison")


def test_the_users_own_error_is_passed_on(session: Session, lab: FakeLab) -> None:
    with pytest.raises(ZeroDivisionError):
        run_line(session, "run 1/0")
    assert lab.calls == []


def test_profile_returns_at_once_and_its_display_follows(session: Session, front: FakeFront, lab: FakeLab) -> None:
    assert run_line(session, "profile") is None
    assert len(front.lives) == 1
    lab.job.finish()
    deadline = threading.Event()
    while not front.lives[0].last:
        assert not deadline.wait(0.01)
    assert "4 of 4 points" in front.lives[0].text


def test_waiting_gives_the_profile(
    session: Session, front: FakeFront, lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeJob, "__init__", _finished)
    found = run_line(session, "profile --wait")
    assert len(found.points) == 4
    assert front.marked == [found]


_BEGIN = FakeJob.__init__


def _finished(job: FakeJob) -> None:
    _BEGIN(job)
    job.finish()


def test_waiting_for_a_cancelled_profile_is_an_error(
    session: Session, lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(job: FakeJob) -> None:
        _BEGIN(job)
        job.cancel()

    monkeypatch.setattr(FakeJob, "__init__", cancelled)
    with pytest.raises(Cancelled):
        run_line(session, "profile --wait")


def test_a_terminal_is_told_once_and_not_followed(session: Session, front: FakeFront, lab: FakeLab) -> None:
    front.updates_in_place = False
    run_line(session, "profile")
    assert "It runs in the background" in front.text
    assert front.lives == []


def test_cancel_stops_the_job(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "profile")
    run_line(session, "cancel")
    assert lab.job.done
    assert "stay in the store" in front.text


def test_unregister_shows_what_is_left(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "register wide")
    run_line(session, "unregister wide")
    assert "No sub-models yet" in front.text


def test_close_ends_workers_and_keeps_the_lab(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "close")
    assert lab.closed.is_set()
    assert front.names["lab"] is lab


def test_close_without_a_lab_makes_none(session: Session, front: FakeFront) -> None:
    run_line(session, "stop")
    assert "Nothing is open" in front.text
    assert "lab" not in front.names


def test_an_error_of_the_lab_passes_unchanged(session: Session, lab: FakeLab) -> None:
    lab.raises = EsenError("The disk is full", hint="Make room.")
    with pytest.raises(EsenError, match=r"The disk is full\. Make room\."):
        run_line(session, "save plan.json")


def test_every_cell_verb_is_in_the_table_for_help() -> None:
    assert set(CELL_VERBS) <= set(VERBS)


@pytest.mark.parametrize("line", [*(line for line, _ in CALLS), "show plan", "plan", "status", "measurements"])
def test_on_a_simulated_device_whatever_shows_a_time_says_that_it_is_simulated(
    session: Session, front: FakeFront, lab: FakeLab, line: str
) -> None:
    lab.device.identity.simulated = True
    lab.device.notes = ("Simulated: nothing here is measured.",)
    with contextlib.suppress(UsageError):
        run_line(session, line)
    seen = [*map(to_text, front.shown), *(live.text for live in front.lives)]
    for text in seen:
        if re.search(r"\d (µs|ms|s)\b", text):
            assert "simulated" in text.lower(), text
    assert all(text.lower().count("nothing here is measured") < 2 for text in seen)


def test_on_a_real_device_nothing_is_called_simulated(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "run x")
    assert "imulated" not in front.text


ONLY_LOOK = {"status", "list", "measurements", "fit", "plan", "show", "help"}


def test_whatever_changes_something_says_itself_what_ctrl_c_leaves_behind() -> None:
    default = Verb("", lambda session, given: None).interrupted
    assert {name for name, verb in VERBS.items() if verb.interrupted == default} == ONLY_LOOK
    assert all(verb.interrupted != default for verb in CELL_VERBS.values())


@pytest.mark.parametrize("line", ["close", "close;", " stop ;", "stop"])
def test_ctrl_c_while_closing_does_not_say_that_nothing_has_ended(line: str) -> None:
    assert "may have ended" in interrupted(line)
    assert "`%esen close` again" in interrupted(line)


@pytest.mark.parametrize("verb", ["compare x", "numerics", "backends"])
def test_ctrl_c_while_it_measures_is_passed_on_and_the_plan_stays(
    session: Session, front: FakeFront, lab: FakeLab, verb: str
) -> None:
    lab.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_line(session, verb)
    assert (front.shown, front.marked, lab.plan) == ([], [], None)
    assert "nothing was" in interrupted(verb)


@pytest.mark.parametrize(("written", "numbers"), [("all", None), ("3", [3]), ("[3,4]", [3, 4])])
def test_only_the_word_all_forgets_all_of_the_history(
    session: Session, lab: FakeLab, written: str, numbers: list[int] | None
) -> None:
    run_line(session, f"history --forget {written}")
    assert ("history.forget", numbers) in lab.calls


def test_the_plan_is_loaded_on_the_nodes_of_the_cluster_that_was_named(session: Session, lab: FakeLab) -> None:
    run_line(session, "cluster auto --load")
    assert lab.calls == [("cluster.connect", "auto"), ("cluster.load",)]
