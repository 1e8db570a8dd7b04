"""Labs on both sides of a fork: what had lanes at work refuses everything in the child, and goes on in the parent."""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import mlp

from esen_lab import Lab
from esen_lab.errors import UsageError
from esen_lab.lanes import ForkServer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.own_helper,
]


def in_child(work: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """What `work` returns or raises in a forked child; a child that hangs is ended."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Of a child that hangs: where. Not by `dump_traceback_later`, which waits for the thread of the parent's own.
        faulthandler.register(signal.SIGALRM)
        signal.alarm(int(timeout_s * 0.9))
        try:
            found: Any = work()
        except BaseException as problem:
            found = problem
        try:
            os.write(theirs, pickle.dumps(found) if not isinstance(found, BaseException) else pickle.dumps(str(found)))
        finally:
            os._exit(0)
    os.close(theirs)
    timer = threading.Timer(timeout_s, os.kill, (pid, 9))
    timer.start()
    try:
        with os.fdopen(ours, "rb") as pipe:
            data = pipe.read()
    finally:
        timer.cancel()
        timer.join()
        os.waitpid(pid, 0)
    return pickle.loads(data) if data else "no answer"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """For all: whatever a child does leaves it as it was."""
    with Lab(device="cpu", store=tmp_path_factory.mktemp("store") / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        lab.register("b", mlp(seed=2))
        lab.run(X)
        yield lab


ASKED: dict[str, Callable[[Lab], Any]] = {
    "run": lambda lab: lab.run(X),
    "profile": lambda lab: lab.profile(),
    "compare": lambda lab: lab.compare(X),
    "register": lambda lab: lab.register("c", mlp()),
    "status": lambda lab: lab.status(),
    "the plan": lambda lab: lab.plan,
    "entering": lambda lab: lab.__enter__(),
}


@pytest.mark.parametrize("what", ASKED)
def test_whatever_is_asked_in_a_child_is_refused_with_what_to_do(used: Lab, what: str) -> None:
    told = in_child(lambda: ASKED[what](used))
    assert "process that made it" in told
    assert "post_fork" in told


def test_closing_or_dropping_a_lab_in_a_child_ends_nothing_of_the_parents(used: Lab) -> None:
    wanted = used.run(X)
    assert in_child(lambda: used.close()) is None  # noqa: PLW0108  looked up in the child

    def drop() -> str:
        nonlocal used
        del used
        gc.collect()
        return "dropped"

    assert in_child(drop) == "dropped"
    assert torch.equal(used.run(X), wanted)


def test_parent_and_child_never_get_each_others_answers(used: Lab) -> None:
    wanted = used.run(X)
    for _ in range(5):
        assert "process that made it" in in_child(lambda: used.run(X + 1))
        assert torch.equal(used.run(X), wanted)


def compute_with_several_threads() -> None:
    """Leaves threads of OpenMP that the child will not have."""
    a, b = torch.randn(400_000), torch.empty(400_000)
    for _ in range(20):
        b.copy_(a)


@pytest.mark.parametrize("made_in", ["the parent", "the child"])
def test_a_child_runs_though_its_parent_computed_with_several_threads(tmp_path: Path, made_in: str) -> None:
    wanted = mlp(seed=1)(X).detach()

    def made() -> Lab:
        lab = Lab(device="cpu", store=tmp_path / "profiles.sqlite")
        lab.register("a", mlp(seed=1), example=X)
        return lab

    early = made() if made_in == "the parent" else None
    compute_with_several_threads()

    def child() -> bool:
        with early or made() as lab:
            return all(torch.allclose(lab.run(X), wanted) for _ in range(3))

    try:
        assert in_child(child) is True
    finally:
        if early is not None:
            early.close()


def test_a_lab_that_was_not_used_yet_works_in_the_child_and_in_the_parent(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        wanted = mlp(seed=1)(X).detach()

        def child() -> bool:
            answer = lab.run(X)
            lab.close()
            return torch.allclose(answer, wanted)

        assert in_child(child) is True
        torch.testing.assert_close(lab.run(X), wanted)


def test_a_lab_whose_lock_another_thread_held_can_be_used_in_the_child(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with lab._runtime.lock:
                held.set()
                go.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        try:
            assert in_child(lambda: lab.status().next_step) != "no answer"
        finally:
            go.set()
            holder.join()


def test_a_fork_server_with_workers_refuses_in_a_child(used: Lab) -> None:
    fork_server: ForkServer = used._runtime.fork_server

    def ask() -> None:
        with pytest.raises(UsageError, match="process that made it"):
            fork_server.check_here()

    assert in_child(ask) is None
