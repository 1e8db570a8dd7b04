"""Asks Ray actors and their networks for the same answer, and writes what came of it as JSON.

python actors_of_ray.py RESULT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

from peer_ensembles import ensemble
from peer_ray import ACTORS, ray_actors

from esen_lab.ensemble import Ensemble, make_combine, make_submodel


def main(result: Path) -> None:
    """Start them, ask them, end them."""
    networks, x = ensemble("four kinds", 2)
    submodels = tuple(make_submodel(name, network, x) for name, network in networks.items())
    known = Ensemble(submodels=submodels, combine=make_combine("mean"))
    with ray_actors(known, networks) as ways, torch.no_grad():
        wanted = torch.stack([network(x) for network in networks.values()]).mean(0)
        apart = float((ways[ACTORS](x) - wanted).abs().max())
    result.write_text(json.dumps({"apart": apart}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
