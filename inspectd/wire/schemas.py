"""JSON Schemas of what INS1 says in JSON: `python -m inspectd.wire.schemas DIR` writes them as files.

One for each body (`verdict.json`), and one for the arguments of each operation of control (`control-replay.json`).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from . import bodies, control
from .bodies import AlarmBody, Body, HeartbeatBody, MaskBody, PreviewBody, StateBody, StatsBody, VerdictBody
from .control import OPERATIONS

__all__ = ["main", "schemas"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BODIES: tuple[type[Body], ...] = (
    *(VerdictBody, MaskBody, PreviewBody),
    *(HeartbeatBody, StatsBody, StateBody, AlarmBody),
)
_MODELS: dict[str, type[BaseModel]] = {
    name: value
    for module in (bodies, control)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseModel)
}


def schemas() -> dict[str, str]:
    """Name of a file -> its text."""
    found: dict[str, dict[str, Any]] = {}
    for body in _BODIES:
        # As it is written; a reader passes over fields that it does not know.
        schema = _without_null(_described(body, "serialization"))
        found[body.TYPE.name.lower()] = {**schema, "title": f"Body of an INS1 {body.TYPE.name.lower()} message"}
    for name, operation in OPERATIONS.items():
        title = f"Arguments of the INS1 operation {name}, role {operation.role}"
        found[f"control-{name}"] = {**_described(operation.arguments, "validation"), "title": title}
    return {
        f"{name}.json": json.dumps({"$schema": _DIALECT, **schema}, indent=2, ensure_ascii=False) + "\n"
        for name, schema in found.items()
    }


def _described(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """The schema of a model, with what its source says under each field."""
    schema = model.model_json_schema(mode=mode, by_alias=True)
    said = _docstrings()
    for name, part in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
        properties = part.get("properties", {})
        fields = _MODELS[name].model_fields if name in _MODELS else {}
        for field, info in fields.items():
            described = properties[info.alias or field]
            described.pop("title", None)
            if field in said[name]:
                described["description"] = said[name][field]
    return schema


def _docstrings() -> dict[str, dict[str, str]]:
    """Class -> field -> the text under it; Python itself does not keep these."""
    found: dict[str, dict[str, str]] = {}
    for module in (bodies, control):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = dict(_said_under(node.body))
    return found


def _said_under(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in itertools.pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            yield field.target.id, inspect.cleandoc(str(text.value.value))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What has no value is left out of a body, never null."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for field, described in part.get("properties", {}).items():
            kinds = [kind for kind in described.get("anyOf", ()) if kind != {"type": "null"}]
            if len(kinds) == 1:
                text = {"description": described["description"]} if "description" in described else {}
                part["properties"][field] = {**kinds[0], **text}
    return schema


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the command."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1 or words[0].startswith("-"):
        sys.stderr.write("expected: python -m inspectd.wire.schemas DIR, the folder that the schemas are written to\n")
        return 2
    folder = Path(words[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in schemas().items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{folder}: cannot be written to ({error.strerror}); choose another folder\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
