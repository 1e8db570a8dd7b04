"""How much a core's own caches hold, and that they are filled with something else before a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from profiling_fakes import FakeDevice, FakeEnsemble, FakeForkServer, FakeSubModel, FakeWorker

from esen_lab.profiler.caches import CacheFiller, private_cache_bytes, shared_cache_bytes, weights_evicted
from esen_lab.profiler.job import start_profile
from esen_lab.profiler.store import ProfileStore


def described(root: Path, *caches: tuple[str, str]) -> str:
    for index, (level, size) in enumerate(caches):
        folder = root / "cpu3" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    return str(root)


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        ((("1", "48K"), ("1", "64K"), ("2", "1280K"), ("3", "36864K")), 1280 * 2**10),
        ((("2", "2M"),), 2 * 2**20),
        ((("2", "1024M"),), 16 * 2**20),
        ((("2", "large"), ("3", "36864K")), 2 * 2**20),
        ((), 2 * 2**20),
    ],
)
def test_the_second_level_counts_within_reason(tmp_path: Path, caches: tuple[tuple[str, str], ...], size: int) -> None:
    assert private_cache_bytes(3, described(tmp_path, *caches)) == size


def test_the_third_level_counts_within_reason_where_it_is_told_of(tmp_path: Path) -> None:
    for number, (size, counts) in enumerate({"36864K": 36 * 2**20, "4096M": 256 * 2**20, "large": 0}.items()):
        assert shared_cache_bytes(3, described(tmp_path / str(number), ("2", "2M"), ("3", size))) == counts
    assert shared_cache_bytes(3, described(tmp_path / "none", ("2", "2M"))) == 0


def test_this_machine_has_a_size() -> None:
    assert 2**16 <= private_cache_bytes() <= 2**24


def test_filling_writes_to_all_of_a_buffer_twice_as_large() -> None:
    import torch

    filler = CacheFiller(bytes_per_core=4096)
    filler()
    filler()
    assert filler._buffer.numel() * 4 == 2 * 4096 * torch.get_num_threads()
    assert bool((filler._buffer == 2).all())
    assert CacheFiller(bytes_per_core=4096, shared=2**20)._buffer.numel() * 4 == 2 * 2**20, "and the shared one"


def test_weights_are_evicted_where_all_of_them_are_more_than_the_cores_share() -> None:
    two = FakeEnsemble(tuple(FakeSubModel(name=name, fingerprint=name, memory_bytes=600) for name in "ab"))
    room = {1199: True, 1200: False, 0: False}  # 0: nobody tells
    assert {size: weights_evicted(two, Roomy(shared_cache_bytes=size)) for size in room} == room  # type: ignore[arg-type]


@dataclass(frozen=True)
class Roomy(FakeDevice):
    shared_cache_bytes: int = 0


def test_points_of_members_that_evict_each_other_are_measured_so_and_kept_apart(store: ProfileStore) -> None:
    asked: list[bool] = []

    class Worker(FakeWorker):
        def call(self, *args: Any, evicted: bool, **kwargs: Any) -> Any:
            asked.append(evicted)
            return super().call(*args, **kwargs)

    class Server(FakeForkServer):
        def worker(self, placement: Any, **_: Any) -> FakeWorker:
            return Worker(self, placement.units)

    one = FakeSubModel(name="a", fingerprint="a", memory_bytes=600)
    both = (one, replace(one, name="b", fingerprint="b"))
    for submodels, reused in (((one,), 0), (both, 0), (both, 2), ((one,), 1)):
        job = start_profile(
            FakeEnsemble(submodels),  # type: ignore[arg-type]
            Roomy(shared_cache_bytes=1000),
            Server(),  # type: ignore[arg-type]
            store,
            shares=[1],
            budget_s=0.01,
        )
        assert sum(point.reused for point in job.result(timeout=60).points) == reused
    assert asked == [False, True, True]
