from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.common.trees import call_with, flatten
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.program import check_program, load_program, save_program
from esen_lab.errors import StoreError, UsageError


class Asks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else -x


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, Any]:
        return {"logits": self.net(ids * mask), "more": (ids,)}


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU()), torch.randn(2, 3)),
        (nn.Bilinear(3, 3, 2), (torch.randn(2, 3), torch.randn(2, 3))),
        (Keyed(), {"mask": torch.ones(2, 3), "ids": torch.randn(2, 3)}),
        (nn.Linear(3, 2), torch.randn(1, 3)),
    ],
    ids=["tensor", "tuple", "dict", "batch of one"],
)
def test_a_program_gives_the_same_bits(module: nn.Module, x: Any) -> None:
    module.eval()
    again = load_program(save_program(module, x))
    with torch.inference_mode():
        assert same_bits(flatten(call_with(module, x))[0], flatten(call_with(again, x))[0])


def test_the_batch_may_change() -> None:
    module = nn.Linear(3, 2).eval()
    again = load_program(save_program(module, torch.randn(2, 3)))
    x = torch.randn(7, 3)
    assert torch.equal(again(x), module(x))


def test_a_batch_that_cannot_be_left_open_is_the_examples() -> None:
    class LooksUp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * {2: 0.5, 4: 0.25}[x.shape[0]]

    x = torch.randn(4, 3)
    again = load_program(save_program(LooksUp(), x))
    assert torch.equal(again(x), x * 0.25)


def test_what_torch_export_cannot_take_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"torch\.export can take") as caught:
        save_program(Asks(), torch.ones(2))
    assert "\n" not in str(caught.value)


def test_a_program_that_holds_a_pickle_is_refused() -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    pickled = io.BytesIO()
    torch.save((Payload(),), pickled)
    good = save_program(nn.Linear(3, 2).eval(), torch.randn(2, 3))
    for swapped, name in ((pickled.getvalue(), "model.pt"), (b"pickle", "opaque_obj_0")):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w") as new:
            for entry in old.namelist():
                if not entry.endswith(name):
                    new.writestr(entry, old.read(entry))
            new.writestr(f"archive/data/sample_inputs/{name}", swapped)
        with pytest.raises(StoreError, match="weights and JSON only"):
            load_program(out.getvalue())


def test_weights_that_are_marked_as_pickles_are_refused() -> None:
    good = save_program(nn.Linear(3, 2).eval(), torch.randn(2, 3))
    with pytest.raises(StoreError, match="pickles, by archive/data/weights"):
        load_program(replaced(good, b'"use_pickle": false', b'"use_pickle": true'))


def test_loading_a_program_runs_what_it_says_which_is_why_programs_are_code(tmp_path: Path) -> None:
    good = save_program(nn.Linear(3, 2).eval(), torch.randn(2, 3))
    ran = tmp_path / "ran"
    code = f"__import__('pathlib').Path('{ran}').touch()"
    bad = replaced(good, b"Symbol('s31', positive=True, integer=True)", code.encode())
    assert bad != good, "the name of the first free dimension is another one in this version of torch"
    check_program(bad)
    with contextlib.suppress(Exception):
        load_program(bad)
    assert ran.exists(), "torch evaluates expressions no more: say so in program.py and docs/security.md"


def replaced(program: bytes, old: bytes, new: bytes) -> bytes:
    """A program with other text in its JSON."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as was, zipfile.ZipFile(out, "w") as made:
        for entry in was.namelist():
            made.writestr(entry, was.read(entry).replace(old, new) if entry.endswith(".json") else was.read(entry))
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip"])
def test_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        check_program(data)
