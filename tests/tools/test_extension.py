"""The types that the panel's page is compiled with come from the schema that both sides check messages by."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from esen_lab.ui.panel.channel import PROTOCOL
from esen_lab.ui.panel.targets import COMMANDS_TARGET, STATE_TARGET

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extension", ROOT / "tools" / "extension.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_kernel_and_page_name_the_same_protocol_and_comms(extension: ModuleType) -> None:
    schema = json.loads(extension.MESSAGES.read_text(encoding="utf-8"))
    assert schema["protocol"] == PROTOCOL
    assert schema["targets"] == {"state": STATE_TARGET, "commands": COMMANDS_TARGET}


@pytest.mark.parametrize(
    ("rule", "type_"),
    [
        ({"type": "integer", "minimum": 0}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": ["string", "null"], "enum": ["a", "b"]}, '"a" | "b" | null'),
        ({"type": "array", "items": {"type": ["number", "null"]}}, "Array<number | null>"),
        (
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "boolean"}, "b": {"type": "string"}}},
            "{\n  a: boolean;\n  b?: string;\n}",
        ),
    ],
)
def test_a_rule_of_the_schema_is_a_type(extension: ModuleType, rule: dict[str, object], type_: str) -> None:
    assert extension._type(rule) == type_


def test_every_section_of_the_schema_has_its_type(extension: ModuleType) -> None:
    schema = json.loads(extension.MESSAGES.read_text(encoding="utf-8"))
    types = extension.types()
    assert {name for name in schema["sections"] if f"\n  {name}: " not in types} == set()


def test_what_is_generated_is_no_source_of_the_bundle(extension: ModuleType) -> None:
    own = {path.name for path in extension.sources() if path.is_relative_to(extension.SOURCE)}
    assert own.isdisjoint(extension.GENERATED)
