from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esen_lab.common.trees import flatten
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.errors import StoreError, UsageError
from esen_lab.export.arrays import load_tree, save_tree

A, B = torch.randn(2, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("tree", "suffix"),
    [
        (A, ".npy"),
        (A, ".npz"),
        ((A, B), ".npz"),
        ([A], ".npz"),
        ({"ids": B, "file": A, "deep": (A, {"x": B}), "none": None}, ".npz"),
        ({"a/b": A, "../c": B}, ".npz"),
        (A.bfloat16(), ".npy"),
        (A.to(torch.float8_e4m3fn), ".npy"),
        (torch.complex(A, A).to(torch.complex32), ".npy"),
    ],
    ids=str,
)
def test_a_tree_comes_back(tmp_path: Path, tree: Any, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    save_tree(path, tree)
    found = load_tree(path, tree)
    assert flatten(found)[1] == flatten(tree)[1]
    assert same_bits(flatten(found)[0], flatten(tree)[0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_numpys_own_files_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=np.ones(2, dtype=np.int32), mask=np.ones(2, dtype=np.float32))
    found = load_tree(tmp_path / "x.npz", {"mask": A, "ids": B})
    assert list(found) == ["mask", "ids"]
    assert found["ids"].dtype == torch.int64


@pytest.mark.parametrize("like", [A, A.half(), A.bfloat16(), A.to(torch.float8_e5m2)], ids=lambda t: str(t.dtype))
def test_doubles_are_refused_and_not_rounded(tmp_path: Path, like: torch.Tensor) -> None:
    np.savez(tmp_path / "x.npz", image=np.ones((5, 3)))
    with pytest.raises(UsageError, match=r"Given: image: float64\. Convert it with astype"):
        load_tree(tmp_path / "x.npz", {"image": like})


def test_numbers_that_the_dtype_lacks_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1.0, 1.00001, np.nan], dtype=np.float32))
    with pytest.raises(UsageError, match="the input with numbers that bfloat16 does not have"):
        load_tree(tmp_path / "x.npy", A.bfloat16())


def test_an_array_too_many_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=B.numpy(), mask=B.numpy())
    with pytest.raises(UsageError, match="with mask"):
        load_tree(tmp_path / "x.npz", {"ids": B})


def test_a_tree_does_not_fit_an_npy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends with \.npz"):
        save_tree(tmp_path / "x.npy", (A, B))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "like"),
    [
        (np.ones(2), B),
        (np.ones(2, dtype=np.int64), A),
        (np.ones(2, dtype=np.complex64), A),
        (np.array([300]), B.byte()),
    ],
)
def test_another_kind_of_numbers_is_refused(tmp_path: Path, array: Any, like: torch.Tensor) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UsageError, match="kind of numbers"):
        load_tree(tmp_path / "x.npy", like)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=np.ones(2))
    with pytest.raises(UsageError, match=r"ids, mask\. Given: .*with ids"):
        load_tree(tmp_path / "x.npz", {"ids": A, "mask": A})


@pytest.mark.parametrize("data", [b"", b"not numpy", b"PK\x03\x04broken"])
def test_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(StoreError, match=r"\.npy and \.npz"):
        load_tree(tmp_path / "x.npy", A)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError):
        load_tree(tmp_path / "x.npy", A)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone"):
        load_tree(tmp_path / "gone.npy", A)
    with pytest.raises(StoreError, match="gone"):
        save_tree(tmp_path / "gone" / "y.npy", A)


def test_paths_that_read_alike_are_names_of_their_own(tmp_path: Path) -> None:
    tree = {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}
    save_tree(tmp_path / "x.npz", tree)
    again = load_tree(tmp_path / "x.npz", tree)
    assert (again["a/b"].item(), again["a"]["b"].item()) == (1, 0)
