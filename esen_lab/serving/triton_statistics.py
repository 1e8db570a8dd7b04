"""What was counted, as Triton's statistics extension says it: counts, and sums in nanoseconds.

All of its batch's run is a request's "compute_infer": joining inputs and parting answers is in it, not measured apart,
so "compute_input" and "compute_output" are 0. What failed is counted as such and nowhere else, and its time is not.
There is no cache of responses, and no stream of them: their counters are left out.
"""

from __future__ import annotations

from typing import Any

from esen_lab.serving.metrics import Totals
from esen_lab.serving.signature import VERSION


def model_stats(name: str, totals: Totals) -> dict[str, Any]:
    """The statistics of one model.

    Args:
        name: Of the model.
        totals: What was counted of it.
    """
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(totals.last_at_s * 1e3),
        "inference_count": totals.done_rows,
        "execution_count": totals.done_batches,
        "inference_stats": {
            "success": _sum(totals.answered, totals.request_s),
            "fail": _sum(totals.failed, 0.0),
            "queue": _sum(totals.answered, totals.queue_s),
            **_compute(totals.answered, totals.request_compute_s),
        },
        "batch_stats": [
            {"batch_size": rows, **_compute(batches, compute_s)}
            for rows, (batches, compute_s) in sorted(totals.by_rows.items())
        ],
    }


def _compute(count: int, seconds: float) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _sum(count, 0.0),
        "compute_infer": _sum(count, seconds),
        "compute_output": _sum(count, 0.0),
    }


def _sum(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
