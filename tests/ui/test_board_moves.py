"""The page's own moves and predictions against Python's, number by number, in Node."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from esen_lab.common.units import format_units
from esen_lab.errors import UsageError
from esen_lab.planner.editor import moves
from esen_lab.planner.editor.draft import Draft, DraftLane, bound_for, forecast

MOVES = Path(__file__).parents[2] / "esen_lab" / "ui" / "assets" / "board_moves.js"
PROGRAM = """
const found = JSON.parse(require("fs").readFileSync(0, "utf8")).map(({ draft, tables, kind, given }) => {
  try {
    const to = (draft, to) => (to === null ? null : to);
    const after = {
      share: () => setShares(draft, tables, new Map(given.map(([at, units]) => [at, units]))),
      move: () => moveMember(draft, tables, given[0], to(draft, given[1])),
      split: () => splitLane(draft, tables, given),
      pin: () => setPinned(draft, ...given),
    }[kind]();
    return { after, most: draft.lanes.map((_, at) => mostUnits(draft, at)), promised: forecast(after, tables, 0) };
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    return { refused: problem.message };
  }
});
console.log(JSON.stringify(found));
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not here")


def a_case(dice: random.Random) -> dict[str, Any]:
    names = [f"m{k}" for k in range(dice.randint(1, 6))]
    units = dice.choice([1, 2, 4, 8, 30])
    tables = {name: falling(dice, units) for name in names}
    lanes: list[list[str]] = []
    for name in names:
        if not lanes or (len(lanes) < units and dice.random() < 0.5):
            lanes.append([name])
        else:
            dice.choice(lanes).append(name)
    shares = [1] * len(lanes)
    for _ in range(dice.randint(0, units - len(lanes))):
        shares[dice.randrange(len(lanes))] += 1
    draft = {
        "units": units,
        "oversubscribe": dice.random() < 0.2,
        "lanes": [
            {"units": share, "members": members, "pinned": dice.random() < 0.3}
            for share, members in zip(shares, lanes, strict=True)
        ],
    }
    kind = dice.choice(["share", "move", "move", "split", "pin"])
    if kind == "share":
        chosen = dice.sample(range(len(lanes)), dice.randint(1, min(2, len(lanes))))
        given: Any = [[at, dice.randint(1, units)] for at in chosen]
    elif kind == "move":
        given = [dice.choice(names), dice.choice([None, *range(len(lanes))])]
    elif kind == "split":
        lane = dice.choice([members for members in lanes if len(members) > 1] or [None])
        if lane is None:
            return a_case(dice)
        given = dice.sample(lane, dice.randint(1, len(lane) - 1))
    else:
        given = [dice.randrange(len(lanes)), dice.random() < 0.5]
    return {"draft": draft, "tables": tables, "kind": kind, "given": given}


def falling(dice: random.Random, units: int) -> list[float]:
    work, fixed = dice.uniform(1e-4, 1e-1), dice.uniform(0, 1e-2)
    row = [fixed + work / min(k, dice.randint(1, units)) for k in range(1, units + 1)]
    if dice.random() < 0.3:
        row = [round(t, 3) + 1e-3 for t in row]  # ties
    return [min(row[: k + 1]) for k in range(units)]


def in_python(case: dict[str, Any]) -> dict[str, Any]:
    given, tables = case["given"], case["tables"]
    draft = Draft(
        lanes=tuple(
            DraftLane(units=lane["units"], members=tuple(lane["members"]), pinned=lane["pinned"])
            for lane in case["draft"]["lanes"]
        ),
        units=case["draft"]["units"],
        oversubscribe=case["draft"]["oversubscribe"],
    )
    try:
        if case["kind"] == "share":
            after = moves.set_shares(draft, tables, {at + 1: units for at, units in given})
        elif case["kind"] == "move":
            after = moves.move_member(draft, tables, given[0], None if given[1] is None else given[1] + 1)
        elif case["kind"] == "split":
            after = moves.split(draft, tables, given)
        else:
            lane = [given[0] + 1]
            after = moves.set_shares(draft, tables, {}, **{"pin" if given[1] else "unpin": lane})
    except UsageError as problem:
        return {"refused": str(problem)}
    promised = forecast(after, tables, bound_for(tables, draft.units, max(after.total_units, draft.units)))
    return {
        "most": [moves.most_units(draft, at) for at in range(len(draft.lanes))],
        "lanes": [{"units": lane.units, "members": list(lane.members), "pinned": lane.pinned} for lane in after.lanes],
        "lane_s": list(promised.lane_s),
        "jct_s": promised.jct_s,
        "limiting": promised.limiting,
        "bound_s": promised.bound_s,
    }


@needs_node
def test_page_and_kernel_agree_on_every_move_and_every_number() -> None:
    dice = random.Random(18)
    cases = [a_case(dice) for _ in range(1500)]
    program = MOVES.read_text(encoding="utf-8") + PROGRAM
    ran = subprocess.run(["node", "-e", program], input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    refused = 0
    for case, page in zip(cases, answers, strict=True):
        kernel = in_python(case)
        if "refused" in kernel:
            refused += 1
            assert "refused" in page, case
            continue
        assert "refused" not in page, (case, page)
        assert page["after"]["lanes"] == kernel["lanes"], case
        assert page["most"] == kernel["most"], case
        for name in ("lane_s", "jct_s", "limiting"):
            assert page["promised"][name] == kernel[name], case
        assert page["promised"]["bound_s"] == pytest.approx(kernel["bound_s"], rel=1e-12), case
    assert 20 < refused < 700  # both kinds were asked


@needs_node
def test_page_and_kernel_call_shares_the_same() -> None:
    asked = [[count, unit] for count in (1, 2) for unit in ("core", "%", "percent", "group of 8 SMs", "unit")]
    say = 'console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(0)).map((one) => asUnits(...one))));'
    program = MOVES.read_text(encoding="utf-8") + say
    ran = subprocess.run(["node", "-e", program], input=json.dumps(asked), capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [format_units(count, unit) for count, unit in asked]
