"""MODEL: latency as a function of share, fitted to a profile, with its error.

`fit(profile)` gives one `CostModel` per sub-model: what the search reads.
"""

from __future__ import annotations

from esen_lab.fitting.experience import Experience
from esen_lab.fitting.fit import Quantile, fit, fit_points
from esen_lab.fitting.model import CostModel

__all__ = ["CostModel", "Experience", "Quantile", "fit", "fit_points"]
