"""A worker whose sub-model writes to the worker's own socket: an error of ours, no code and no harm here."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from arenas import arena_of
from models import payload
from odd_writers import WRITERS, Writes

from esen_lab.errors import WorkerError
from esen_lab.lanes import ProcessWorker
from esen_lab.lanes.plain import NotPlain, check_structure, tokens_of, value_of


def load_and_run(worker: ProcessWorker, module: Writes) -> None:
    x = torch.ones(1, 8)
    worker.load("odd", payload(module), x, timeout_s=120)
    worker.arrange(("odd",), "serial")
    arena = arena_of(x)
    worker.set_input(arena.layouts[0], arena.block)
    arena.close()
    worker.start_run(1)
    worker.take_run(1)


@pytest.mark.parametrize("what", sorted(WRITERS))
def test_whatever_a_sub_model_writes_into_its_socket_ends_its_worker_at_most(
    worker: ProcessWorker, what: str, tmp_path: Path
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with contextlib.suppress(WorkerError):  # nothing else, and where it can be passed over, nothing at all
        load_and_run(worker, Writes(what, str(tmp_path / "unpickled")))
    worker.close()
    assert not (tmp_path / "unpickled").exists()
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # that of the listing itself


VALUES = [
    None, True, False, 0, -1, 2**63, -(2**63), 2**200, 1.5, float("inf"), "", "text", "\udc80", b"", b"\x00\xff",
    (), [], {}, (1, [2, {"a": (3.5, None)}]), {("a", 1): [b"x"]},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was_sent(value: object) -> None:
    back = value_of(tokens_of(value))
    assert back == value
    assert type(back) is type(value)


def test_what_is_no_plain_data_is_not_sent() -> None:
    with pytest.raises(TypeError, match="plain data"):
        tokens_of({"a": object()})


@pytest.mark.parametrize(
    "tokens", [[], [99], [3], [3, "a"], [9, 10**9], [9, -1], [11, 1, 10, 0, 0], [0, 0], [10, 1] * 10_000, [8, "€"], [8]]
)
def test_tokens_that_make_no_value_are_refused(tokens: list[int | float | str]) -> None:
    with pytest.raises(NotPlain):
        value_of(tokens)


@pytest.mark.parametrize(
    "structure", [(), "tensor", ("tensor", 1), ("tuple",), ("dict", ("a",), ()), ("dict", (1.5,), (("tensor",),)), (1,)]
)
def test_what_is_no_structure_of_a_tree_is_refused(structure: object) -> None:
    with pytest.raises(NotPlain):
        check_structure(structure)


def test_a_pickle_is_no_answer() -> None:
    with pytest.raises(NotPlain):
        value_of([8, pickle.dumps(1).decode("latin-1"), 0])
