"""The verbs that say who runs on what: the lab's state, sub-models, the combine rule, the device."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

import builtins
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import Argument, expression, plain, text, word
from esen_lab.ui.magics.verbs.verb import Given, Verb, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View

_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+\Z")
_FILE_NAME = re.compile(r"[\w./~-]+\.\w+\Z")
_EXAMPLE = Argument(
    "--example",
    "an input it takes: a tensor, a tuple by position, a dict by keyword (default: the first sub-model's)",
    expression,
    suggest=suggestions.tensors,
)


def _status(session: Session, given: Given) -> None:
    session.front.show(views.status(session.lab().status()))


STATUS = Verb("where the lab stands, and the next sensible step", _status, example="%esen status")


def _register(session: Session, given: Given) -> Any:
    # Not before they are needed: loading the extension is to be quick.
    from esen_lab.files import is_model_file
    from esen_lab.files.model_files import MODEL_SUFFIXES

    written = given.module
    source: Any
    if is_model_file(plain(written)) and _names_a_file(session, written):
        source = Path(plain(written)).expanduser()
        own = re.sub(r"[^\w.-]", "_", source.stem)
    elif _IMPORT_PATH.match(plain(written)):
        source, own = plain(written), plain(written).rpartition(":")[2].rpartition(".")[2]
    elif _is_another_file(session, plain(written)):
        raise unknown(
            f"A file of a member ends in one of {', '.join(sorted(MODEL_SUFFIXES))}",
            Path(plain(written)).suffix,
            MODEL_SUFFIXES,
            given=plain(written),
            hint="Weights alone are no member: build the network, load them into it, and register the variable.",
        )
    else:
        source, own = _variable(session, plain(written)), written if written.isidentifier() else ""
    name = own if given.as_name is None else given.as_name
    if not name and given.as_name is None:
        raise UsageError(
            "A sub-model that is not a plain variable is given a name",
            given=written,
            hint=f"Write `%esen register {written} --as NAME`.",
        )
    told = {key: value for key, value in (("outputs", given.outputs), ("method", given.method)) if value}
    submodel = session.lab().register(name, source, given.example, kwargs=told)
    return show(session, submodel, views.submodel(submodel))


def _names_a_file(session: Session, written: str) -> bool:
    """Whether a word with a model file's suffix is a path, and no attribute of a variable."""
    root = re.split(r"[^\w]", written, maxsplit=1)[0]
    return plain(written) != written or Path(written).expanduser().exists() or root not in session.front.names


def _is_another_file(session: Session, written: str) -> bool:
    """Whether a word is a file's name and no expression of the notebook: such as "weights.safetensors"."""
    root = re.split(r"[^\w]", written, maxsplit=1)[0]
    return bool(Path(written).suffix) and root not in session.front.names and Path(written).expanduser().is_file()


def _names(session: Session, written: str) -> list[str]:
    return [name.strip() for name in text(session, written).split(",")]


def _variable(session: Session, name: str) -> Any:
    from esen_lab.files import names_beside

    known = session.front.names
    if name.isidentifier() and name not in known and not hasattr(builtins, name):
        raise unknown(
            f"%esen register takes a variable of this notebook, and there is no {name!r}",
            name,
            [other for other in known if not other.startswith("_")],
            hint="Run the cell that defines it first.",
        )
    root = re.split(r"[^\w]", name, maxsplit=1)[0]
    if _FILE_NAME.match(name) and root not in known and not hasattr(builtins, root):
        raise unknown(
            f"%esen register takes a variable of this notebook or a file, and there is no {name!r}",
            Path(name).name,
            [*(other for other in known if not other.startswith("_")), *names_beside(Path(name).expanduser())],
            hint="Run the cell that defines it first.",
        )
    return session.front.evaluate(name)


REGISTER = Verb(
    "add a module of the notebook, or another model, or replace the one of that name",
    _register,
    (
        Argument(
            "module",
            "a variable that holds a module or builds one, package.module:factory, a model's file (.onnx, .xml, "
            ".pt, .pt2), a fitted estimator, or a function of tensors or arrays",
            word,
            "NAME",
            suggest=suggestions.modules,
        ),
        Argument("--as", "what to call it (default: the variable's name)", text, key="as_name"),
        _EXAMPLE,
        Argument(
            "--outputs",
            "of an ONNX or OpenVINO model: which answers it gives, such as logits,scores (default: all)",
            _names,
            "NAMES",
        ),
        Argument(
            "--method", "of an estimator: what answers (default: predict_proba of classifiers, else predict)", text
        ),
    ),
    example="%esen register wide --example x",
    interrupted="Interrupted: the sub-model may be registered or not; %esen list shows who is.",
)


def _model(session: Session, given: Given) -> Any:
    submodel = session.lab().register(given.name, given.cell, given.example, namespace=session.front.namespace)
    return show(session, submodel, views.submodel(submodel))


MODEL = Verb(
    "register the module that this cell builds; the cell's text is kept as its recipe",
    _model,
    (Argument("name", "what to call it", text), _EXAMPLE),
    example="%%esen model wide --example x",
    interrupted="Interrupted: the sub-model may be registered or not; %esen list shows who is.",
)


def _model_on_a_line(session: Session, given: Given) -> None:
    raise UsageError(
        "`%%esen model NAME` is the first line of the cell that builds the module, with two %",
        hint="For a module that is already a variable, use `%esen register NAME`.",
    )


MODEL_ON_A_LINE = replace(MODEL, act=_model_on_a_line)


def _unregister(session: Session, given: Given) -> None:
    lab = session.lab()
    lab.unregister(given.name)
    session.front.show(views.ensemble(lab.ensemble))


UNREGISTER = Verb(
    "remove a sub-model",
    _unregister,
    (Argument("name", "the sub-model", text, suggest=suggestions.submodels),),
    example="%esen unregister wide",
    interrupted="Interrupted: the sub-model may be gone or not; %esen list shows who is there.",
)


def _list(session: Session, given: Given) -> None:
    session.front.show(views.ensemble(session.lab().ensemble))


LIST = Verb("the sub-models: parameters, memory, recipe, example", _list, example="%esen list")


def _combine(session: Session, given: Given) -> None:
    rule = session.lab().combine(given.rule, given.weights)
    session.front.show(View(title=f"Combined by {rule.describe()}"))


def _rule(session: Session, written: str) -> Any:
    # A rule's name, an import path, or the user's own function; a wrong name is for the lab to refuse.
    named = plain(written)
    looks_like_a_name = named.replace("-", "_").isidentifier() and named not in session.front.names
    if named in suggestions.RULES or _IMPORT_PATH.match(named) or looks_like_a_name:
        return named
    return session.front.evaluate(written)


COMBINE = Verb(
    "choose how the outputs become one",
    _combine,
    (
        Argument(
            "rule",
            f"{', '.join(suggestions.RULES)}, a function, or package.module:function",
            _rule,
            "RULE",
            suggest=suggestions.rules,
        ),
        Argument(
            "--weights",
            "for weighted: one number per sub-model, such as 0.5,0.3,0.2 or {'wide': 0.7, 'deep': 0.3}",
            expression,
        ),
    ),
    example="%esen combine weighted --weights 0.5,0.3,0.2",
    interrupted="Interrupted: `%esen` shows by which rule the outputs are combined now.",
)


def _device(session: Session, given: Given) -> Any:
    name = " ".join(given.device)
    known = session.known_lab()
    if given.leave_gpu:
        session.front.show(views.left_gpu(session.lab().lanes.leave_gpu()))
    if name and known is not None:
        change = known.use_device(name)
        return show(session, change, views.device_change(change))
    lab = session.lab(name or None)
    view = views.device(lab.device.identity.to_dict(), lab.device.notes, lab.device.describe())
    if not name and not given.leave_gpu:
        view = views.offers(lab.offers(), view)
    session.front.show(view)
    return None


DEVICE = Verb(
    "what this machine could share; with a name, go on with that device",
    _device,
    (
        Argument(
            "device",
            "cpu (its fast cores; cpu:all, cpu:slow), cuda:0 mps, cuda:0 mps adopt (a daemon that runs already), "
            "fake:FILE; measurements of it come from the store, a plan for another device is put away",
            text,
            count="*",
            suggest=suggestions.devices,
        ),
        Argument(
            "--leave-gpu", "move the notebook's own registered modules off the GPU, where they would disturb lanes"
        ),
    ),
    example="%esen device cuda:0 mps",
    interrupted="Interrupted: lanes may have ended; %esen device shows which one is in use.",
)
