"""Members of other kinds than networks: what is registered answers as the notebook does, wherever it is built."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import other_kinds as kinds
import pytest
import torch
from other_kinds import LABELS, MEMBERS, TABLE, X
from torch import nn

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.trees import call_with
from esen_lab.ensemble import FileRecipe, make_submodel, register
from esen_lab.errors import ModelError, UsageError

pytest.importorskip("sklearn")  # quick tests on other Pythons are without it


def answer(submodel: Any, x: Any = X) -> Any:
    """What a lane would answer: built from what is sent, pickled and back."""
    import cloudpickle

    with torch.inference_mode():
        return call_with(cloudpickle.loads(submodel.payload())(), x)


@pytest.mark.parametrize("name", MEMBERS)
def test_it_is_registered_and_built_again_and_answers_as_the_notebook_does(name: str, tmp_path: Path) -> None:
    make, own, kind, form = MEMBERS[name]
    made = make(tmp_path)
    submodel = make_submodel("a", made, X)
    wanted = own(made)
    wanted = torch.as_tensor(wanted)
    assert submodel.kind == kind
    assert (submodel.recipe.form if isinstance(submodel.recipe, FileRecipe) else submodel.recipe.kind) == form
    for found in (submodel.answer, answer(submodel)):
        assert difference(found, wanted, OTHER_ORDER).agrees, difference(found, wanted, OTHER_ORDER)
    assert not submodel.traits.keeps_state
    assert not submodel.traits.random


@pytest.mark.parametrize("name", MEMBERS)
def test_the_same_thing_has_the_same_fingerprint_and_names_itself_in_tables(name: str, tmp_path: Path) -> None:
    make, *_ = MEMBERS[name]
    one, other = (make_submodel("a", make(tmp_path), X) for _ in range(2))
    assert (one.fingerprint, one.code_fingerprint) == (other.fingerprint, other.code_fingerprint)
    assert one.to_dict()["kind"] == one.kind
    assert one.recipe.describe()


def other_labels() -> Any:
    return kinds.forest().fit(TABLE, (LABELS + 1) % 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (kinds.forest, other_labels),
        (kinds.onnx_graph, lambda: kinds.onnx_graph(kinds.WEIGHT * 2)),
        (kinds.lightgbm_classifier, lambda: kinds.lightgbm_classifier().fit(TABLE, (LABELS + 1) % 3)),
        (kinds.xgboost_classifier, lambda: kinds.xgboost_classifier().fit(TABLE, (LABELS + 1) % 3)),
    ],
)
def test_other_values_are_another_fingerprint_of_the_same_code(
    one: Callable[[], Any], other: Callable[[], Any]
) -> None:
    first, second = make_submodel("a", one(), X), make_submodel("a", other(), X)
    assert first.fingerprint != second.fingerprint
    assert first.code_fingerprint == second.code_fingerprint


def test_another_number_of_trees_is_other_code() -> None:
    first = make_submodel("a", kinds.forest(), X)
    second = make_submodel("a", kinds.forest().set_params(n_estimators=9).fit(TABLE, LABELS), X)
    assert first.code_fingerprint != second.code_fingerprint


# --- what is watched --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [kinds.forest, kinds.pipeline, kinds.ridge, kinds.xgboost_classifier, kinds.lightgbm_classifier]
)
def test_an_estimator_that_is_fitted_again_has_changed(make: Callable[[], Any]) -> None:
    estimator = make()
    watch = register("a", estimator, X).watch
    assert watch is not None
    estimator.predict(TABLE)
    assert not watch.changed()
    estimator.fit(TABLE, (LABELS + 1) % 3)
    assert watch.changed()
    assert watch.what() == ("what it was fitted to",)
    watch.renew()
    assert not watch.changed()


def test_coefficients_that_are_changed_in_place_are_noticed() -> None:
    estimator = kinds.ridge()
    watch = register("a", estimator, X).watch
    estimator.coef_[0] += 1
    assert watch is not None
    assert watch.changed()


def deep_estimators() -> dict[str, tuple[Callable[[], Any], Callable[[Any], object]]]:
    """Estimators with parts that are far inside, and what changes such a part."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import BaggingClassifier, StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    other = (LABELS + 1) % 3
    line = LogisticRegression(max_iter=20)
    columns = ColumnTransformer([("p", PCA(2), [0, 1, 2])], remainder="passthrough")
    stack = make_pipeline(StackingClassifier([("a", make_pipeline(line))], make_pipeline(line), cv=2))

    def again_each(bag: Any) -> None:
        for each in bag.estimators_:
            each.fit(TABLE, other)

    def longer(network: Any) -> None:
        network.coefs_[0] *= 3

    def row(model: Any) -> None:
        model.coef_[1] *= 3

    return {
        "calibrated": (
            lambda: CalibratedClassifierCV(line, cv=2).fit(TABLE, LABELS),
            lambda e: e.calibrated_classifiers_[0].estimator.fit(TABLE, other),
        ),
        "a bag of 25": (lambda: BaggingClassifier(line, 25).fit(TABLE, LABELS), again_each),
        "in columns": (
            lambda: make_pipeline(columns, line).fit(TABLE, LABELS),
            lambda e: e[0].named_transformers_["p"].fit(TABLE[::-1, :3] * 2),
        ),
        "deep in a search": (
            lambda: GridSearchCV(stack, {}, cv=2).fit(TABLE, LABELS),
            lambda e: e.best_estimator_[0].estimators_[0][0].fit(TABLE, other),
        ),
        "arrays in a list": (lambda: MLPClassifier((5,), max_iter=3).fit(TABLE, LABELS), longer),
        "one row": (lambda: LogisticRegression(max_iter=20).fit(TABLE, LABELS), row),
    }


@pytest.mark.filterwarnings("ignore")  # three steps are too few for what it is fitted to
@pytest.mark.parametrize(
    "case", ["calibrated", "a bag of 25", "in columns", "deep in a search", "arrays in a list", "one row"]
)
def test_a_part_far_inside_an_estimator_that_changes_is_noticed(case: str) -> None:
    pytest.importorskip("sklearn")
    make, change = deep_estimators()[case]
    estimator = make()
    watch = register("a", estimator, X).watch
    assert watch is not None
    estimator.predict(TABLE)
    assert not watch.changed()
    change(estimator)
    assert watch.changed()


def test_a_booster_that_is_trained_further_has_changed() -> None:
    xgboost = pytest.importorskip("xgboost")
    booster = kinds.xgboost_booster()
    watch = register("a", booster, X).watch
    assert watch is not None
    assert not watch.changed()
    booster.update(xgboost.DMatrix(TABLE, LABELS), booster.num_boosted_rounds())
    assert watch.changed()


@pytest.mark.parametrize("make", [kinds.onnx_file, kinds.script_file, kinds.program_file, kinds.ir_file])
def test_a_file_that_is_replaced_has_changed_and_one_that_is_gone_has_not(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    watch = register("a", path, X).watch
    assert watch is not None
    assert not watch.changed()
    os.utime(path, ns=(1, 1))
    assert watch.changed()
    watch.renew()
    path.unlink()
    assert not watch.changed()


def test_a_file_whose_name_has_brackets_is_a_file_and_no_cell(tmp_path: Path) -> None:
    path = kinds.script_file(tmp_path).rename(tmp_path / "small (1).pt")
    assert make_submodel("a", str(path), X).kind == "ScriptModule"


def test_a_script_whose_parameters_are_changed_has_changed() -> None:
    script = kinds.script()
    watch = register("a", script, X).watch
    assert watch is not None
    assert not watch.changed()
    with torch.no_grad():
        next(script.parameters()).add_(1)
    assert watch.changed()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.scale, self.shift = 2.0, torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale + self.shift.sum()


def test_a_script_whose_attributes_are_changed_has_changed() -> None:
    script = torch.jit.script(Scaled().eval())
    written = io.BytesIO()
    torch.jit.save(script, written)
    for made in (script, torch.jit.load(io.BytesIO(written.getvalue()))):
        watch = register("a", made, X).watch
        assert watch is not None
        made(X), made.train()
        assert not watch.changed()
        made.scale = 3.0
        assert watch.what() == ("its parameters, buffers or attributes",)
        watch.renew()
        made.shift.fill_(4)
        assert watch.changed()


def test_a_function_is_watched_with_what_it_reads() -> None:
    registered = register("a", kinds.product_of_arrays, X.numpy())
    before = kinds.WEIGHT.copy()
    assert registered.watch is not None
    assert not registered.watch.changed()
    try:
        kinds.WEIGHT[0] = 5
        assert registered.watch.changed()
    finally:
        kinds.WEIGHT[:] = before


# --- how it is called -------------------------------------------------------------------------------------------------


def test_an_onnx_model_with_several_inputs_is_called_by_keyword_or_in_its_own_order() -> None:
    scale = torch.full((8, 3), 2.0)
    product = X.numpy() @ kinds.WEIGHT
    for example in ((X, scale), {"scale": scale, "x": X}):
        found = make_submodel("a", kinds.onnx_graph(wide=True), example).answer
        np.testing.assert_allclose(found["scores"], product * 2, rtol=1e-5)
        np.testing.assert_allclose(found["sums"], product - 2, rtol=1e-4, atol=1e-5)


def test_the_answers_of_an_onnx_model_can_be_chosen() -> None:
    scale = torch.full((8, 3), 2.0)
    submodel = make_submodel("a", kinds.onnx_graph(wide=True), (X, scale), kwargs={"outputs": "sums"})
    assert submodel.answer.shape == (8, 3)
    assert torch.equal(submodel.answer, answer(submodel, (X, scale)))


def test_another_batch_than_the_examples_is_answered(tmp_path: Path) -> None:
    for make in (kinds.onnx_file, kinds.ir_file, kinds.program, kinds.script, kinds.forest):
        submodel = make_submodel("a", make(tmp_path), X)
        for rows in (1, 3, 8):
            assert answer(submodel, X[:rows]).shape[0] == rows


def test_the_method_of_an_estimator_can_be_chosen() -> None:
    forest = kinds.forest()
    labels = make_submodel("a", forest, X, kwargs={"method": "predict"}).answer
    assert labels.tolist() == forest.predict(X.numpy()).tolist()


@pytest.mark.parametrize("made", ["LGBMClassifier", "XGBClassifier"])
def test_what_was_trained_on_categories_of_pandas_says_that_it_takes_their_codes(made: str) -> None:
    pandas = pytest.importorskip("pandas")
    package = pytest.importorskip("lightgbm" if made == "LGBMClassifier" else "xgboost")
    kind = pandas.Categorical(np.array([10, 20, 30])[LABELS])
    frame = pandas.DataFrame({"x": TABLE[:, 2], "kind": kind})
    told = {"verbose": -1, "min_child_samples": 2} if made == "LGBMClassifier" else {"enable_categorical": True}
    estimator = getattr(package, made)(n_estimators=4, n_jobs=1, **told).fit(frame, LABELS)
    codes = torch.from_numpy(np.stack([TABLE[:, 2], kind.codes], 1).astype("float32"))
    submodel = make_submodel("a", estimator, codes)
    assert "takes codes of categories" in submodel.notes[0]
    assert difference(answer(submodel, codes), torch.from_numpy(estimator.predict_proba(frame)), OTHER_ORDER).agrees


def test_a_classifier_of_other_labels_than_places_says_which_column_is_which() -> None:
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression
    for labels, said in (
        (["no", "yes", "perhaps"], ("its columns are those of its classes no, perhaps, yes, in this order",)),
        ([1, 2, 3], ("its columns are those of its classes 1, 2, 3, in this order",)),
        ([0, 1, 2], ()),
    ):
        made = linear().fit(TABLE, np.array(labels)[LABELS])
        assert make_submodel("a", made, X).notes == said
        assert make_submodel("a", linear().fit(TABLE, LABELS), X, kwargs={"method": "predict"}).notes == ()


def test_what_has_no_probabilities_answers_with_its_scores_and_says_so() -> None:
    svm = pytest.importorskip("sklearn.svm")
    submodel = make_submodel("a", svm.LinearSVC().fit(TABLE, LABELS), X)
    assert submodel.answer.shape == (8, 3)
    assert "decision_function" in submodel.notes[0]


def test_a_function_gets_arrays_where_the_example_has_arrays_and_else_tensors() -> None:
    def taking(kind: type) -> Callable[[Any], Any]:
        def look(x: Any) -> Any:
            assert type(x) is kind
            return x * 2

        return look

    make_submodel("a", taking(np.ndarray), X.numpy())
    make_submodel("a", taking(torch.Tensor), X)
    with pytest.raises(ModelError):
        make_submodel("a", taking(torch.Tensor), X.numpy())


def test_a_function_that_takes_arrays_alone_is_given_arrays_and_says_so() -> None:
    submodel = make_submodel("a", lambda a: a.astype("float64") @ kinds.WEIGHT, X)
    assert submodel.answer.dtype == torch.float64
    assert "it is given arrays" in submodel.notes[-1]


def test_a_callable_that_keeps_state_is_known_for_it() -> None:
    assert make_submodel("a", kinds.Counting(), X).traits.keeps_state


def test_a_function_that_draws_random_numbers_is_known_for_it() -> None:
    assert make_submodel("a", lambda a: a + np.random.rand(*a.shape), X.numpy()).traits.random


class Remembering:
    """An estimator of the user's own, which keeps state between calls."""

    def __init__(self) -> None:
        self.calls_ = 0

    def fit(self, table: Any, labels: Any) -> Remembering:
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def predict(self, table: Any) -> Any:
        self.calls_ += 1
        return table[:, 0] + self.calls_


def test_an_estimator_that_keeps_state_is_known_for_it_and_left_as_it_is() -> None:
    estimator = Remembering()
    submodel = make_submodel("a", estimator, X)
    assert submodel.traits.state == ("its attributes",)
    assert estimator.calls_ == 0
    assert torch.equal(answer(submodel), X[:, 0] + 1)


class CountingScript(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def drawing_graph(_: Path) -> Any:
    onnx = pytest.importorskip("onnx")
    graph = kinds.onnx_graph()
    del graph.graph.node[-1]
    graph.graph.node.append(onnx.helper.make_node("RandomNormalLike", ["product"], ["scores"], seed=3.0))
    return graph


def stateful_model(_: Path) -> Any:
    openvino = kinds.openvino_quietly()
    ops = importlib.import_module("openvino.opset13")
    x = ops.parameter([8, 6], openvino.Type.f32, name="x")
    kept = ops.read_value(ops.constant(np.zeros((8, 6), "float32")), "kept")
    total = ops.add(x, kept)
    return openvino.Model([ops.result(total)], [ops.assign(total, "kept")], [x], "summing")


@pytest.mark.parametrize("make", [lambda _: torch.jit.script(CountingScript()), drawing_graph, stateful_model])
def test_what_keeps_something_that_nobody_sees_is_known_for_its_changing_answers(make: Any, tmp_path: Path) -> None:
    submodel = make_submodel("a", make(tmp_path), X)
    assert not submodel.traits.steady
    assert "gives another output each time it runs on the same input" in submodel.notes


def test_an_estimator_that_holds_a_class_of_numbers_is_registered(tmp_path: Path) -> None:
    table = LABELS[:4, None]
    encoder = one_hot(tmp_path, sparse_output=False)
    submodel = make_submodel("a", encoder, table)
    assert torch.equal(submodel.build()(torch.from_numpy(table)), torch.from_numpy(encoder.transform(table)))


def test_columns_that_are_found_by_name_are_given_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = pandas.DataFrame(TABLE, columns=list("abcdef"))
    chosen = ColumnTransformer([("some", StandardScaler(), ["a", "d"])])
    estimator = make_pipeline(chosen, Ridge()).fit(table, LABELS)
    wanted = estimator.predict(pandas.DataFrame(X.numpy(), columns=list("abcdef")))
    assert torch.equal(make_submodel("a", estimator, X).answer, torch.as_tensor(wanted))


def test_what_torch_compiled_or_scripted_is_a_function_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(kinds.softmax_of_tensors)
    for made, kind in ((torch.compile(kinds.softmax_of_tensors), "function"), (scripted, "ScriptModule")):
        submodel = make_submodel("a", made, X)
        assert submodel.kind == kind
        assert torch.equal(answer(submodel), kinds.softmax_of_tensors(X))


@pytest.mark.parametrize("made", [lambda a: float(a.sum()), lambda a: [float(v) for v in a[0]], lambda a: a.max()])
def test_numbers_of_python_and_of_numpy_become_tensors(made: Any) -> None:
    submodel = make_submodel("a", made, X.numpy())
    assert submodel.answer.numpy().tolist() == pytest.approx(made(X.numpy()))


def test_a_function_without_arguments_is_a_factory_also_of_other_kinds() -> None:
    assert make_submodel("a", kinds.network, X).kind == "network"
    assert make_submodel("a", kinds.forest, X).kind == "estimator"
    assert make_submodel("a", "other_kinds:script", X).kind == "ScriptModule"


def test_numbers_of_threads_follow_the_caller_and_never_exceed_what_the_user_asked_for() -> None:
    module = make_submodel("a", kinds.forest().set_params(n_jobs=-1), X).build()
    few = make_submodel("a", kinds.forest().set_params(n_jobs=1), X).build()
    before = torch.get_num_threads()
    try:
        for count in (1, 3, 2):
            torch.set_num_threads(count)
            module(X), few(X)
            assert (module.estimator.n_jobs, few.estimator.n_jobs) == (count, 1)  # type: ignore[union-attr]
    finally:
        torch.set_num_threads(before)


def test_the_users_own_estimator_and_libraries_are_left_as_they_are() -> None:
    import threadpoolctl

    forest = kinds.forest()
    before = threadpoolctl.threadpool_info()
    make_submodel("a", forest, X)
    assert forest.n_jobs is None
    after = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert all(after[pool["filepath"]] == pool["num_threads"] for pool in before)


# --- what is refused --------------------------------------------------------------------------------------------------


def weights_alone(folder: Path) -> Path:
    torch.save(kinds.network().state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def written(name: str, data: bytes = b"nonsense") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def not_fitted(_: Path) -> Any:
    return pytest.importorskip("sklearn.ensemble").RandomForestClassifier()


def text_answers(_: Path) -> Any:
    svm = pytest.importorskip("sklearn.neighbors")
    return svm.KNeighborsClassifier().fit(TABLE, np.array(["no", "yes", "perhaps"])[LABELS])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 97800000\n"


def beside(path: Path, suffix: str) -> Path:
    """A model whose weights were not fetched."""
    path.with_suffix(suffix).write_bytes(LFS)
    return path


def file_of_two(folder: Path) -> Path:
    """An ONNX graph with its weights in another file."""
    pytest.importorskip("onnx").save(
        kinds.onnx_graph(),
        str(folder / "small.onnx"),
        save_as_external_data=True,
        location="small.data",
        size_threshold=0,
    )
    return folder / "small.onnx"


def weights_elsewhere(folder: Path) -> Any:
    return pytest.importorskip("onnx").load(str(file_of_two(folder)), load_external_data=False)


def onnx_session(folder: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(str(kinds.onnx_file(folder)))


def compiled_model(folder: Path) -> Any:
    return kinds.openvino_quietly().Core().compile_model(kinds.ir_model(folder), "CPU")


def answering(kind: str) -> Callable[[Path], Any]:
    """An ONNX graph that answers with its input in another type."""

    def make(_: Path) -> Any:
        onnx = pytest.importorskip("onnx")
        graph, number = kinds.onnx_graph(), getattr(onnx.TensorProto, kind)
        graph.graph.node[-1].CopyFrom(onnx.helper.make_node("Cast", ["product"], ["scores"], to=number))
        graph.graph.output[0].type.tensor_type.elem_type = number
        return graph

    return make


def of_small_numbers(kind: str) -> Callable[[Path], Any]:
    """OpenVINO IR that answers with its input in another type."""

    def make(_: Path) -> Any:
        openvino = kinds.openvino_quietly()
        ops = importlib.import_module("openvino.opset13")
        x = ops.parameter([8, 6], openvino.Type.f32, name="x")
        return openvino.Model([ops.convert(x, kind)], [x], "small")

    return make


def one_hot(_: Path, **how: Any) -> Any:
    return pytest.importorskip("sklearn.preprocessing").OneHotEncoder(**how).fit(LABELS[:, None])


@pytest.mark.parametrize(
    ("make", "example", "kwargs", "message"),
    [
        (kinds.onnx_file, X.double(), {}, "The input 'x' of this ONNX model is float32. Given: float64"),
        (kinds.onnx_file, X[:, :5], {}, r"'x' of this ONNX model has the sizes \[any, 6\]. Given: \[8, 5\]"),
        (kinds.ir_file, X[:, :5], {}, r"'x' of this OpenVINO model has the sizes \[any, 6\]. Given: \[8, 5\]"),
        (kinds.onnx_file, (X, X), {}, "takes 1 input: x. Given: 2 by position"),
        (kinds.onnx_file, {"y": X}, {}, "takes 1 input: x. Given: no such input as y"),
        (lambda _: kinds.onnx_graph(wide=True), X, {}, "takes 2 inputs: x, scale. Given: 1 by position"),
        (lambda _: kinds.onnx_graph(text=True), X, {}, r"label is tensor\(string\).*\{'outputs': \['scores'\]\}"),
        (answering("BFLOAT16"), X, {}, r"answers with tensors of numbers. Given: scores is tensor\(bfloat16\)"),
        (of_small_numbers("i4"), X, {}, r"answers with tensors of numbers. Given: \S+ is i4"),
        (of_small_numbers("f8e4m3"), X, {}, r"answers with tensors of numbers. Given: \S+ is f8e4m3"),
        (kinds.onnx_file, X, {"outputs": "logits"}, "answers with scores. Given: outputs='logits'"),
        (kinds.onnx_file, X, {"method": "predict"}, "takes the option outputs alone besides its input"),
        (written("a.onnx"), X, {}, "ONNX model's file can be read"),
        (written("a.xml"), X, {}, ".xml and .bin beside it"),
        (
            written("a.onnx", LFS),
            X,
            {},
            r"holds the model.* Given: .*a\.onnx', which is a pointer of Git LFS.*git lfs",
        ),
        (written("a.ubj", b"\n<!DOCTYPE HTML>"), X, {}, "holds the model. Given: .*which is a page of the web"),
        (
            lambda folder: beside(kinds.ir_file(folder), ".bin"),
            X,
            {},
            r"Given: .*\.bin', which is a pointer of Git LFS",
        ),
        (
            lambda folder: beside(file_of_two(folder), ".data"),
            X,
            {},
            r"Given: .*\.data', which is a pointer of Git",
        ),
        (written("a.pt"), X, {}, "is what torch.jit.save wrote"),
        (written("a.pt2"), X, {}, "is a whole zip archive"),
        (written("a.joblib"), X, {}, "a pickle is none"),
        (lambda folder: str(written("a.h5")(folder)), X, {}, r"file is ONNX, .*a\.h5.*Load it with the library"),
        (weights_alone, X, {}, "weights alone"),
        (lambda folder: folder / "none.onnx", X, {}, "A model's file is there"),
        (lambda _: b"nonsense", X, {}, "8 bytes of another kind"),
        (not_fitted, X, {}, "fitted before it is registered"),
        (kinds.forest, X[:, :3], {}, "tables of 6 columns. Given: one of 3"),
        (kinds.xgboost_booster, X[:, :3], {}, "tables of 6 columns. Given: one of 3"),
        (kinds.lightgbm_file, X[:, :3], {}, "tables of 6 columns. Given: one of 3"),
        (kinds.forest, (X, X), {}, "takes one table"),
        (kinds.forest, X, {"method": "guess"}, "one of the estimator's. Given: 'guess'"),
        (text_answers, X, {"method": "predict"}, "answers with numbers. Given: the answer is an array of dtype"),
        (lambda _: lambda a: None, X, {}, "answers with tensors or arrays of numbers"),
        (lambda _: lambda a: ["text"], X.numpy(), {}, "answers with tensors or arrays of numbers"),
        (lambda _: object(), X, {}, "a callable of tensors or arrays, a fitted estimator"),
        (weights_elsewhere, X, {}, "holds its weights. Given: weights in small.data"),
        (
            lambda _: kinds.program().module(),
            X,
            {},
            r"eval mode.* Register the program itself \(program, not program.mod",
        ),
        (
            lambda _: nn.Sequential(kinds.program().module(), nn.Tanh()),
            X,
            {},
            r"eval mode, all of it. Given: what an exported program's module\(\) gave: 0\.",
        ),
        (lambda _: kinds.onnx_graph(), X, {"outputs": 3}, "answers with scores. Given: outputs=3"),
        (lambda folder: folder, X, {}, "one file. Given: the folder"),
        (onnx_session, X, {}, "a session in each lane.* Register what it was made from: the .onnx file"),
        (compiled_model, X, {}, "compiles a model in each lane.* Register what it was compiled from"),
        (
            one_hot,
            LABELS[:4, None],
            {},
            "dense arrays. Given: the answer is a csr_matrix. Have it .*sparse_output=False",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_at_once(
    make: Any, example: Any, kwargs: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        make_submodel("resnet", make(tmp_path), example, kwargs=kwargs)
    assert "'resnet'" in str(refused.value)


def test_a_function_that_raises_is_a_model_error_with_its_own_words() -> None:
    def wrong(x: Any) -> Any:
        raise RuntimeError("no such thing")

    with pytest.raises(ModelError, match=r"'a' raised on its example.*no such thing"):
        make_submodel("a", wrong, X)


@pytest.mark.parametrize(
    ("package", "group", "make"),
    [
        ("onnxruntime", "onnx", lambda _: kinds.onnx_graph().SerializeToString()),
        ("openvino", "openvino", kinds.ir_file),
        ("lightgbm", "trees", written("a.txt")),
        ("xgboost", "trees", written("a.ubj")),
    ],
)
def test_a_missing_package_is_named_with_the_group_that_brings_it(
    package: str, group: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(UsageError, match=rf"needs the package {package}.*pip install 'esen_lab\[{group}\]'"):
        make_submodel("a", made, X)


def test_bfloat16_of_openvino_is_bfloat16_and_not_the_same_bits_of_float16(tmp_path: Path) -> None:
    submodel = make_submodel("a", of_small_numbers("bf16")(tmp_path), X)
    assert difference(answer(submodel), X.bfloat16()).agrees  # it rounds otherwise


def test_onnx_answers_with_whole_numbers_of_64_bits_without_a_sign(tmp_path: Path) -> None:
    submodel = make_submodel("a", answering("UINT64")(tmp_path), X.abs() * 100)
    assert answer(submodel, X.abs() * 100).dtype is torch.uint64


def test_a_quantized_network_keeps_no_state() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.ao.quantization.quantize_dynamic(kinds.network(), {nn.Linear}, dtype=torch.qint8)
    submodel = make_submodel("a", made, X)
    assert not submodel.traits.keeps_state
    assert torch.equal(answer(submodel), made(X))


@pytest.mark.parametrize(("package", "suffix"), [("lightgbm", "txt"), ("xgboost", "ubj")])
def test_a_package_that_is_there_and_does_not_load_is_named_with_why(
    package: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{package}.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=rf"The package {package} can be loaded. Given: OSError: libgomp.so.1: cannot"):
        make_submodel("a", written(f"a.{suffix}")(tmp_path), X)


def test_numbers_of_numpy_that_say_what_is_missing_go_along() -> None:
    """The example has nothing missing, so that it does not tell."""
    xgboost = pytest.importorskip("xgboost")
    holes = TABLE.copy()
    holes[::3] = -999
    made = xgboost.XGBClassifier(n_estimators=4, n_jobs=1, missing=np.float32(-999)).fit(holes, LABELS)
    submodel = make_submodel("a", made, X)
    wanted = torch.from_numpy(made.predict_proba(holes[:4]))
    assert difference(answer(submodel, torch.from_numpy(holes[:4])), wanted, OTHER_ORDER).agrees
    infinite = xgboost.XGBClassifier(n_estimators=4, n_jobs=1, missing=np.inf).fit(TABLE, LABELS)
    form = make_submodel("a", infinite, X).recipe
    assert isinstance(form, FileRecipe)
    assert form.form == "pickle", "JSON has no infinity, and exports are JSON"


def test_what_lightgbm_is_told_of_predicting_goes_along() -> None:
    """The example is of rows that it makes no difference to."""
    lightgbm = pytest.importorskip("lightgbm")
    told = {"pred_early_stop": True, "pred_early_stop_freq": 1, "pred_early_stop_margin": 8.0}
    made = lightgbm.LGBMClassifier(n_estimators=30, verbose=-1, n_jobs=1, **told).fit(TABLE, LABELS > 0)
    wanted = torch.from_numpy(made.predict_proba(TABLE))
    alike = (wanted[:, 1] - torch.from_numpy(made.booster_.predict(TABLE))).abs() < 1e-12
    assert 4 < alike.sum() < len(TABLE) - 4
    submodel = make_submodel("a", made, torch.from_numpy(TABLE)[alike])
    assert difference(answer(submodel, torch.from_numpy(TABLE)), wanted, OTHER_ORDER).agrees


def test_a_registration_leaves_the_users_script_as_it_is() -> None:
    script = kinds.script().train()
    before = io.BytesIO()
    torch.jit.save(script, before)
    submodel = make_submodel("a", script, X)
    assert script.training
    assert "was in training mode; workers run it in eval mode" in submodel.notes


def test_looking_for_kinds_loads_no_library() -> None:
    import subprocess

    code = (
        "import sys, torch, esen_lab.ensemble as e; e.make_submodel('a', torch.nn.Linear(2, 2), torch.ones(1, 2)); "
        "print([m for m in ('sklearn', 'xgboost', 'lightgbm', 'openvino', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_scripted_function_keeps_its_defaults() -> None:
    @torch.jit.script
    def times(x, k: int = 2, add: float = 1.0):  # type: ignore[no-untyped-def]
        return x * k + add

    x = torch.ones(2, 3)
    member = make_submodel("a", times, x)
    module = member.recipe.build()
    assert (module(x).max(), module(x, 5).max(), module(x, add=2.0).max()) == (3, 6, 4)


def test_a_program_whose_example_has_another_size_says_how_it_takes_others() -> None:
    program = torch.export.export(kinds.network(), (X,))
    with pytest.raises(ModelError, match=r"Guard failed.*export it with dynamic_shapes for others"):
        make_submodel("a", program, X[:3])
    with pytest.raises(ModelError, match=r"kwarg keyword mismatch.*export it with all arguments in kwargs"):
        make_submodel("a", program, {"input": X})


def test_a_program_that_was_cut_off_is_said_to_be_no_whole_archive() -> None:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(3, 2),)), buffer)
    for end in (-100, len(buffer.getvalue()) // 2):
        with pytest.raises(UsageError, match="a whole zip archive"):
            make_submodel("a", buffer.getvalue()[:end], torch.ones(3, 2))
