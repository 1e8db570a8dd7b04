"""Lower bounds on the JCT of any placement, lanes or not.

By deadline T, a node of kind k has U_k (T - f_k) unit-seconds, in which its sub-models are done and sent. Sub-model i
alone has to be done there by T - f_k - o_k[i], so it takes at least

    s[k, i](T) = min{u t_k[i, u] : t_k[i, u] <= T - f_k - o_k[i]} + U_k o_k[i]     (inf where no share is fast enough)

of them, and T is possible only where the sub-models can be dealt to the kinds, in fractions even, so that none has more
than its C_k(T) = m_k U_k (T - f_k). By the duality of linear programs that is so unless there are weights w >= 0 that
sum to 1 with

    sum_i min_k w_k s[k, i] / C_k  >  1 ,

and any such weights are a proof that T is not possible. They are looked for by multiplicative weights (Arora, Hazan
and Kale, "The multiplicative weights update method", Theory of Computing 8, 2012): the weight of a kind grows while
sub-models prefer it. The mean of all answers on the way is a deal in fractions; when it fits, there is no proof.
"""

from __future__ import annotations

import numpy as np

from esen_lab.planner.nodes.nodes_problem import NodeKind, NodeProblem
from esen_lab.planner.problem import Array

_ROUNDS = 250
_CLEARLY = 1 + 1e-9
_FULL = 1e9
"""A load that no kind can have."""
_NEAR = 1e-5


class AreaBound:
    """Which deadlines areas rule out."""

    def __init__(self, problem: NodeProblem) -> None:
        self.problem = problem
        self._nodes = np.array([len(kind.nodes) for kind in problem.kinds], dtype=np.float64)
        self._areas = [kind.table * np.arange(1, kind.units + 1) for kind in problem.kinds]
        self.weights: Array = np.ones(len(problem.kinds)) / len(problem.kinds)
        """w, of the last deadline that was asked about."""
        self.critical_s = float(np.min([_alone_s(kind) for kind in problem.kinds], axis=0).max())
        """No placement is done before: every sub-model alone on its best node."""

    def sizes(self, deadline_s: float) -> tuple[Array, Array]:
        """S of shape (K, n), and U_k (T - f_k) of one node of each kind, shape (K,), both in unit-seconds."""
        sizes = np.empty((len(self.problem.kinds), len(self.problem.names)))
        room = np.empty(len(sizes))
        for k, (kind, areas) in enumerate(zip(self.problem.kinds, self._areas, strict=True)):
            alone_s = (deadline_s - kind.fixed_s - kind.output_s)[:, None]
            sizes[k] = np.where(kind.table <= alone_s, areas, np.inf).min(axis=1) + kind.units * kind.output_s
            room[k] = kind.units * max(0.0, deadline_s - kind.fixed_s)
        return sizes, room

    def rules_out(self, deadline_s: float) -> bool:
        """Whether no placement is done by a deadline: proven where True."""
        sizes, room = self.sizes(deadline_s)
        usable = room > 0
        loads = np.full(sizes.shape, np.inf)
        loads[usable] = sizes[usable] / (room * self._nodes)[usable, None]
        possible = np.isfinite(loads)
        if not possible.any(axis=0).all():
            return True
        load, self.weights = least_load(np.where(possible, loads, _FULL), self.weights, above=1.0)
        return load > 1.0

    def within(self, most_s: float, least_s: float = 0.0) -> float:
        """The largest deadline up to `most_s` that is known to be ruled out, by halving: a bound, in seconds.

        Args:
            most_s: The JCT of a placement.
            least_s: A bound that is known already.
        """
        low, high = max(least_s, self.critical_s), most_s
        while high - low > _NEAR * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.rules_out(middle) else (low, middle)
        return low


def _alone_s(kind: NodeKind) -> Array:
    """When each sub-model would be done and sent, were it alone on a node; shape (n,)."""
    return np.asarray(kind.fixed_s + kind.output_s + kind.table.min(axis=1))


def least_load(loads: Array, weights: Array, *, above: float = float("inf")) -> tuple[float, Array]:
    """A proven bound: however sub-models are dealt to kinds of nodes, even in fractions, some kind has this load.

    Args:
        loads: What each sub-model loads each kind with, shape (K, n), finite.
        weights: To begin with, shape (K,).
        above: Enough is known when it is above this, or when a deal was found that is not.

    Returns:
        The load, and the weights that prove it.
    """
    every = np.arange(loads.shape[1])
    total = np.zeros(len(loads))
    best, proof = 0.0, weights
    for done in range(1, _ROUNDS + 1):
        weighted = weights[:, None] * loads
        chosen = weighted.argmin(axis=0)
        sure = float(weighted[chosen, every].sum()) / _CLEARLY
        if sure > best:
            best, proof = sure, weights
        load = np.bincount(chosen, weights=loads[chosen, every], minlength=len(loads))
        total += load
        fits = best * _CLEARLY if above == float("inf") else above
        if best > above or float(total.max()) <= done * fits:
            break
        weights = weights * np.exp(load / (float(load.max()) * np.sqrt(done)))
        weights = np.maximum(weights / weights.sum(), 1e-12)
        weights /= weights.sum()
    return best, proof
