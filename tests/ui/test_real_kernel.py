"""The extension over the real `Lab`, in a real kernel, spoken to as Jupyter does."""

from __future__ import annotations

import pytest
from real_kernel import Kernel

MODULES = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
    def forward(self, x):
        return self.layers(x)
class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("forward is broken")
x = torch.randn(8, 16)
wide, slim, broken = Net(256), Net(8), Broken()
"""


@pytest.fixture(scope="module")
def ready(kernel: Kernel) -> Kernel:
    """A kernel with two sub-models that have been profiled."""
    return kernel.prepare(
        MODULES,
        "%esen register wide --example x",
        "%esen register slim",
        "%esen profile --budget 50ms --wait",
        "%esen search",
    )


def test_registering_shows_html_and_text(kernel: Kernel) -> None:
    kernel.run(MODULES)
    ran = kernel.run("%esen register wide --example x")
    assert [output["kind"] for output in ran.outputs] == ["display_data"]
    assert "float32[8, 16]" in ran.text
    assert "<table" in ran.html


def test_a_cell_defines_a_sub_model(kernel: Kernel) -> None:
    kernel.run(MODULES)
    ran = kernel.run("%%esen model deep --example x\nNet(32)")
    assert ran.status == "ok", ran.error
    assert "cell, 1 line" in ran.text
    assert kernel.run("%esen unregister deep").status == "ok"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("%esen profil", "UsageError: %esen has no verb 'profil'. Did you mean profile or refine?"),
        ("%esen register broken --example x", "ModelError: Sub-model 'broken' raised"),
        ("%%esen model bad\nraise OSError('not there')", "OSError: not there"),
        ("%esen register wide --as '../evil' --example x", "UsageError"),
        ("%esen search --searcher magic", "UsageError"),
        ("%esen load nowhere.json", "StoreError: The plan file 'nowhere.json'"),
        ("%esen profile --shares 0", "UsageError"),
        ("%esen profile --shares 9999", "UsageError"),
    ],
)
def test_a_mistake_is_one_error_of_one_line_and_stops_run_all(ready: Kernel, code: str, message: str) -> None:
    ran = ready.run(code)
    assert ran.status == "error"
    assert [output["kind"] for output in ran.outputs].count("error") == 1
    assert message in ran.error
    assert "\n" not in ran.error


def test_profile_returns_at_once_and_updates_one_output(ready: Kernel) -> None:
    begun = ready.run("%esen profile --fresh --budget 50ms")
    ready.late.clear()
    assert begun.status == "ok"
    assert [output["kind"] for output in begun.outputs][:1] == ["display_data"]
    shown = {output["transient"]["display_id"] for output in begun.outputs}  # the stop button and the progress
    waited = ready.run("lab.job.result(timeout=60) and None")
    assert waited.status == "ok"
    later = [*ready.late, *waited.outputs]
    for _ in range(50):  # the output follows when the machine lets it
        if any("Profile finished" in output["data"].get("text/plain", "") for output in later):
            break
        later += ready.updates(0.2)
    assert {output["kind"] for output in later} == {"update_display_data"}
    assert {output["transient"]["display_id"] for output in later} <= shown
    last = [output["data"] for output in later if "text/html" in output["data"]][-1]
    assert "Profile finished" in last["text/plain"]
    assert "<progress" in last["text/html"]


def test_running_displays_a_timeline_and_returns_the_output(ready: Kernel) -> None:
    ran = ready.run("y = %esen run x\nprint(tuple(y.shape))")
    assert ran.status == "ok", ran.error
    assert "(8, 4)" in ran.streams
    assert "lane 1" in ran.text
    assert "data:image/svg+xml" in ran.html


def test_comparing_shows_the_table_once(ready: Kernel) -> None:
    ran = ready.run("%esen compare x --rounds 5 --strategies sequential")
    assert ran.status == "ok", ran.error
    assert ran.text.count("JCT median") == 1


@pytest.mark.parametrize(
    "name", ["lab", "lab.ensemble", "lab.plan", "lab.measurements", "lab.points.fit()['wide']", "lab.job"]
)
def test_every_object_has_rich_display(ready: Kernel, name: str) -> None:
    ran = ready.run(name)
    assert [output["kind"] for output in ran.outputs] == ["execute_result"]
    assert ran.html.startswith("<div class='esen'>")
    assert not ran.text.startswith("<")


def test_a_failing_run_folds_the_workers_traceback_and_the_lab_goes_on(ready: Kernel) -> None:
    ran = ready.run("%esen run torch.zeros(3, 5)")
    assert ran.status == "error"
    assert "<details><summary>The worker" in ran.html
    assert "\n" not in ran.error
    assert ready.run("%esen run x").status == "ok"


def test_an_interrupt_ends_waiting_and_leaves_the_lab_usable(ready: Kernel) -> None:
    code = "print('begun', flush=True)\n%esen profile --fresh --budget 20 --wait"
    ran = ready.run(code, interrupt_when="begun")
    assert ran.status == "error"
    assert "Interrupted" in ran.error or "KeyboardInterrupt" in ran.error
    ready.run("lab.job.cancel()")
    assert ready.run("%esen run x").status == "ok"


@pytest.mark.parametrize(
    ("code", "offer"),
    [
        ("%esen pro", "profile"),
        ("y = %esen ru", "run"),
        ("x = 1\n%esen unregister sl", "slim"),
        ("%%esen model d --ex", "--example"),
        ("%esen profile --sha", "--shares"),
        ("%esen search --searcher opt", "optuna"),
        ("prin", "print"),
    ],
)
def test_the_tab_key_works_in_jupyter(ready: Kernel, code: str, offer: str) -> None:
    assert ready.complete(code) == [offer]


def test_saving_loading_and_exporting(ready: Kernel) -> None:
    for code in ("%esen save plan.json", "%esen load plan.json", "%esen export plan.py"):
        ran = ready.run(code)
        assert ran.status == "ok", ran.error
    assert (ready.folder / "plan.py").is_file()


def test_unloading_leaves_no_magic_thread_or_process(ready: Kernel) -> None:
    ran = ready.run(
        "%unload_ext esen_lab\nimport threading, time, psutil\nuntil = time.monotonic() + 60\n"
        "def left(): return [t.name for t in threading.enumerate() if 'esen' in t.name.lower()]\n"
        "while (left() or psutil.Process().children()) and time.monotonic() < until: time.sleep(0.01)\n"
        "print(left(), psutil.Process().children())"
    )
    assert ran.streams.strip() == "[] []"
    assert "not found" in ready.run("%esen").streams
    assert ready.run("%load_ext esen_lab\n%esen").status == "ok"
