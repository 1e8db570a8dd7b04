"""The program behind `make bench-rivals`: a load from its own process, what counts, what goes on, and the page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served_doubles import FakeServed

FOLDER = Path(__file__).parents[2] / "benchmarks" / "load"
sys.path.insert(0, str(FOLDER))

import bench_rivals  # noqa: E402
from load_generator import load  # noqa: E402
from load_models import RIVALS, WIDTH, Mean, example, member  # noqa: E402
from load_process import marked, serving  # noqa: E402
from rival_page import MARKS, reasons, write_page  # noqa: E402
from rival_servers import rows_of  # noqa: E402
from rival_triton import write_repository  # noqa: E402
from rival_ways import OURS, Setting, Way, check, shares  # noqa: E402

from esen_lab.errors import EsenError  # noqa: E402
from esen_lab.load import LoadRow, infer_request  # noqa: E402
from esen_lab.serving.server import Server  # noqa: E402
from esen_lab.serving.server_settings import ServeSettings  # noqa: E402


def row(name: str, rate: float, *, p50: float = 0.01, p99: float | None = 0.02) -> dict[str, Any]:
    return {
        "name": name,
        "rate_per_s": rate,
        "requests": 100,
        "unanswered": 0,
        "p50_s": p50,
        "p90_s": p99,
        "p95_s": p99,
        "p99_s": p99,
        "goodput_per_s": 0.9 * rate,
    }


def measured(name: str, held: float, *, number: int = 0, **times: Any) -> dict[str, Any]:
    return {
        "name": name,
        "round": number,
        "setting": f"how {name} is told",
        "versions": {},
        "commit": "abc",
        "date": "2026-11-29",
        "load": [0.1, 1.5],
        "quick": False,
        "alone_s": 0.004,
        "difference": 1e-8,
        "rows": [row(name, 50.0, **times), row(name, 100.0, **times)],
        "held_per_s": held,
        "probes": [],
    }


def found(*rounds: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {"base_per_s": 200.0, "rounds": 2, "seconds": 4.0, "p99_s": 0.05, "quick": False}
    known = {"machine": "a processor", "cores": 2, "versions": {"torch": "2"}, "jct_s": 0.003, "missing": {}}
    return {**known, "asked": asked, "chosen": {}, "measured": list(rounds), **more}


def way(answer: Any = None) -> Way:
    return Way(
        name="fake",
        path="/v2/models/ensemble/infer",
        request=lambda one: infer_request({"input": one.numpy()}),
        answer=answer or (lambda body: np.frombuffer(body[-40:], dtype=np.float32)),
        versions={},
        settings=(),
    )


def test_the_ensemble_is_the_same_in_every_process_and_computes() -> None:
    assert torch.equal(Mean(RIVALS)(example()), Mean(RIVALS)(example()))
    assert all(member(name)(example(3)).shape == (3, 10) for name in RIVALS)
    assert torch.equal(rows_of(infer_request({"x": example().numpy()}).body), example())


def test_a_load_is_sent_from_another_process_and_comes_back_as_a_row() -> None:
    request = infer_request({"input": example().numpy()})
    with Server(ServeSettings(port=0)).start() as server:
        server.warm(FakeServed(example()))  # type: ignore[arg-type]
        url = server.url
        came = load("fake", url, request, rate_per_s=40, seconds=0.5, seed=1, p99_s=5.0)
    assert came.name == "fake"
    assert came.requests > 5
    assert came.unanswered == 0
    assert 0 < came.p50_s <= came.p99_s < 5.0
    with pytest.raises(RuntimeError, match="no load could be sent"):
        load("fake", url, request, rate_per_s=40, seconds=0.5, seed=1, p99_s=5.0)


def test_answers_that_are_not_the_networks_own_do_not_count() -> None:
    with Server(ServeSettings(port=0)).start() as server:
        server.warm(FakeServed(example()))  # type: ignore[arg-type]
        with pytest.raises(EsenError, match="as the networks do"):
            check(way(), f"http://{server.address}", alone=4, joined=1)


def test_a_server_goes_with_all_that_it_started_wherever_that_hangs() -> None:
    program = (
        "import http.server, os, subprocess, sys, tempfile; tempfile.mkdtemp();"
        "subprocess.Popen(['sleep', '300'], start_new_session=True);"
        "open(f'/dev/shm/{sys.argv[2]}_here', 'w').close();"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    with serving([sys.executable, "-c", program, "{port}", "{mark}"], "/") as at:
        assert at.startswith("http://127.0.0.1:")
        marks = [path.name.removesuffix("_here") for path in Path("/dev/shm").glob("esen_*_here")]
        assert [len(marked(mark)) for mark in marks] == [2]
    assert [marked(mark) for mark in marks] == [[]]
    assert not list(Path("/dev/shm").glob("esen_*_here"))
    with (
        pytest.raises(EsenError, match="no such thing"),
        serving([sys.executable, "-c", "raise SystemExit('no such thing')"], "/"),
    ):
        pass


@pytest.mark.parametrize(
    ("limit", "probes", "rate"), [(90.0, 9, 90.0), (500.0, 9, 500.0), (10.0, 9, 10.0), (0.0, 3, 0.0)]
)
def test_the_highest_rate_is_found_within_a_step(limit: float, probes: int, rate: float) -> None:
    def sent(rate_per_s: float) -> LoadRow:
        return LoadRow(**row("fake", rate_per_s, p99=0.02 if rate_per_s <= limit else 0.08))

    held, tried = bench_rivals.highest(sent, [sent(50.0), sent(100.0)], p99_s=0.05, probes=probes)
    assert rate / bench_rivals.STEP <= held <= rate
    assert len(tried) <= probes


def test_settings_of_rivals_use_all_cores_and_no_more() -> None:
    assert shares(2, pool=True) == ((2, 1), (1, 2), (1, 1))
    assert shares(1, pool=False) == ((1, 1),)


def test_rounds_that_are_done_are_kept_and_who_does_not_serve_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began: list[str] = []
    fail = {"LitServe"}

    @contextmanager
    def start(name: str) -> Iterator[str]:
        began.append(name)
        if name in fail:
            raise EsenError("A server starts", given="it has no licence")
        if name == "Ray Serve":
            raise KeyboardInterrupt
        yield "http://127.0.0.1:1"

    def fake_ways(asked: Any, known: Any, folder: Path, wanted: set[str]) -> dict[str, Way]:
        return {
            name: Way(
                name=name,
                path="/",
                request=way().request,
                answer=way().answer,
                versions={name: "1"},
                settings=(Setting(words=f"how {name} is told", start=lambda name=name: start(name)),),  # type: ignore[misc]
            )
            for name in asked.only
            if name in wanted
        }

    monkeypatch.setattr(bench_rivals, "_ways", fake_ways)
    monkeypatch.setattr(bench_rivals, "alone_per_s", lambda rounds: 100.0)
    monkeypatch.setattr(bench_rivals, "check", lambda *_, **__: (0.004, 0.0))
    monkeypatch.setattr(bench_rivals, "calm", lambda *_: None)
    monkeypatch.setattr(
        bench_rivals, "load", lambda name, *_, rate_per_s, **__: LoadRow(**row(name, rate_per_s, p99=0.02))
    )
    monkeypatch.setattr(bench_rivals.signal, "signal", lambda *_: None)
    words = ["--quick", "--json", str(tmp_path / "s.json"), "--only", "esen_lab; LitServe; Ray Serve"]
    with pytest.raises(SystemExit, match="goes on from here"):
        bench_rivals.main(words)
    kept = json.loads((tmp_path / "s.json").read_text())
    assert [one["name"] for one in kept["measured"]] == [OURS]
    assert "no licence" in kept["missing"]["LitServe"]
    fail.add("Ray Serve")
    bench_rivals.main(words)
    assert began == [OURS, "LitServe", "Ray Serve", "LitServe", "Ray Serve"], "ours is not measured twice"
    assert "| LitServe | - | - | it did not serve" in capsys.readouterr().out


def test_the_page_says_who_holds_which_rate_and_where_ours_loses(tmp_path: Path) -> None:
    rounds = (
        measured(OURS, 200.0),
        measured(OURS, 220.0, number=1),
        measured("FastAPI", 100.0, p50=0.005, p99=0.0199),
        measured("Triton", 0.0, p99=None),
    )
    words = tmp_path / "reasons.txt"
    words.write_text("# a remark\nFastAPI: it waits for nobody.\n")
    page = tmp_path / "load.md"
    page.write_text(f"by hand\n{MARKS.begin}\nold\n{MARKS.end}\nalso by hand\n")
    write_page(found(*rounds, missing={"LitServe": "not installed"}), page, reasons(words))
    text = page.read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("also by hand\n")
    assert "\nold\n" not in text
    assert "| esen_lab | 4.00 ms | 210/s | how esen_lab is told |" in text
    assert "| Triton | 4.00 ms | none | how Triton is told |" in text
    assert "| LitServe | - | - | not installed |" in text
    assert "| 50/s | 10.0 ms / 20.0 ms / 45 | 5.00 ms / 19.9 ms / 45 | 10.0 ms / never / 45 |" in text
    assert "2.10 times" in text
    assert "- **FastAPI**: the lower p50 at 50/s, 100/s. it waits for nobody." in text, "half a percent of p99 is none"
    assert "**Triton**" not in text
    words.write_text("FastAPI\n")
    with pytest.raises(SystemExit, match="line 1"):
        reasons(words)


def test_the_page_says_what_no_server_could_do_better(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    free_s, wait_s, due_s = 0.0, [], np.cumsum(rng.exponential(1 / 100.0, 200_000))
    for due in due_s:  # one after another, 4 ms each, 100 a second at random
        free_s = max(free_s, due) + 0.004
        wait_s.append(free_s - due)
    wanted = np.quantile(wait_s, 0.99) / 0.004
    page = tmp_path / "load.md"
    page.write_text(f"{MARKS.begin}\n{MARKS.end}\n")
    write_page(found(measured(OURS, 200.0), batches_s={"1": [0.004] * 9}), page, {})
    (line,) = [line for line in page.read_text().splitlines() if "takes no time itself" in line]
    assert float(line.split("|")[2].split()[0]) == pytest.approx(wanted, abs=0.15)
    write_page(found(measured(OURS, 200.0)), page, {})
    assert "takes no time itself, by the queue model | - |" in page.read_text()


def test_the_repository_for_triton_has_a_model_for_each_member_and_one_that_averages(tmp_path: Path) -> None:
    write_repository(tmp_path / "plain", batches=False)
    write_repository(tmp_path / "joined", batches=True)
    assert sorted(os.listdir(tmp_path / "plain")) == sorted([*RIVALS, "mean", "ensemble"])
    for name in RIVALS:
        assert "dynamic_batching" not in (tmp_path / "plain" / name / "config.pbtxt").read_text()
        assert "dynamic_batching" in (tmp_path / "joined" / name / "config.pbtxt").read_text()
        compile((tmp_path / "plain" / name / "1" / "model.py").read_text(), name, "exec")
    assert f"dims: [ {WIDTH} ]" in (tmp_path / "plain" / "ensemble" / "config.pbtxt").read_text()


@pytest.mark.parametrize("words", [["--only", "nobody"], ["--minutes", "0"], ["--rounds", "0"]])
def test_what_cannot_be_meant_is_refused_with_a_word(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_rivals.main(words)
    assert "error" in capsys.readouterr().err
