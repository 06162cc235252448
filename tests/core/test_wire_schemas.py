"""The JSON Schemas in docs: what is written today, and held against the golden vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inspectd.wire import OPERATIONS, MessageType
from inspectd.wire.schemas import main, schemas

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "ins1"


def test_what_is_committed_is_what_is_written_today(tmp_path):
    subprocess.run([sys.executable, "-m", "inspectd.wire.schemas", tmp_path], check=True)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "schemas").iterdir()}
    assert committed == written, "run python -m inspectd.wire.schemas docs/schemas"


def test_there_is_one_for_each_message_and_each_operation():
    names = {f"{kind.name.lower()}.json" for kind in MessageType} | {f"control-{name}.json" for name in OPERATIONS}
    assert set(schemas()) == names


def resolved(schema: dict, root: dict) -> dict:
    return root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def missing_or_unknown(value: object, schema: dict, root: dict, place: str = "") -> list[str]:
    """Fields that a value lacks or that its schema does not tell of."""
    schema = resolved(schema, root)
    if isinstance(value, list):
        items = schema.get("items")
        return [fault for each in value for fault in missing_or_unknown(each, items, root, place)] if items else []
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    faults = [f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, each in value.items():
        if name not in schema["properties"]:
            faults.append(f"{place}.{name} is not told of")
        else:
            faults += missing_or_unknown(each, schema["properties"][name], root, f"{place}.{name}")
    return faults


GOOD = [path for path in sorted(GOLDEN.glob("*.json")) if json.loads(path.read_text(encoding="utf-8"))["accept"]]


@pytest.mark.parametrize(
    "path", [path for path in GOOD if not path.stem.startswith("later")], ids=lambda path: path.stem
)
def test_golden_bodies_have_the_fields_that_it_tells_of(path):
    told = json.loads(path.read_text(encoding="utf-8"))
    schema = json.loads(schemas()[f"{MessageType(told['header']['msg_type']).name.lower()}.json"])
    assert missing_or_unknown(told["body"], schema, schema) == []


def test_fields_are_explained_and_never_null():
    stats = json.loads(schemas()["stats.json"])["properties"]
    assert stats["overdue"]["description"].startswith("Parts that were not judged by their deadline")
    defect = json.loads(schemas()["verdict.json"])["$defs"]["DefectBody"]["properties"]
    assert defect["area_mm2"] == {
        "exclusiveMinimum": 0,
        "type": "number",
        "description": "Left out where the camera's scale is not known.",
    }
    assert '"null"' not in "".join(text for name, text in schemas().items() if not name.startswith("control"))


def test_what_it_cannot_do_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([]) == main(["--help"]) == main([str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err.count("\n") == 3
