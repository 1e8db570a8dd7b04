"""What the tab key offers for each argument: variables, sub-models, fixed choices. Imports nothing heavy.

The fixed choices are repeated here, so that the tab key works before anything is imported; a test holds them against
the tables they come from.
"""

from __future__ import annotations

import sys
from typing import Any

from esen_lab.common.units import BACKENDS, PRECISIONS
from esen_lab.ui.session import Session

RULES = ("mean", "softmax-mean", "weighted", "majority", "stack")
SEARCHERS = ("exact", "optuna", "equal", "sequential")
QUANTILES = ("median", "q90")
STRATEGIES = ("sequential", "unlimited", "equal", "threads", "vmap")
PEERS = ("channels_last", "openvino-sequential", "openvino-async", "onnxruntime-pool", "inductor")
DEVICES = ("cpu", "cpu:all", "cpu:fast", "cpu:slow")
SHARING_MODES = ("mps", "green")
_MODELS = {
    ("onnx", "ModelProto"),
    ("openvino", "Model"),
    ("torch", "ExportedProgram"),
    ("xgboost", "Booster"),
    ("lightgbm", "Booster"),
}
"""Classes of models that are no modules, with the packages they are from."""
STEPS = (
    *("propose", "apply", "measure", "undo", "redo", "reset", "cancel", "save", "export"),
    *("move", "split", "merge", "oversubscribe"),
)
THRESHOLD_STEPS = ("threshold", "apply", "reset")


def submodels(session: Session) -> tuple[str, ...]:
    """The registered sub-models."""
    lab = session.known_lab()
    return () if lab is None else tuple(lab.ensemble.names)


def lanes(session: Session) -> tuple[str, ...]:
    """What a lane can be named by, ready for its share."""
    return tuple(f"{name}=" for name in submodels(session))


def editor_steps(session: Session) -> tuple[str, ...]:
    """Steps of `%esen tune` and the sub-models that they name; of a cascade those that move its thresholds."""
    lab = session.known_lab()
    if lab is not None and lab.plan is not None and lab.plan.staged:
        return THRESHOLD_STEPS
    return (*STEPS, *submodels(session))


def rules(session: Session) -> tuple[str, ...]:  # noqa: ARG001  one signature for all suggestions
    """Combine rules."""
    return RULES


def searchers(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """Searchers."""
    return SEARCHERS


def quantiles(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What of a latency's distribution to plan with."""
    return QUANTILES


def factors(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """Usual oversubscription factors."""
    return ("1", "1.25", "1.5", "2", "unlimited")


def strategies(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What a plan can be compared with."""
    return (*STRATEGIES, *PEERS)


def compared(session: Session) -> tuple[str, ...]:
    """What ran by a plan in the last comparison."""
    lab = session.known_lab()
    found = None if lab is None else lab.comparison
    return () if found is None else tuple(found.plans)


def ways(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What a load test can be answered by."""
    return ("plan", *STRATEGIES)


def peers(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What executes an ensemble elsewhere."""
    return ("soon", "all", "none", *PEERS)


def backends(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """Backends that execute a sub-model."""
    return BACKENDS


def precisions(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What `%esen precision` takes."""
    return ("fp32", *PRECISIONS)


def otherwise(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """What a run does where too few members are done at its deadline."""
    return ("error", "first")


def stop_early(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """When a run may stop early."""
    return ("decided", "0.9", "0.95", "0.99")


def devices(session: Session) -> tuple[str, ...]:  # noqa: ARG001
    """Devices by name."""
    return (*DEVICES, *(f"cuda:0 {word}" for word in SHARING_MODES))


def tensors(session: Session) -> list[str]:
    """The user's variables that can be an input, tensors first."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    own = _variables(session)
    plain = [name for name, value in own.items() if _is(value, torch.Tensor)]
    nested = [
        name
        for name, value in own.items()
        if (isinstance(value, (tuple, list)) and value and all(_is(v, torch.Tensor) for v in value))
        or (isinstance(value, dict) and value and any(_is(v, torch.Tensor) for v in value.values()))
    ]
    return [*sorted(plain), *sorted(nested)]


def modules(session: Session) -> list[str]:
    """The user's variables that can be registered: modules, then estimators and other models, then functions."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    own = _variables(session)
    built = [name for name, value in own.items() if _is(value, torch.nn.Module)]
    factories = [
        name
        for name, value in own.items()
        if getattr(value, "__module__", None) == "__main__" and (callable(value) and name not in built)
    ]
    others = [
        name
        for name, value in own.items()
        if hasattr(type(value), "get_params")
        or (type(value).__module__.partition(".")[0], type(value).__name__) in _MODELS
    ]
    return list(dict.fromkeys([*sorted(built), *sorted(others), *sorted(factories)]))


def _variables(session: Session) -> dict[str, Any]:
    return {name: value for name, value in list(session.front.namespace.items()) if not name.startswith("_")}


def _is(value: object, kind: type) -> bool:
    # By the class, not by isinstance: a proxy in the notebook may do work when asked for its class.
    return issubclass(type(value), kind)
