"""What goes wrong on a magic's line is told in flags and verbs: nobody who typed them has to know Python's names."""

from __future__ import annotations

import re

import pytest
from real_kernel import Kernel

from esen_lab.errors import UsageError
from esen_lab.ui.magics.arguments import Argument, text
from esen_lab.ui.magics.lines import in_flags
from esen_lab.ui.magics.verbs import VERBS

ARGUMENTS = (
    Argument("--lanes", "", text, option="max_lanes"),
    Argument("--pin", "", text, option="pinned"),
    Argument("--leave-out", "", option="on_failure"),
    Argument("--at-least", "", text),
    Argument("--otherwise", "", text),
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Raise max_lanes or give up one_each.", "Raise --lanes or give up one_each."),
        ("take the first that are done (otherwise='first').", "take the first that are done (--otherwise first)."),
        ("Allow more with max_lanes.", "Allow more with --lanes."),
        ("at_least=3 alone", "--at-least 3 alone"),
        ("Give on_failure='leave-out' too.", "Give --leave-out too."),
        ("otherwise='first', as otherwise it ends.", "--otherwise first, as otherwise it ends."),
        ("The option otherwise is 'error' or 'first'", "The option --otherwise is 'error' or 'first'"),
        ("The limit 'pinned' of 'pinned'", "The limit --pin of 'pinned'"),
        ("'a' has pinned = 2, pinned by hand", "'a' has --pin 2, pinned by hand"),
        ("x.max_lanes is problem.at_least(3)", "x.max_lanes is problem.at_least(3)"),
        ("--option at_least=3", "--option at_least=3"),
    ],
)
def test_an_option_is_named_as_it_is_typed_and_words_of_english_stay(said: str, told: str) -> None:
    assert in_flags(said, ARGUMENTS) == told
    assert in_flags(told, ARGUMENTS) == told


def test_an_error_says_the_same_in_other_words() -> None:
    error = UsageError("A lane has cores", given="max_lanes=0", hint="Raise max_lanes.")
    error.reword(lambda said: in_flags(said, ARGUMENTS))
    assert str(error) == "A lane has cores. Given: --lanes 0. Raise --lanes."
    assert (error.rule, error.given, error.hint) == ("A lane has cores", "--lanes 0", "Raise --lanes.")


MODULES = """
import torch
from torch import nn
x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
a = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
b = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 4)).eval()
"""
REFUSED = (
    "run x --at-least 3",
    "run x --otherwise first",
    "run x --stop-early 100%",
    "run x --stop-early decided",
    "run x --leave-out --at-least 5",
    "combine weighted",
    "combine weighted --weights 1",
    "combine weighted --weights 1,2,3",
    "best --within 1e-9 --on x,y",
    "best --accuracy-loss 101 --on x,y",
    "precision bf16 --on x --agree 101",
    "search --lanes 1 --one-each",
    "search --memory 1",
    "search --target 1e-9",
    "search --max a=1 --min a=2",
    "search --pin zz=1",
    "search --measure x",
    "search --searcher exact --trials 3",
    "search --searcher optuna --trials 0",
    "search --searcher optuna --trials 3 --seed -1",
    "search --option seed='x'",
    "cluster --load",
    "loadtest --batch 0",
    "register a --method predict",
    "register a --outputs logits",
)
PYTHON = re.compile(
    r"\blab\.|\b[a-z]+(_[a-z]+)*_s\b|(?<!option )\b[a-z_]+=(?!\d+ )|\w\(\)|Traceback"
    r"|\b(at_least|stop_early|on_failure|max_lanes|max_units|min_units|one_each|memory_limit_bytes|n_trials)\b"
)


@pytest.fixture(scope="module")
def ready(kernel: Kernel) -> Kernel:
    lines = ("register a --example x", "register b", "profile --wait --budget 50ms", "search --wait")
    return kernel.prepare(MODULES, *(f"%esen {line}" for line in lines))


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_line_is_refused_with_names_nothing_of_python(ready: Kernel, line: str) -> None:
    ran = ready.run(f"%esen {line}")
    assert ran.status == "error"
    assert PYTHON.search(ran.error) is None, ran.error
    assert PYTHON.search(ran.text) is None, ran.text


@pytest.mark.parametrize("verb", ["members", "cascade", "best"])
def test_the_examples_of_help_that_take_labels_run(ready: Kernel, verb: str) -> None:
    assert ready.run("x_val, y_val = x, y\n%esen combine softmax-mean").status == "ok"
    ran = ready.run(VERBS[verb].example)
    assert ran.status == "ok", ran.error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('register a --as ""', "A name starts with a letter"),
        ("register c --example x[:0]", "An example has at least one sample"),
    ],
)
def test_a_member_without_a_name_or_a_sample_is_refused(ready: Kernel, line: str, message: str) -> None:
    assert ready.run("c = a").status == "ok"
    assert message in ready.run(f"%esen {line}").error


def test_what_was_just_put_in_force_is_not_offered_in_python(ready: Kernel) -> None:
    ran = ready.run("%esen best --within 50ms --on x,y")
    assert ran.status == "ok", ran.error
    assert "lab." not in ran.text
    assert "What was asked for is in force below" in ran.text
