from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esen_lab.export.triton.config import ensemble_model, python_model
from esen_lab.export.triton.ports import Port

X = Port(name="INPUT", data_type="TYPE_FP32", dims=(-1, 8))
Y = Port(name="OUTPUT", data_type="TYPE_INT64", dims=(-1,))


def test_a_model_of_a_lane_is_one_process_on_the_cores_of_its_policy() -> None:
    text = python_model("m", [X], [Y], host_policy="lane_1").decode()
    assert 'name: "m"\nbackend: "python"\nmax_batch_size: 0\n' in text
    assert 'input {\n  name: "INPUT"\n  data_type: TYPE_FP32\n  dims: -1\n  dims: 8\n}' in text
    assert 'instance_group {\n  count: 1\n  kind: KIND_CPU\n  host_policy: "lane_1"\n}' in text


def test_a_model_without_cores_of_its_own_names_no_policy() -> None:
    assert b"host_policy" not in python_model("m", [X], [Y])


def test_an_ensemble_gives_tensors_one_name_in_all_models() -> None:
    text = ensemble_model("all", [X], [Y], [("one", ["INPUT"], ["A"]), ("two", ["A"], ["OUTPUT"])]).decode()
    assert 'platform: "ensemble"' in text
    assert text.count("  step {") == 2
    assert 'output_map {\n      key: "A"\n      value: "A"' in text
    assert 'input_map {\n      key: "A"\n      value: "A"' in text


@given(st.text(min_size=1, max_size=30))
def test_no_text_leaves_its_quotes(name: str) -> None:
    text = python_model(name, [X], [Y]).decode("ascii")
    (line,) = [line for line in text.splitlines() if line.startswith("name:")]
    inside = line.removeprefix('name: "').removesuffix('"')
    assert '"' not in inside
    unescaped = inside.encode("ascii").decode("unicode_escape").encode("latin-1").decode()
    assert unescaped == name
