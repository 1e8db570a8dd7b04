"""A plan and its ensemble as a folder of plain files, and back.

    plan.json                     the plan
    bundle.json                   the sub-models, the combine rule, and the digest of every other file
    submodel_00.safetensors       weights            submodel_00.json     a saved module tree
    submodel_00.py                the cell, or the source of the module's classes
    submodel_00_uses.py           what the cell uses of the notebook
    submodel_00.pt2               a torch.export program
    submodel_00.onnx, .ts, ...    a member that is no network in Python, in the format of its library
    combine.py                    the source of a combine rule
    graph_00.bin                  what an engine has made of a sub-model, so that it need not be made again
    example.npy, example.npz      an example input of the whole ensemble, in the form that the script reads
    example_00.safetensors        an example input; sub-models with the same one share it
    calibration_00.safetensors    what an int8 form is quantised by; sub-models with the same one share it
    answer_00.safetensors         what a sub-model answered to the example of the ensemble, where it was exported; also
                                  what a combine rule of the user's made of these

Files are called by number: no name that a user chose becomes a file name. Pickles (.pkl) are written of estimators and
functions alone, where there is no other form.
"""

from __future__ import annotations

import math
import re
from typing import Any

from esen_lab.common.trees import Structure
from esen_lab.ensemble import (
    Ensemble,
)
from esen_lab.errors import UsageError
from esen_lab.planner.fits import changed_since, check_fits
from esen_lab.planner.plan import Plan

BUNDLE_VERSION = 1
MANIFEST = "bundle.json"
PLAN = "plan.json"
OUR_FILES = re.compile(
    r"(plan|bundle|submodel_\d+)\.json|(submodel_\d+(_uses)?|combine)\.py"
    r"|submodel_\d+\.(pt2|onnx|xml|bin|ts|ubj|txt|pkl)"
    r"|(submodel|example|calibration|answer)_\d+\.safetensors|example\.np[yz]|graph_\d+\.bin"
    r"|__pycache__|\.ipynb_checkpoints|\.DS_Store"  # what others make of them, or just by looking
)
"""The names of all files of a bundle: a folder with others is not ours to replace."""


def check_same(plan: Plan, ensemble: Ensemble) -> None:
    """Refuse a plan that is not one of this very ensemble.

    Raises:
        UsageError: It is not; the message names what has changed.
    """
    check_fits(plan, ensemble)
    changed = changed_since(plan, ensemble)
    if changed:
        raise UsageError(
            "A plan and its ensemble hold the same sub-models",
            given="; ".join(f"{name!r} has changed since the plan was made" for name in changed),
            hint="Search for a plan again.",
        )


def digests_of_tensors(data: bytes) -> dict[str, str]:
    """What tells the tensors of a safetensors file apart, by name."""
    from esen_lab.ensemble.fingerprint import tensor_digests
    from esen_lab.ensemble.weights import from_bytes

    return tensor_digests(from_bytes(data)) if data else {}


def to_json(structure: Structure | object) -> Any:
    """Plain data. A constant that is NaN or infinite is known by its exact text alone."""
    if not isinstance(structure, tuple):
        return structure
    if len(structure) == 3 and isinstance(structure[1], float) and not math.isfinite(structure[1]):
        return [structure[0], None, structure[2]]
    return [to_json(part) for part in structure]


def from_json(data: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        ValueError: The exact text of a constant is no number.
    """
    if not isinstance(data, list):
        return data
    match data:  # no key of a dict is a float or nothing, so a list of keys does not pass for a constant
        case ["const", float() | None, str() as exact]:
            return ("const", float.fromhex(exact), exact)
    return tuple(map(from_json, data))
