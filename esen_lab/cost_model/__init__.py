"""MODEL: latency as a function of share, fitted to a profile, with its error.

`fit(profile)` gives one `CostModel` per sub-model: what the search reads.
"""

from __future__ import annotations

from esen_lab.cost_model.fit import Quantile, fit, fit_points
from esen_lab.cost_model.model import EXTRAPOLATED, FAR_APART, CostModel
from esen_lab.cost_model.similar_curves import Experience

__all__ = ["EXTRAPOLATED", "FAR_APART", "CostModel", "Experience", "Quantile", "fit", "fit_points"]
