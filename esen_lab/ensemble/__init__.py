"""WHO runs: sub-models with their recipes, the ensemble, and how outputs become one answer."""

from __future__ import annotations

from esen_lab.ensemble.combine import Combine, make_combine
from esen_lab.ensemble.ensemble import Ensemble
from esen_lab.ensemble.recipes import (
    CellSource,
    ImportRecipe,
    LiveRecipe,
    ProgramRecipe,
    Rebuild,
    Recipe,
    SkeletonRecipe,
    SourceRecipe,
)
from esen_lab.ensemble.small_mean import Reserved, SmallMean
from esen_lab.ensemble.submodel import SubModel, make_submodel

__all__ = [
    "CellSource",
    "Combine",
    "Ensemble",
    "ImportRecipe",
    "LiveRecipe",
    "ProgramRecipe",
    "Rebuild",
    "Recipe",
    "Reserved",
    "SkeletonRecipe",
    "SmallMean",
    "SourceRecipe",
    "SubModel",
    "make_combine",
    "make_submodel",
]
