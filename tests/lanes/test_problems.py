"""What went wrong in a lane is told with what to do about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esen_lab.lanes.problems import described, error_from


def test_a_program_that_was_exported_for_one_size_says_how_it_takes_others() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),)).module()
    with pytest.raises(AssertionError) as caught:
        program(torch.randn(5, 3))
    told = str(error_from(described(caught.value)))
    assert "Guard failed" in told
    assert "export it with dynamic_shapes for others" in told


def test_any_other_error_of_a_sub_model_is_told_as_it_is() -> None:
    assert not error_from(described(AssertionError("the batch is odd"))).hint
