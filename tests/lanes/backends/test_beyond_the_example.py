"""Later inputs far from the example: an engine answers as PyTorch, leaves them to it, or was refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everybody calls it
from backend_nets import ORDINARY, executed, lacking
from torch import nn

from esen_lab.common.answers import difference
from esen_lab.common.trees import flatten
from esen_lab.errors import DeviceError
from esen_lab.lanes.backends import _executed, backend
from esen_lab.lanes.backends._agreement import Questions, agreement
from esen_lab.lanes.backends._cache import cache_for
from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._findings import Finding, Findings
from esen_lab.lanes.backends._guards import NOT_ZERO, Guarded
from esen_lab.lanes.backends._indices import checks_of
from esen_lab.lanes.backends._protocol import BackendSettings, Refused, form_of

ENGINES = [pytest.param(name, marks=lacking(name)) for name in ("openvino", "onnxruntime")]
P = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) + 0.5
NEGATIVE = torch.cat([-P[:, :4], P[:, 4:]], 1)
I = torch.arange(32).reshape(4, 8)  # noqa: E741  whole numbers
WIDE = torch.arange(1.0, 21.0).repeat(4, 1)
BYTES = I.to(torch.uint8)
TINY = I.to(torch.int8)
TABLE = nn.Embedding(10, 4)
OFFSETS = torch.tensor([0, 0, 2, 2, 4, 4, 6, 6])

LATER: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]] = {
    "relu of a logarithm": (lambda x: F.relu(torch.log(x)), (P,), (NEGATIVE,)),
    "relu of a root": (lambda x: F.relu(torch.sqrt(x)), (P,), (NEGATIVE,)),
    "clamp of a root": (lambda x: torch.clamp(torch.sqrt(x), 0.1, 2.0), (P,), (NEGATIVE,)),
    "maximum with a root": (lambda x: torch.maximum(torch.sqrt(x), x), (P,), (NEGATIVE,)),
    "amax of a root": (lambda x: torch.sqrt(x).amax(1), (P,), (NEGATIVE,)),
    "sort of a root": (lambda x: torch.sort(torch.sqrt(x))[0], (P,), (NEGATIVE,)),
    "max_pool1d of a root": (lambda x: F.max_pool1d(torch.sqrt(x), 2), (P,), (NEGATIVE,)),
    "the sign of zero": (torch.signbit, (P,), (-P * 0,)),
    "an angle at zero": (lambda x: torch.atan2(x, -P), (P,), (-P * 0,)),
    "a mask that leaves nothing": (
        lambda x, m: F.scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=(m[:, :4] != 0)[None]),
        (P, I * 0 + 1),
        (P, I * 0),
    ),
    "a mean of nothing": (lambda x: x[x > 0].mean(), (torch.cat([P, -P]),), (torch.cat([-P, -P]),)),
    "a half": (lambda x: x.half().float(), (P,), (P * 1e5,)),
    "logsigmoid": (F.logsigmoid, (P,), (-P * 1e3,)),
    "floats to whole numbers": (lambda x: (x * 10).to(torch.int64), (P,), (P * 1e10,)),
    "64 bits, remainder": (lambda x: x % 1000, (I,), (I + 2**40,)),
    "64 bits, comparison": (lambda x: (x > 5).float(), (I,), (I + 2**33,)),
    "64 bits, sum": (lambda x: x.sum(1), (I,), (I + 2**30,)),
    "64 bits, power": (lambda x: x**3, (I,), (I * 1000,)),
    "64 bits, cumsum": (lambda x: torch.cumsum(x, 1), (I,), (I * 10**9,)),
    "floor division": (lambda x: x // 3, (I,), (I - 16,)),
    "bytes, sum": (lambda x: x + 100, (BYTES,), (BYTES + 200,)),
    "bytes, difference": (lambda x: x - 20, (BYTES + 20,), (BYTES,)),
    "bytes, product": (lambda x: x * 3, (BYTES,), (BYTES + 100,)),
    "8 bits, negated": (torch.neg, (TINY,), (torch.full((4, 8), -128, dtype=torch.int8),)),
    "8 bits, absolute": (torch.abs, (TINY,), (torch.full((4, 8), -128, dtype=torch.int8),)),
    "division by 0": (lambda x: 1000 // x, (I + 1,), (I,)),
    "a row that is not there": (TABLE, (I % 10,), (I,)),
    "a row before the first": (TABLE, (I % 10,), (I % 10 - 1,)),
    "a computed row": (lambda x: TABLE(x + OFFSETS), (I % 3,), (I % 8,)),
    "a row found by a float": (lambda x: TABLE((x * 3).long()), (P,), (P * 10,)),
    "a row found among more places than there are rows": (lambda x: TABLE(x.argmax(1)), (WIDE.flip(1),), (WIDE,)),
    "a row found between more ends than there are rows": (
        lambda x: TABLE(torch.bucketize(x, WIDE[0] / 10)),
        (P / 10,),
        (P,),
    ),
    "a row found by a layer": (lambda x: TABLE((x @ torch.ones(8, 3) / 8).long()), (P,), (P * 10,)),
    "a logarithm beside a row": (
        lambda x: TABLE(x[:, :2].long()).sum() + F.relu(torch.log(x[:, 2:])),
        (P,),
        (torch.cat([P[:, :2], -P[:, 2:]], 1),),
    ),
    "a logarithm, the example being zeros": (lambda x: F.relu(torch.log(x)), (P * 0,), (NEGATIVE,)),
    "whole numbers like another tensor's": (lambda x, i: (x * 10).type_as(i), (P, I), (P * 1e10, I)),
    "a mean of ids in floats": (lambda x: TABLE(x.mean(1).long()), (P,), (P * 10,)),
    "a place in all of a table": (lambda x: torch.take(TABLE.weight, (x * 3).long()), (P,), (P * 100,)),
    "a column that is not there": (lambda x, i: x[:, i], (P, torch.tensor([0, 1])), (P, torch.tensor([7, 9]))),
    "a column from the end": (lambda x, i: x[:, i], (P, torch.tensor([0, 1])), (P, torch.tensor([-1, -8]))),
    "gather from before the first": (lambda x, i: torch.gather(x, 1, i), (P, I % 8), (P, I % 8 - 1)),
    "one_hot above its classes": (lambda i: F.one_hot(i, 10).float(), (I % 10,), (I % 10 + 5,)),
}


class Function(nn.Module):
    """A network that is one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.table = TABLE

    def forward(self, *x: torch.Tensor) -> Any:
        return self.function(*x)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as problem:
        return type(problem)


def cases(kinds: Iterable[str], quick: Container[str]) -> list[Any]:
    """Every engine with every kind; ONNX Runtime, which exports for seconds, quickly with those that need guards."""
    return [
        pytest.param(
            name, kind, marks=[lacking(name)] + [pytest.mark.slow] * (name != "openvino" and kind not in quick)
        )
        for name in ("openvino", "onnxruntime")
        for kind in kinds
    ]


@pytest.fixture(autouse=True)
def _time_to_ask_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is; tests of what is left out for want of time have a time of their own."""
    monkeypatch.setattr(_executed, "until", lambda _: time.monotonic() + 60.0)


@pytest.mark.parametrize(
    ("name", "kind"), cases(LATER, {"logsigmoid", "amax of a root", "a row before the first", "a computed row"})
)
def test_a_later_input_is_answered_as_by_pytorch_or_the_engine_was_refused(name: str, kind: str) -> None:
    function, example, later = LATER[kind]
    module = Function(function).eval()
    fast = executed(module, name)
    with torch.inference_mode():
        try:
            fast(*example)
        except DeviceError as problem:
            assert "can execute the sub-model. Given: " in str(problem)  # noqa: PT017  one of two good ends
            return
        wanted, found = (outcome(lambda by=by: by(*later)) for by in (module, fast))
    if isinstance(wanted, type):
        assert found is wanted
    else:
        assert difference(found, wanted).agrees, str(difference(found, wanted))


@pytest.mark.parametrize(("name", "kind"), cases(ORDINARY, {"encoder", "mlp", "recommends"}))
def test_ordinary_networks_keep_their_engine(name: str, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    make, example, later = ORDINARY[kind]
    torch.manual_seed(0)
    module = make().eval()
    fast = executed(module, name)
    asked: list[int] = []
    with torch.inference_mode():
        fast(*example())
        module.register_forward_hook(lambda *_: asked.append(1))
        for x in (example(), later()):
            answer = [leaf.clone() for leaf in [fast(*x)]]
            assert not asked  # the engine has it
            assert difference(answer[0], module(*x)).agrees
            asked.clear()
    assert not [w for w in recwarn if "compared" in str(w.message)]


@lacking("openvino")
def test_a_mask_that_leaves_nothing_is_left_to_eager_and_others_keep_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO makes NaN of a row that may attend to nothing, PyTorch zeros."""
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    asked: list[int] = []

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            asked.append(1)
            return F.scaled_dot_product_attention(x, x, x, attn_mask=(mask != 0)[:, None])

    x, some = P.reshape(1, 8, 4), (I[:1] < 5).long()
    for mask, own_threads in ((some, True), (some.bool(), False)):
        for session in ("first", "second"):
            settings = BackendSettings(cache=cache_for(str(mask.dtype), "openvino", "1"), own_threads=own_threads)
            fast = Executed(Attention().eval(), "openvino", backend("openvino"), settings)
            with torch.inference_mode():
                fast(x, mask)
                asked.clear()
                torch.testing.assert_close(fast(x, mask.roll(2)), fast.module(x, mask.roll(2)))
                assert len(asked) == 1, f"the {session} session has the engine for other masks"
                wanted = fast.module(x, mask & False)
                torch.testing.assert_close(fast(x, mask & False), wanted)
                wait = fast.begin(x, mask & False)
                assert wait is not None
                torch.testing.assert_close(wait(), wanted)


@lacking("openvino")
def test_a_refusal_names_the_inputs_and_the_difference() -> None:
    with torch.no_grad(), pytest.raises(DeviceError, match=r"for inputs of the other sign it differs .*: NaN or inf"):
        executed(Function(lambda x: F.relu(torch.log(x))), "openvino")(P)


@lacking("openvino")
def test_whole_numbers_have_the_widest_range_in_which_an_engine_agrees() -> None:
    known: list[tuple[Callable[..., Any], tuple[int, int]]] = [
        (lambda x: x // 3, (0, 2**24)),  # it divides as floats of 32 bits do
        (lambda x: x > 5, (1 - 2**31, 2**31 - 1)),
        (TABLE, (0, 9)),
    ]
    for function, within in known:
        fast = executed(Function(function), "openvino")
        with torch.no_grad():
            fast(I % 10)
        (call,) = fast._calls.values()
        assert isinstance(call, Guarded)
        assert call._guards.ranges == {0: within}


@pytest.mark.parametrize(
    ("function", "within"),
    [
        (lambda i: TABLE(i.clamp(0, 9)), []),
        (lambda i: TABLE(i % 10), []),
        (lambda i: TABLE(i.argmax(1)), []),
        (lambda i: TABLE(i.sort()[1]), []),
        (lambda i: TABLE(torch.cumsum(i.ne(0).long(), 1) + 1), []),
        (lambda i: TABLE(torch.arange(8)) + i[..., None], []),
        (lambda i: 1000 // (i.clamp(0, 9) + 1), []),
        (lambda i: TABLE(i.clamp(0, 10)), [(0, 9)]),
        (lambda i: TABLE((i.clamp(0, 200) + 0).to(torch.int8).int()), [(0, 9)]),  # 200 wraps
        (lambda i: TABLE(i.view(-1)[None]), [(0, 9)]),
        (lambda i: TABLE(i + 1) + TABLE(i + OFFSETS), [(0, 9), (0, 9)]),
        (lambda i: TABLE.weight[i], [(-10, 9)]),
        (lambda i: 1000 // i, [NOT_ZERO]),
    ],
)
def test_only_what_an_input_can_bring_outside_is_looked_at(
    function: Callable[..., Any], within: list[tuple[int, int]]
) -> None:
    program = torch.export.export(Function(function).eval(), (I % 3 + 1,))
    assert [check.within for check in checks_of(program)] == within


@lacking("openvino")
def test_an_engine_does_not_begin_on_what_it_may_not_have() -> None:
    module = Function(TABLE).eval()
    fast = Executed(module, "openvino", backend("openvino"), BackendSettings(own_threads=True))
    with torch.inference_mode():
        fast(I % 10)
        wait = fast.begin(I % 9)
        assert wait is not None
        torch.testing.assert_close(wait(), module(I % 9))
        assert fast.begin(I) is None


@pytest.mark.parametrize("name", ENGINES)
def test_a_network_of_floats_or_of_pixels_in_bytes_has_no_guards(name: str) -> None:
    for function, x in ((lambda x: x * 2, P), (lambda x: x.float() / 255, BYTES)):
        fast = executed(Function(function), name)
        with torch.no_grad():
            fast(x)
        assert not any(isinstance(call, Guarded) for call in fast._calls.values())


@pytest.mark.parametrize("name", ENGINES)
def test_what_reads_a_file_at_each_call_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "scale.txt"
    file.write_text("2")
    with torch.no_grad(), pytest.raises(DeviceError, match=r"it reads .*scale\.txt"):
        executed(Function(lambda x: x * float(file.read_text())), name)(P)


@pytest.mark.parametrize("name", ENGINES)
def test_what_probes_have_shown_is_kept_and_guards_as_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    for function, example in ((TABLE, I % 10), (lambda x: TABLE(x + OFFSETS), I % 3)):
        counted = []
        for _ in range(2):
            asked: list[int] = []
            fast = executed(Function(function), name, cache_for(str(example), name, "1"))
            fast.module.register_forward_hook(lambda *_, asked=asked: asked.append(1))
            with torch.no_grad():
                fast(example)
                counted.append(len(asked))
                with pytest.raises(IndexError):
                    fast(I)
        assert counted[1] <= 2 < counted[0]  # the first answer, and tracing where a check computes


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", ["floats to whole numbers", "a row found by a float", "logsigmoid"])
def test_a_later_session_answers_or_refuses_as_the_first_did_whatever_of_the_engine_is_kept(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    function, example, later = LATER[kind]

    def session() -> Any:
        fast = executed(Function(function), name, cache_for(kind, name, "1"))
        with torch.no_grad():
            try:
                fast(*example)
            except DeviceError as problem:
                return str(problem)
            return outcome(lambda: fast(*later).tolist())

    first = session()
    assert [session(), session()] == [first, first]
    with torch.no_grad():
        assert isinstance(first, str) or str(first) == str(outcome(lambda: function(*later).tolist()))
    for findings in tmp_path.glob("backends-1/*"):  # as if the engine had been kept and what probes show had not
        if findings.stat().st_size < 1000 and b"refused" in findings.read_bytes():
            findings.unlink()
    assert session() == first


def test_a_kept_refusal_is_read_before_anything_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    cache = cache_for("f", "openvino", "1")
    assert cache is not None
    leaves, structure = flatten(([P], {}))
    Findings(cache=cache, form=form_of(leaves, structure)).keep(Finding(refused="it was seen to be wrong"))
    fast = Executed(Function(torch.neg), "openvino", backend("openvino"), BackendSettings(cache=cache))
    monkeypatch.setattr(backend("openvino"), "prepare", None)
    for _ in range(2):
        with torch.no_grad(), pytest.raises(DeviceError, match="Given: it was seen to be wrong"):
            fast(P)


def questions(engine: Callable[[torch.Tensor], Any], example: torch.Tensor, **more: Any) -> Questions:
    given: dict[str, Any] = {"network": lambda leaves: leaves[0] * 2, "precision": "", "allowed": {"float32": 1e-3}}
    return Questions(
        **{**given, "engine": lambda leaves: engine(leaves[0]), "example": [example], "until": time.monotonic() + 60}
        | more
    )


def test_an_engine_that_loses_a_nan_rounds_wrongly_or_raises_is_refused() -> None:
    engines: list[tuple[Callable[[torch.Tensor], Any], str]] = [
        (lambda x: x * torch.where(x < 0, 2.01, 2.0), "5.0e-03 of the largest"),
        (lambda x: torch.where(x < 0, torch.nan, x * 2), "NaN or infinity"),
        (lambda x: (x * 2)[:1] if x.min() < 0 else x * 2, "another shape"),
        (lambda x: x * 2 if x.min() > 0 else 1 / 0, "division by zero"),
    ]
    for engine, why in engines:
        with pytest.raises(Refused, match=f"for inputs of the other sign it differs from PyTorch: .*{why}"):
            agreement(questions(engine, P), (), huge=False)
    agreement(questions(lambda x: x * 2.001, P), (), huge=False)


def test_what_a_nudge_changes_as_much_is_rounding() -> None:
    def network(leaves: Any) -> torch.Tensor:
        return torch.softmax(leaves[0] * 1e6, 1)

    def engine(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * 1.0000005 * 1e6, 1)

    agreement(questions(engine, P, network=network), (), huge=False)
    with pytest.raises(Refused):
        agreement(questions(lambda x: engine(x) * 1.5, P, network=network), (), huge=False)


def test_where_the_time_is_up_it_is_said_what_was_not_compared() -> None:
    asked = questions(lambda x: x * 2, P, until=time.monotonic())
    agreement(asked, (), huge=False)
    assert asked.left[0] == "large inputs of both signs (1000 times the example)"
    asked = questions(lambda x: x * 2, P)
    agreement(asked, (), huge=False)
    assert asked.left == []


@lacking("openvino")
def test_what_was_not_compared_is_said_in_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    monkeypatch.setattr(_executed, "until", lambda _: time.monotonic())
    for _ in range(2):
        with torch.no_grad(), pytest.warns(UserWarning, match="was not compared with PyTorch for large inputs"):
            executed(Function(torch.neg), "openvino", cache_for("f", "openvino", "1"))(P)


def test_without_time_whole_numbers_keep_to_what_was_compared() -> None:
    def engine(x: torch.Tensor) -> torch.Tensor:
        return (x.int() * 2).long()  # 32 bits

    assert agreement(questions(engine, I, until=time.monotonic()), (), huge=False).ranges == {0: (0, 31)}
    assert agreement(questions(engine, I), (), huge=False).ranges == {0: (-(2**24), 2**24)}


@pytest.mark.timing
@lacking("openvino")
def test_guards_cost_less_than_ten_microseconds_a_call() -> None:
    fast = executed(Function(TABLE), "openvino")
    with torch.inference_mode():
        fast(torch.randint(0, 10, (16, 128)))
        (call,) = fast._calls.values()
        assert isinstance(call, Guarded)
        x = [torch.randint(0, 10, (16, 128))]
        times = []
        for _ in range(300):
            begun = time.perf_counter()
            call._guards.pass_on(x)
            times.append(time.perf_counter() - begun)
    assert min(times) < 10e-6


def test_an_input_at_which_pytorch_raises_is_none_for_an_engine_that_nothing_keeps_from_it() -> None:
    def network(leaves: Any) -> torch.Tensor:
        if leaves[0].max() > 100:
            raise IndexError("there is no such row")
        return leaves[0] * 2

    with pytest.raises(Refused, match=r"for large inputs of both signs .* PyTorch raises IndexError"):
        agreement(questions(lambda x: x * 2, P, network=network), (), huge=False)


def test_floats_that_overflow_in_a_probe_are_not_asked_for() -> None:
    asked: list[bool] = []

    def engine(x: torch.Tensor) -> torch.Tensor:
        asked.append(bool(x.isfinite().all()))
        return x * 2

    agreement(questions(engine, (P * 100).half(), allowed={"float16": 1e-2}), (), huge=True)
    assert all(asked)
