"""WHO RUNS: sub-models with their recipes, the ensemble, and how outputs become one answer."""

from __future__ import annotations

from esen_lab.ensemble.as_given import SeenKinds
from esen_lab.ensemble.combine import Combine, NotCombined, make_combine
from esen_lab.ensemble.ensemble import Ensemble
from esen_lab.ensemble.proof import answer_here
from esen_lab.ensemble.recipes import (
    CellSource,
    FileRecipe,
    ImportRecipe,
    LiveRecipe,
    ProgramRecipe,
    Rebuild,
    Recipe,
    SkeletonRecipe,
    SourceRecipe,
)
from esen_lab.ensemble.registration import make_submodel, register
from esen_lab.ensemble.small_mean import Reserved, SmallMean
from esen_lab.ensemble.submodel import Registered, SubModel
from esen_lab.ensemble.together import FitsTogether, check_combine, check_member, check_together

__all__ = [
    "CellSource",
    "Combine",
    "Ensemble",
    "FileRecipe",
    "FitsTogether",
    "ImportRecipe",
    "LiveRecipe",
    "NotCombined",
    "ProgramRecipe",
    "Rebuild",
    "Recipe",
    "Registered",
    "Reserved",
    "SeenKinds",
    "SkeletonRecipe",
    "SmallMean",
    "SourceRecipe",
    "SubModel",
    "answer_here",
    "check_combine",
    "check_member",
    "check_together",
    "make_combine",
    "make_submodel",
    "register",
]
