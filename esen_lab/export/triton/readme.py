"""The README of a repository: what there is, how it is started, how it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from esen_lab.export.triton.answering import DEADLINE
from esen_lab.export.triton.ports import PlanPorts, Port
from esen_lab.planner.plan import Plan

_NUMPY = {f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_NUMPY |= {f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_NUMPY |= {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "float32"}  # the client makes BF16 of that

_TEXT = """\
# {name}: an ensemble for NVIDIA Triton

Written by esen_lab; everything here is replaced when the plan is exported again.

    ./start.sh                    starts the server on 127.0.0.1, each lane on cores of its own

| model | what it does |
|---|---|
| `{name}` | the ensemble: ask this one |
{rows}
It takes {inputs} and answers {outputs}. -1 is any size.

    pip install "tritonclient[http]"

    import numpy as np
    import tritonclient.http as http
    client = http.InferenceServerClient("127.0.0.1:8000")
    inputs = [
{client}    ]
    answer = client.infer({asked}, inputs)
    y = answer.as_numpy({answer})

- The models run in the first `python3` of `PATH`: it needs torch, numpy, esen_lab, and what the sub-models import.
  Any NumPy will do. Triton's Python backend must have a stub for that version of Python.
- The server loads this folder from a disk: a copy in an object store would part `models` from `bundle`.
- Keep the folder to yourself as you would a program: `bundle` holds code. A bundle that was changed is not run.
- Other cores: `LANE_1_CORES=4-5 ./start.sh`. Lanes are pinned by Triton's host policies; the log says who got what.
{notes}"""


def readme(name: str, plan: Plan, ports: PlanPorts, notes: Sequence[str]) -> bytes:
    """Its text. Names of sub-models and inputs are shown as Python writes them."""
    rows = "".join(
        f"| `{name}_lane_{number}` | lane {number}, {lane.units} of {plan.units} cores: {_listed(lane.members)} |\n"
        for number, lane in enumerate(plan.lanes, start=1)
    )
    if plan.staged:
        stages = (
            f"A cascade of {len(plan.stages)} stages: rows that are sure leave, later lanes are asked about the rest."
        )
        deadline = f'With the parameter "{DEADLINE}" no stage is begun that is expected to end later.'
        notes = (*notes, stages, deadline)
    else:
        rows += f"| `{name}_combine` | the combine rule |\n"
    return _TEXT.format(
        name=name,
        rows=rows,
        inputs=", ".join(map(_port, ports.input.ports)),
        outputs=", ".join(map(_port, ports.output.ports)),
        client="".join(map(_client, ports.input.ports)),
        asked=ascii(name),
        answer=ascii(ports.output.ports[0].name),
        notes="".join(f"- {note}\n" for note in notes),
    ).encode()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(ascii(name)[1:-1].replace("|", "/") for name in names)


def _client(port: Port) -> str:
    shape = [4 if size < 0 else size for size in port.dims]
    kind = port.data_type.removeprefix("TYPE_")
    return (
        f"        http.InferInput({port.name!a}, {shape}, {kind!r})"
        f".set_data_from_numpy(np.zeros({shape}, {_NUMPY.get(kind, 'bool')!r})),\n"
    )


def _port(port: Port) -> str:
    return f"`{port.name}` ({port.data_type.removeprefix('TYPE_')} {list(port.dims)})"
