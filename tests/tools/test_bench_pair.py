"""What tools/bench_pair.py makes of pairs of figures, and what it calls slower."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def bench_pair() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        spec = importlib.util.spec_from_file_location("bench_pair", TOOLS / "bench_pair.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "bench_pair", made)
        spec.loader.exec_module(made)
    sys.modules.pop("house", None)
    return made


def test_ratios_are_of_pairs_and_not_of_medians(bench_pair: ModuleType) -> None:
    before = [{"run": seconds} for seconds in (1.0, 2.0, 10.0)]
    after = [{"run": 1.1 * figures["run"]} for figures in before]
    row = bench_pair.compared(before, after)["run"]
    assert (row["before_s"], row["after_s"]) == (2.0, pytest.approx(2.2))
    assert (row["low"], row["ratio"], row["high"]) == pytest.approx((1.1, 1.1, 1.1))


def test_slower_is_what_most_pairs_agree_on(bench_pair: ModuleType) -> None:
    before = [{"run": 1.0, "slider": 1.0}] * 4
    after = [{"run": run, "slider": slider} for run, slider in ((1.1, 0.9), (1.2, 1.5), (1.1, 0.9), (1.1, 1.0))]
    told = bench_pair.table(bench_pair.compared(before, after), 0.03).splitlines()
    assert "slower" in told[2]
    assert "slower" not in told[3]


def test_what_only_one_version_has_is_left_out(bench_pair: ModuleType) -> None:
    before, after = [{"run x": 1.0, "old": 1.0}] * 2, [{"run x": 1.0, "history": 1.0}] * 2
    assert list(bench_pair.compared(before, after)) == ["run x"]


def test_a_single_pair_is_refused(bench_pair: ModuleType) -> None:
    with pytest.raises(SystemExit):
        bench_pair.main(["HEAD", "--pairs", "1"])
