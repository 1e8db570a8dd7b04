"""The program behind `make bench-peers`: its ensembles, what it goes on from, and the page it makes of a file."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from local_ray import found_by

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"
sys.path.insert(0, str(FOLDER))

import bench_peers  # noqa: E402
from peer_ensembles import ENSEMBLES, ensemble, missing  # noqa: E402
from peer_page import MARKS, reasons, write_page  # noqa: E402
from peer_rows import EAGER, PLAN, paired  # noqa: E402

from esen_lab.common.trees import call_with, select  # noqa: E402


def strategy(median_s: float | None, **known: Any) -> dict[str, Any]:
    times_s = [] if median_s is None else [median_s] * 8
    return {
        "median_s": median_s,
        "p99_s": median_s,
        "spread_s": None if median_s is None else 0.0,
        "lanes": "2: a + b",
        "setting": "",
        "fallen_back": {},
        "outputs": "bit-equal",
        "agrees": median_s is not None,
        "applicable": True,
        "times_s": times_s,
        **known,
    }


def row(name: str = "trees", batch: int = 1, *, plan_s: float = 0.01, best_s: float = 0.02) -> dict[str, Any]:
    against = {"against": "openvino-async", **paired([plan_s] * 8, [best_s] * 8)}
    return {
        "ensemble": name,
        "batch": batch,
        "members": ["a", "b"],
        "quick": False,
        "commit": "abc",
        "on": {"machine": "a processor", "cores": 2, "versions": {"torch": "2"}},
        "prepared_s": 3.0,
        "took_s": 4.0,
        "rounds": 8,
        "predicted_s": 0.009,
        "bound_s": 0.0095,
        "verdict": "The plan wins.",
        "last_run": {"jct_s": 0.01, "overhead_s": 0.001, "spans": {}},
        "strategies": {
            "sequential": strategy(0.04),
            "openvino-async": strategy(best_s, setting="OpenVINO, 1 thread each", fallen_back={"b": "no rule"}),
            "vmap": strategy(None, outputs="not applicable: 2 kinds"),
            EAGER: strategy(0.03),
            PLAN: strategy(plan_s, lanes="1: a | 1: b"),
        },
        "compared": {PLAN: {**against, "sequential": paired([plan_s] * 8, [0.04] * 8)}},
    }


@pytest.mark.parametrize("name", ENSEMBLES)
def test_every_ensemble_is_one_whose_members_take_the_same_example_and_answer_alike(name: str) -> None:
    if missing(name):
        pytest.skip(f"{missing(name)} is not installed")
    networks, x = ensemble(name, 2)
    again, _ = ensemble(name, 2)
    with torch.no_grad():
        found = {key: call_with(network, select(x, None)) for key, network in networks.items()}
        for key, network in again.items():
            assert torch.equal(call_with(network, x), found[key]), "another process measures the same networks"
    assert len({answer.shape for answer in found.values()}) == 1


def test_there_are_seven_ensembles_or_more_and_batches_of_1_4_and_32() -> None:
    assert len(ENSEMBLES) >= 7
    assert bench_peers.BATCHES == (1, 4, 32)


def test_rows_that_are_done_are_kept_and_each_is_written_as_soon_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def fake(name: str, batch: int, *, quick: bool) -> dict[str, Any]:
        if batch == 32:
            raise KeyboardInterrupt
        measured.append((name, batch, quick))
        return row(name, batch)

    monkeypatch.setattr(bench_peers, "row_in_process", fake)
    words = ["--ensembles", "one heavy", "--json", str(tmp_path / "p.json"), "--page", str(tmp_path / "b.md")]
    with pytest.raises(KeyboardInterrupt):
        bench_peers.main([*words, "--batches", "4,1,32"])
    assert [one["batch"] for one in json.loads((tmp_path / "p.json").read_text())["rows"]] == [1, 4]
    bench_peers.main([*words, "--batches", "1,4,8"])
    assert measured == [("one heavy", 4, False), ("one heavy", 1, False), ("one heavy", 8, False)]
    assert "1 of 3 rows are to be measured" in capsys.readouterr().out
    assert "| one heavy | 8 |" in (tmp_path / "b.md").read_text()
    bench_peers.main([*words, "--batches", "8", "--fresh"])
    assert [one["batch"] for one in json.loads((tmp_path / "p.json").read_text())["rows"]] == [8]


def test_the_page_is_made_of_the_file_alone_and_what_is_written_by_hand_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_peers, "row_in_process", None)
    (tmp_path / "p.json").write_text(json.dumps({"rows": [row(batch=1), row(batch=4)]}))
    page = tmp_path / "b.md"
    page.write_text(f"# By hand\n\n{MARKS.begin}\nold\n{MARKS.end}\n\nalso by hand\n")
    bench_peers.main(["--table", "--json", str(tmp_path / "p.json"), "--page", str(page)])
    text = page.read_text()
    assert text.startswith("# By hand")
    assert text.endswith("also by hand\n")
    assert "old" not in text
    assert "| trees | 4 | 40.0 ms | 30.0 ms | 10.0 ms | - | openvino-async, 20.0 ms | 0.50 (0.50 to 0.50) |" in text
    assert "| openvino-async | 20.0 ms | 20.0 ms | 0.00 µs | bit-equal | OpenVINO, 1 thread each; eagerly: b |" in text
    assert "| **plan** | 10.0 ms | 10.0 ms | 0.00 µs | bit-equal | 1: a &#124; 1: b |" in text
    assert "On no row is the plan more than 3 % slower" in text
    for batch in (1, 4):
        picture = ET.fromstring((tmp_path / f"b_batch_{batch}.svg").read_text())
        assert any("0.25 plan" in (part.text or "") for part in picture.iter())


def test_rows_of_another_machine_are_told_apart(tmp_path: Path) -> None:
    here, there = row(batch=1), row(batch=4)
    there["on"] = {**there["on"], "machine": "another processor"}
    write_page([here, there], tmp_path / "b.md", {})
    text = (tmp_path / "b.md").read_text()
    assert "**A**: made by `make bench-peers` on a processor, 2 logical CPUs: torch 2; commits abc. 1 rows." in text
    assert "**B**: made by `make bench-peers` on another processor" in text
    for line, letter in (("| trees | 1 |", "A"), ("| trees | 4 |", "B")):
        assert next(each for each in text.splitlines() if each.startswith(line)).endswith(f"| {letter} |")
    write_page([here], tmp_path / "b.md", {})
    assert "**A**" not in (tmp_path / "b.md").read_text()


def test_a_row_that_is_lost_says_so_with_the_words_of_whoever_looked(tmp_path: Path) -> None:
    rows = (row(batch=1, plan_s=0.03), row(batch=4, plan_s=0.03), row(batch=32, plan_s=0.0205))
    words = tmp_path / "reasons.txt"
    words.write_text("# a remark\ntrees, 1: the trees take three quarters of the time\n")
    write_page(rows, tmp_path / "b.md", reasons(words))
    text = (tmp_path / "b.md").read_text()
    assert "**trees, batch 1**: 1.50 (1.50 to 1.50) times the time of openvino-async. The trees take three" in text
    assert "**trees, batch 4**: 1.50 (1.50 to 1.50) times the time of openvino-async. Nobody has looked yet" in text
    assert "batch 32**" not in text, "2.5 % are not lost"
    words.write_text("trees: no batch\n")
    with pytest.raises(SystemExit, match="line 1"):
        reasons(words)


def test_too_few_rounds_have_no_interval() -> None:
    assert paired([1.0, 2.0], [2.0, 2.0]) == {"ratio": 0.75, "low": None, "high": None}


@pytest.mark.parametrize("words", [["--batches", "0"], ["--ensembles", "none"], ["--minutes", "0"]])
def test_what_cannot_be_meant_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_peers.main(words)
    assert "error" in capsys.readouterr().err


@pytest.mark.slow  # starts a node of Ray
@pytest.mark.timing  # Ray gives a node 30 s to start, which two cores with other tests on them exceed
def test_ray_actors_answer_as_the_ensemble_does(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = found_by(Path(__file__).parent / "actors_of_ray.py", tmp_path / "result.json", timeout_s=300)
    assert found["apart"] < 1e-5
