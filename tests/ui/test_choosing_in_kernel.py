"""Choosing plans in a real kernel, over the real lab: nothing blocks, and what is cut short keeps its best."""

from __future__ import annotations

import pytest
from real_kernel import Kernel

MODULES = """
import signal, threading, time, torch
from torch import nn
torch.manual_seed(0)
def net(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
x = torch.randn(8, 16)
labels = torch.arange(60) % 4
def interrupt_once(condition):
    def strike():
        while not condition():
            time.sleep(0.01)
        time.sleep(0.5)  # what had to be done first is done; now it waits
        signal.raise_signal(signal.SIGINT)
    threading.Thread(target=strike).start()
samples = torch.randn(60, 16)
wide, slim, tiny = net(256), net(32), net(8)
"""
ENDLESS = "%esen search --searcher optuna --measure x --runs 2 --trials 1000000"


@pytest.fixture(scope="module")
def ready(kernel: Kernel) -> Kernel:
    return kernel.prepare(
        MODULES,
        "%esen register wide --example x",
        "%esen register slim",
        "%esen register tiny",
        "%esen combine softmax-mean",
        "%esen profile --adaptive --budget 50ms --wait",
    )


def value(ready: Kernel, expression: str) -> str:
    """What a cell results in; live displays of earlier cells may be updated meanwhile."""
    outputs = ready.run(expression).outputs
    return "\n".join(output["data"]["text/plain"] for output in outputs if output["kind"] == "execute_result")


def test_an_adaptive_profile_says_why_it_ended(ready: Kernel) -> None:
    ran = ready.run("%esen profile --adaptive --budget 50ms --wait")
    assert ran.status == "ok", ran.error
    assert "Profile finished" in ran.text
    assert "Adaptive: " in ran.text


def test_a_search_is_in_force_while_it_goes_on_and_the_kernel_stays_free(ready: Kernel) -> None:
    ran = ready.run(f"first = {ENDLESS}")
    assert ran.status == "ok", ran.error
    assert "goes on in the background" in ran.text
    assert value(ready, "first.describe() == lab.plan.describe() or not lab.search_job.done") == "True"
    assert ready.run("y = %esen run x").status == "ok"
    assert ready.run("while lab.search_job.best is None: time.sleep(0.01)").status == "ok"
    ran = ready.run("%esen cancel")
    assert "The best plan found until now stays" in ran.text
    assert value(ready, "lab.search_job.result(timeout=60).measured_s > 0") == "True"
    assert value(ready, "lab.plan is lab.search_job.best") == "True"


def test_ctrl_c_while_waiting_keeps_the_best_so_far(ready: Kernel) -> None:
    later = (
        "before = lab.search_job\n"
        "interrupt_once(lambda: lab.search_job is not before and lab.search_job.best is not None)"
    )
    ran = ready.run(f"{later}\nbest = {ENDLESS} --wait")
    assert ran.status == "ok", ran.error
    assert value(ready, "lab.search_job.cancelled and best is not None and lab.search_job.wait(30)") == "True"
    assert value(ready, "set(lab.plan.names) == {'wide', 'slim', 'tiny'}") == "True"


def test_an_infeasible_search_is_one_line_that_says_by_how_much(ready: Kernel) -> None:
    before = value(ready, "lab.plan.describe()")
    ran = ready.run("%esen search --target 1ms --min wide=1 --memory 1kB")
    assert ran.status == "error"
    assert "InfeasibleError" in ran.error
    assert "too much" in ran.error
    assert value(ready, "lab.plan.describe()") == before


def test_refining_shows_its_rounds(ready: Kernel) -> None:
    ran = ready.run("%esen refine x --rounds 2 --runs 2")
    assert ran.status == "ok", ran.error
    assert "Refined" in ran.text
    assert "It ended" in ran.text
    assert value(ready, "lab.plan.measured_s > 0") == "True"


def test_members_devices_and_stages(ready: Kernel) -> None:
    ran = ready.run("%esen members samples labels --take 1")
    assert ran.status == "ok", ran.error
    assert "data:image/svg+xml" in ran.html
    assert ready.run("y = %esen run x").status == "ok"
    ran = ready.run("%esen place 2 --save placed.json")
    assert ran.status == "ok", ran.error
    assert (ready.folder / "placed.json").exists()
    ran = ready.run("%esen load placed.json")
    assert "It can be saved" in ran.error
    ran = ready.run("%esen cascade samples labels --threshold 0.5")
    assert ran.status == "ok", ran.error
    assert "Cascade of" in ran.text
    assert ready.run("%esen search --wait").status == "ok"


def test_the_plan_in_force_is_checked_and_its_backends_are_measured(ready: Kernel) -> None:
    assert ready.run("%esen search --one-each --oversubscribe unlimited --wait").status == "ok"
    ran = ready.run("%esen backends --only eager --budget 20ms")
    assert ran.status == "ok", ran.error
    assert "Backends: every sub-model runs eagerly" in ran.text
    ran = ready.run("%esen numerics x * 2 --runs 3")
    assert ran.status == "ok", ran.error
    assert "Numerics: passed (on float32[8, 16])" in ran.text
    assert ran.text.count("3 of 3 runs") == 3
    assert value(ready, "lab.numerics.passed") == "True"


def test_ctrl_c_ends_the_check_and_the_lab_stays_usable(ready: Kernel) -> None:
    ran = ready.run("interrupt_once(lambda: lab._runtime.turns.locked)\n%esen numerics --runs 10000000")
    assert ran.status == "error"
    assert "Interrupted: nothing was judged." in ran.error
    assert ready.run("y = %esen run x").status == "ok"
