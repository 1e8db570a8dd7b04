from __future__ import annotations

import sys
import traceback

import pytest

from esen_lab.ensemble.source.closure import execute


def test_parts_share_one_module_and_the_last_value_is_returned() -> None:
    names, last = execute([("<one>", "a = 2"), ("<two>", "(\n  a\n  * 21\n)")], "some_module")
    assert (names["a"], last) == (2, 42)


def test_no_last_expression_means_no_value() -> None:
    assert execute([("<one>", "3"), ("<two>", "a = 1")], "some_module")[1] is None


def test_the_module_is_there_while_it_runs_and_gone_after() -> None:
    text = (
        "import sys, dataclasses\nhere = __name__ in sys.modules\n"
        "@dataclasses.dataclass\nclass A:\n    x: 'int' = 1\nA().x"
    )
    names, last = execute([("<one>", text)], "esen_test_module")
    assert (names["here"], last) == (True, 1)
    assert "esen_test_module" not in sys.modules


def test_tracebacks_show_the_source_lines() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        execute([("<the cell>", "a = 0\nb = 1 / a  # here it breaks")], "m")
    assert "# here it breaks" in "".join(traceback.format_exception(caught.value))


def test_future_statements_of_a_cell_hold_for_it_alone() -> None:
    names, _ = execute(
        [("<a>", "x = 1"), ("<b>", "from __future__ import annotations\ndef f(a: Nope): return a\nf(2)")], "m"
    )
    assert names["x"] == 1
