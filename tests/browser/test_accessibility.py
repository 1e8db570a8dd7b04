"""What axe-core finds in every part of ours, in both themes: nothing. Skipped where it is not installed."""

from __future__ import annotations

import json
from importlib import resources
from importlib.util import find_spec
from typing import Any

import pytest
from conftest import Notebook, until

pytestmark = pytest.mark.skipif(
    find_spec("axe_playwright_python") is None, reason="axe-playwright-python, which carries axe-core, is not installed"
)

CELLS = (
    """import torch
from torch import nn
%load_ext esen_lab
x = torch.randn(16, 64)
a, b = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512)), nn.Linear(64, 512)
%esen register a --example x
%esen register b
%esen combine stack
profile = %esen profile --budget 20ms --backends eager --wait
plan = %esen search --wait""",
    "%esen tune",
    "%esen watch --every 500ms",
    "y = %esen run x\ntable = %esen compare x --rounds 5 --strategies equal",
    """from esen_lab.cluster import ClusterNode, ClusterStatus
ready = ClusterNode(name="left", id="1", host="one", units=8, gpus=1, state="ready", members=("a", "b"))
gone = ClusterNode(name="right", id="2", host="two", units=4, state="gone", notes=("It left.",))
status = ClusterStatus(address="one:6379", dashboard="http://one:8265", nodes=(ready, gone))
lab._runtime.set(cluster=status)""",
)
# Sliders' rows of drop-down lists included: whatever stands in an output of ours.
PARTS = (".esen", ".esen-laid", ".esen-panel", ".esen-monitor")


def violations(opened: Notebook, part: str) -> list[str]:
    """Each as "impact rule: the first element"."""
    found: dict[str, Any] = opened.page.evaluate(
        """async (part) => {
            const inside = [...document.querySelectorAll(part)].filter((e) => e.getClientRects().length);
            if (!inside.length) return {violations: []};
            return await axe.run({include: inside}, {resultTypes: ["violations"]});
        }""",
        part,
    )
    return [
        f"{each['impact']} {each['id']}: {json.dumps(each['nodes'][0]['html'])[:160]} "
        f"{each['nodes'][0]['failureSummary'][:200]!r}"
        for each in found["violations"]
    ]


def test_axe_finds_nothing_in_any_part_of_ours_in_either_theme(notebook: Any) -> None:
    opened = notebook(CELLS)
    page = opened.page
    page.set_viewport_size({"width": 1400, "height": 4000})
    for index in range(len(CELLS)):
        opened.run(index, wait_s=240)
    until(lambda: page.locator(".esen-laid .widget-slider").count() >= 1, 60)
    until(lambda: opened.samples().get("t"), 90)
    page.evaluate("window.jupyterapp.commands.execute('esen-lab:open-panel')")
    page.locator(".esen-body").wait_for(state="visible", timeout=60_000)
    page.locator("[data-node=right]").wait_for(state="visible", timeout=60_000)
    page.add_script_tag(content=resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    told = []
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        until(lambda theme=theme: page.get_attribute("body", "data-jp-theme-name") == theme, 60)
        page.wait_for_timeout(500)
        for part in PARTS:
            assert part in (".esen-monitor",) or page.locator(part).count(), f"nothing of {part} is on the page"
            told += [f"{theme}, {part}: {each}" for each in violations(opened, part)]
    assert not told, "\n".join(told)
