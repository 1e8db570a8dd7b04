"""The page's side of live plots, in Node: what it makes of the kernel's messages before BokehJS draws them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

LIVE = Path(__file__).parents[2] / "esen_lab" / "ui" / "assets" / "live.js"
BEFORE = "globalThis.window = globalThis; function command() {} function child() {}\n"
PROGRAM = """
const { doc, messages } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const heard = [];
const get = (key) => (key === "doc" ? JSON.stringify(doc) : key);
const feed = feedOf({ get, on: (_, listener) => heard.push(listener) });
const said = [];
feed.views.add({ take() {}, rebuild() {}, say: () => said.push(feed.over) });
for (const message of messages) heard[0](message);
console.log(JSON.stringify({ t: feed.rows.t, cpu: feed.rows.cpu, marks: feed.marks.t, over: feed.over, said }));
"""
DOC = {
    "item": {},
    "rows": {"t": [1_796_050_800_000, 1_796_050_801_000], "cpu": [1.0, 2.0]},
    "noted": {"t": [1_796_050_800_500], "what": ["run"]},
    "number": 2,
    "marks": 1,
    "generation": 1,
    "interval_s": 1.0,
    "rollover": 100,
}
ROWS = {
    "kind": "rows",
    "generation": 1,
    "first": 2,
    "number": 3,
    "rows": {"t": [1_796_050_801_000, 1_796_050_802_000], "cpu": [2.0, 3.0]},
    "marks": {"t": [1_796_050_802_000], "what": ["run"]},
    "marks_to": 2,
}
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not here")


def page(zone: str, *messages: dict[str, Any], **known: Any) -> dict[str, Any]:
    program = BEFORE + LIVE.read_text(encoding="utf-8").replace("export default", "const exported =") + PROGRAM
    given = json.dumps({"doc": {**DOC, **known}, "messages": messages})
    ran = subprocess.run(
        ["node", "-e", program],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TZ": zone},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("America/New_York", -5), ("Asia/Kolkata", 5.5)])
def test_times_are_those_of_the_pages_clock_though_bokeh_writes_those_of_greenwich(zone: str, hours: float) -> None:
    ahead = round(3_600_000 * hours)
    found = page(zone, ROWS)
    assert found["t"] == [at + ahead for at in (1_796_050_800_000, 1_796_050_801_000, 1_796_050_802_000)]
    assert found["marks"] == [1_796_050_800_500 + ahead, 1_796_050_802_000 + ahead]
    assert found["cpu"] == [1.0, 2.0, 3.0]


def test_a_page_says_why_nothing_comes_any_more_also_one_that_is_loaded_later() -> None:
    assert page("UTC")["over"] == ""
    told = page("UTC", {"kind": "over", "said": "The lab was closed."})
    assert (told["over"], told["said"]) == ("The lab was closed.", ["The lab was closed."])
    assert page("UTC", over="The lab was closed.")["over"] == "The lab was closed."
