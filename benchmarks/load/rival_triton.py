"""The ensemble of `load_models.py` as people put it into Triton: a model for each member, one that averages, scheduled.

Written by hand and not by esen_lab: no pinned cores, no lanes, torch and Triton at their defaults. With `batches` each
member has Triton's dynamic batching with its defaults besides.
"""

from __future__ import annotations

from pathlib import Path

from load_models import RIVALS, WIDTH

NAME = "ensemble"
_MEMBER = """\
import sys

sys.path[:0] = [{here!r}]
import torch
import triton_python_backend_utils as triton
from load_models import member
from torch.utils.dlpack import from_dlpack


class TritonPythonModel:
    def initialize(self, args):
        self.model = member({name!r})

    def execute(self, requests):
        inputs = [from_dlpack(triton.get_input_tensor_by_name(one, "INPUT").to_dlpack()) for one in requests]
        with torch.inference_mode():
            answers = self.model(torch.cat(inputs)).split([len(one) for one in inputs])
            return [
                triton.InferenceResponse([triton.Tensor.from_dlpack({output!r}, one.clone().__dlpack__())])
                for one in answers
            ]
"""
_MEAN = """\
import torch
import triton_python_backend_utils as triton
from torch.utils.dlpack import from_dlpack

NAMES = {names!r}


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for one in requests:
            parts = [from_dlpack(triton.get_input_tensor_by_name(one, name).to_dlpack()) for name in NAMES]
            mean = torch.stack(parts).mean(0)
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack("OUTPUT", mean.__dlpack__())]))
        return answers
"""


def write_repository(folder: Path, *, batches: bool, most_rows: int = 16) -> None:
    """Write it into a folder.

    Args:
        folder: Made here.
        batches: With dynamic batching; else a request is a batch.
        most_rows: The largest batch.
    """
    more = "dynamic_batching { }\n" if batches else ""
    size = f"max_batch_size: {most_rows}\n"
    steps, answers = [], []
    for name in RIVALS:
        output = f"ANSWER_{name}"
        answers.append(output)
        program = _MEMBER.format(here=str(Path(__file__).parent), name=name, output=output)
        config = _tensor("input", "INPUT", WIDTH) + _tensor("output", output, 10)
        _model(folder, name, f'backend: "python"\n{size}{more}{config}', program)
        steps.append(_step(name, ["INPUT"], [output]))
    config = "".join(_tensor("input", name, 10) for name in answers) + _tensor("output", "OUTPUT", 10)
    _model(folder, "mean", f'backend: "python"\n{size}{config}', _MEAN.format(names=answers))
    steps.append(_step("mean", answers, ["OUTPUT"]))
    config = _tensor("input", "INPUT", WIDTH) + _tensor("output", "OUTPUT", 10)
    _model(folder, NAME, f'platform: "ensemble"\n{size}{config}ensemble_scheduling {{\n{"".join(steps)}}}\n', "")


def _model(folder: Path, name: str, config: str, program: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
    (folder / name / "1" / ("model.py" if program else "README")).write_text(program)


def _tensor(side: str, name: str, width: int) -> str:
    return f'{side} {{ name: "{name}" data_type: TYPE_FP32 dims: [ {width} ] }}\n'


def _step(model: str, taken: list[str], given: list[str]) -> str:
    maps = [f'    input_map {{ key: "{name}" value: "{name}" }}\n' for name in taken]
    maps += [f'    output_map {{ key: "{name}" value: "{name}" }}\n' for name in given]
    return f'  step {{\n    model_name: "{model}"\n    model_version: -1\n{"".join(maps)}  }}\n'
