"""How much a core's own caches hold, and that they are filled with something else before a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from esen_lab.profiler.caches import CacheFiller, private_cache_bytes


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


def test_this_machine_has_a_size() -> None:
    assert 2**16 <= private_cache_bytes() <= 2**24


def test_filling_writes_to_all_of_a_buffer_twice_as_large() -> None:
    import torch

    filler = CacheFiller(bytes_per_core=4096)
    filler()
    filler()
    assert filler._buffer.numel() * 4 == 2 * 4096 * torch.get_num_threads()
    assert bool((filler._buffer == 2).all())
