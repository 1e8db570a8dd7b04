"""Backends: what executes a sub-model. Eager, or an engine that gives the same answer sooner.

A sub-model with a backend is a module around its module (`_executed.py`). It checks itself: the first answer for every
look of the input is compared with the eager one, and when it differs, or the backend cannot take this module, it
raises. Whoever loads it then falls back and says why.

A name is that of a backend (`esen_lab.common.units.BACKENDS`), and with a precision after it
(`esen_lab.common.units.PRECISIONS`) leaves to compute products in that: "openvino", "openvino@bf16".
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, call_with, flatten
from esen_lab.common.units import backend_parts
from esen_lab.ensemble.fingerprint import tensor_digest, text_digest
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import DeviceError, EsenError, WorkerDied
from esen_lab.lanes.backends._protocol import CAN_EXECUTE

if TYPE_CHECKING:
    from torch import nn

    from esen_lab.ensemble import SubModel
    from esen_lab.lanes.backends._cache import Cache
    from esen_lab.lanes.backends._findings import Findings
    from esen_lab.lanes.backends._protocol import Backend

_OF_THE_MACHINE = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.ENFILE)),
    *(os.strerror(number) for number in (errno.ENOMEM, errno.EAGAIN, errno.EACCES)),
    *(
        "allocate memory",
        "out of memory",
        "MemoryError",
        "bad_alloc",
        "bad alloc",
        "ImportError",
        "ModuleNotFoundError",
    ),
)
"""Words of systems and engines."""


def backend(name: str) -> type[Backend]:
    """The class of a backend; its engine is loaded when a sub-model is prepared.

    Raises:
        UsageError: No backend has that name.
    """
    file = backend_parts(name)[0].replace("-", "_")
    found: type[Backend] = importlib.import_module(f"{__name__}.{file}").BACKEND
    return found


def why_not(name: str, torch_device: str = "cpu") -> str:
    """Why a backend can't be had where lanes compute on `torch_device`, in words; "" where it can.

    Raises:
        UsageError: No backend has that name.
    """
    return backend(name).why_not(torch_device, precision=backend_parts(name)[1])


def engine_version(name: str) -> str:
    """The version of the engine that a backend is; "" where torch itself is it, or it is not installed.

    Raises:
        UsageError: No backend has that name.
    """
    try:
        return backend(name).version()
    except importlib.metadata.PackageNotFoundError:
        return ""


def refused_before(name: str, fingerprint: str, example: str, where: str = "", *, calibration: Tree = None) -> str:
    """Why a backend did not take a sub-model in an earlier session with the same versions; "" where nobody knows.

    Args:
        name: The backend.
        fingerprint: Of the sub-model.
        example: What its input looks like.
        where: On which GPU, "" on this machine's processor: what one refuses the other may take.
        calibration: That of the sub-model: in int8, what was made of one may be refused, and of other data taken.
    """
    cache = _cache_of(name, fingerprint, calibration)
    kept = None if cache is None else cache.take(_refused(example, where))
    return "" if kept is None else kept.decode(errors="replace")


def remember_refusal(
    name: str, fingerprint: str, example: str, why: str, where: str = "", *, calibration: Tree = None
) -> None:
    """Keep why a backend did not take a sub-model, so that no later session tries in vain; see `refused_before`.

    What lies in the machine at that moment is not kept: on a GPU a lack of memory may be another program's doing.
    """
    cache = _cache_of(name, fingerprint, calibration)
    if cache is not None and not is_passing(why):
        cache.keep(_refused(example, where), why.encode())


def _refused(example: str, where: str) -> str:
    return f"refused {example} on {where}" if where else f"refused {example}"


def refusal(problem: EsenError) -> str:
    """Why a sub-model could not be loaded with its backend, in words: what the backend said, where it was that."""
    name, colon, said = problem.rule.partition("': ")
    if not colon or not name.startswith("Sub-model '"):
        return problem.rule  # the network itself raised
    if problem.given and said.endswith(CAN_EXECUTE):  # the rule says nothing more
        return problem.given
    return f"{said}. Given: {problem.given}" if problem.given else said


def is_passing(why: str) -> bool:
    """Whether what hindered a backend lies in the machine at that moment (memory, disk), and not in the sub-model."""
    return any(words.lower() in why.lower() for words in _OF_THE_MACHINE)


def kept_graph(name: str, fingerprint: str, example: Tree) -> tuple[str, bytes] | None:
    """The graph that a backend has made of a sub-model, where it is kept, and its name: see `wrapped`."""
    if name == "eager" or why_not(name):  # it was chosen elsewhere, where its engine is installed
        return None
    cache = _cache_of(name, fingerprint)
    if cache is None:
        return None
    form = _form(example)
    graph = cache.take_graph(form)
    return None if graph is None else (cache.graph_name(form), graph)


def remember_crash(submodel: SubModel, name: str, torch_device: str) -> str:
    """Keep that a backend ended its process while it was tried, so that it is not tried again; what is kept, in words.

    Args:
        submodel: What it was to execute.
        name: The backend.
        torch_device: Where, as torch calls it: it may well work elsewhere.
    """
    from esen_lab.lanes.backends._findings import CRASHED, Finding

    findings = _findings_of(submodel, name, torch_device)
    findings.keep(Finding(refused=CRASHED))
    findings.forget_trial()
    return CRASHED


def note_end(submodel: SubModel, name: str, problem: BaseException, torch_device: str) -> None:
    """Whoever tried a backend of a sub-model in a process got a problem: keep that it crashed, if it did."""
    if isinstance(problem, WorkerDied) and problem.crashed:
        remember_crash(submodel, name, torch_device)
    else:
        forget_trial(submodel, name, torch_device)


def forget_trial(submodel: SubModel, name: str, torch_device: str) -> None:
    """A process that may have been trying a backend was ended, and not by it: see `_findings.py`."""
    if name != "eager":
        _findings_of(submodel, name, torch_device).forget_trial()


def end_trials(pid: int) -> None:
    """A process was ended by somebody: no engine that it was trying is at fault."""
    from esen_lab.lanes.backends import _findings

    _findings.end_trials(pid)


def _findings_of(submodel: SubModel, name: str, torch_device: str) -> Findings:
    from esen_lab.lanes.backends._findings import Findings, on_device

    form = on_device(_form(submodel.example), torch_device)
    return Findings(cache=_cache_of(name, submodel.fingerprint, submodel.calibration), form=form)


def _form(example: Tree) -> str:
    from esen_lab.lanes.backends._protocol import form_of

    return form_of(*call_with(lambda *args, **kwargs: flatten((list(args), kwargs)), example))


def _cache_of(
    name: str, fingerprint: str, calibration: Tree = None, graphs: Mapping[str, bytes] | None = None
) -> Cache | None:
    """What is kept of a sub-model with a backend; other calibration data makes another int8 network."""
    from esen_lab.lanes.backends._cache import cache_for
    from esen_lab.lanes.backends._protocol import Calibration

    if not fingerprint:
        return None
    counts = calibration is not None and backend_parts(name)[1] == "int8"
    by = "" if not counts else text_digest(*map(tensor_digest, Calibration.of(calibration).leaves))
    return cache_for(fingerprint, name, engine_version(name) + by, graphs)


def wrapped_submodel(
    submodel: SubModel, name: str, *, own_threads: bool = False, graphs: Mapping[str, bytes] | None = None
) -> bytes:
    """The payload of a sub-model that is executed by a backend: `wrapped`, with all that is known of it."""
    return wrapped(
        submodel.payload(),
        name,
        traits=submodel.traits,
        fingerprint=submodel.fingerprint,
        calibration=submodel.calibration,
        own_threads=own_threads,
        graphs=graphs,
    )


def wrapped(
    payload: bytes,
    name: str,
    *,
    traits: Traits | None = None,
    fingerprint: str = "",
    calibration: Tree = None,
    own_threads: bool = False,
    graphs: Mapping[str, bytes] | None = None,
) -> bytes:
    """The payload of a sub-model (see `Worker.load`) that is executed by a backend.

    Args:
        payload: That of the sub-model itself.
        name: The backend.
        traits: Of the sub-model; without them it is believed to answer the same each time.
        fingerprint: Of the sub-model; with one, what is prepared is kept for other processes.
        calibration: For int8: inputs of the sub-model, samples along the first dimension.
        own_threads: Whether the engine is to compute in threads of its own where it can: see `begin`.
        graphs: What `kept_graph` gave where the sub-model was exported, by name.

    Raises:
        UsageError: No backend has that name.
    """
    if name == "eager":
        return payload
    _, precision = backend_parts(name)
    import cloudpickle

    inputs = calibration if precision == "int8" else None
    made: bytes = cloudpickle.dumps(
        partial(_build, payload, name, traits or Traits(), fingerprint, inputs, own_threads, graphs)
    )
    return made


def executed_by(module: nn.Module) -> str:
    """The backend of a sub-model that `wrapped` has built; "eager" for any other module."""
    from esen_lab.lanes.backends._executed import Executed

    return module.name if isinstance(module, Executed) else "eager"


def inside(module: nn.Module) -> nn.Module:
    """The sub-model itself, without what `wrapped` has put around it."""
    from esen_lab.lanes.backends._executed import Executed

    return module.module if isinstance(module, Executed) else module


def writes(module: nn.Module) -> bool:
    """Whether a sub-model was seen to write into its input, where what `wrapped` has put around it hides that."""
    from esen_lab.lanes.backends._executed import Executed

    return isinstance(module, Executed) and module.writes


def begin(module: nn.Module, x: Tree) -> Callable[[], Tree] | None:
    """Have the engine of a sub-model begin on an input, while this thread does something else.

    Returns:
        What waits for the answer; None where the module has to be called, since nothing but this thread executes it.
    """
    from esen_lab.lanes.backends._executed import Executed

    return call_with(module.begin, x) if isinstance(module, Executed) else None


def _build(
    payload: bytes,
    name: str,
    traits: Traits,
    fingerprint: str,
    inputs: Tree,
    own_threads: bool,
    graphs: Mapping[str, bytes] | None,
) -> nn.Module:
    import cloudpickle

    from esen_lab.ensemble.kinds.adapted import Adapter
    from esen_lab.lanes.backends._executed import Executed
    from esen_lab.lanes.backends._protocol import BackendSettings, Calibration

    why = unsteady(traits)
    if why:
        raise DeviceError(f"A sub-model that {name} executes answers each call as the last one", given=why)
    kind = backend(name)
    precision = backend_parts(name)[1]
    settings = BackendSettings(
        precision=precision,
        calibration=None if inputs is None else Calibration.of(inputs),
        own_threads=own_threads,
        cache=_cache_of(name, fingerprint, inputs, graphs),
        fingerprint=fingerprint,
    )
    module = cloudpickle.loads(payload)()
    if isinstance(module, Adapter) and not module.convertible and module.kind not in kind.reads:
        raise DeviceError(
            f"{name} {CAN_EXECUTE}",
            given=f"{module.runs_in} computes it as it is ({module.kind})",
        )
    return Executed(module, name, kind, settings)


def unsteady(traits: Traits) -> str:
    """Why only eager executes a network: its answers vary, or it needs torch itself; "" where neither is so."""
    if traits.keeps_state:
        return f"it keeps state between calls: {', '.join(traits.state)}"
    if traits.random:
        return "it draws random numbers"
    if not traits.steady:
        return "its answer changes from call to call"
    return "it computes gradients" if traits.grad == "on" else ""
