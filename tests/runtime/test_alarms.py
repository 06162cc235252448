"""The alarms that the code raises are those of the table in docs/station.md, each as severe as it says there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from inspectd.runtime.core import _FAULTS
from inspectd.runtime.journal import JournalFault

ROOT = Path(__file__).parents[2]
NOT_WRITTEN_OUT = {
    "runtime/core.py": {*_FAULTS.values(), "station.fault"},
    "runtime/watching.py": {fault.value for fault in JournalFault} - {""},
}
"""Files that raise alarms by a variable, once each, and what it may be; all of them are errors."""


def in_the_docs() -> dict[str, str]:
    """Severity of each code; what depends on a camera or a process is called NAME."""
    section = (ROOT / "docs" / "station.md").read_text().partition("\n## Alarms\n")[2].partition("\n## ")[0]
    found = {}
    for codes, severity in re.findall(r"^\| (`.*?) \| (\w+) \|", section, re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", codes):
            assert code not in found, f"{code} is there twice"
            found[code] = severity
    return found


def severity_of(node: ast.expr | None) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="Severity"), attr=name):
            return name.lower()
    return None


def code_of(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(value=str(code)):
            return code
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "NAME" for part in parts)
    return None


def raised(node: ast.AST) -> Iterator[tuple[ast.expr, str | None]]:
    """Code and severity where an alarm is raised, in any of the ways that there are."""
    match node:
        case ast.Call(func=ast.Attribute(attr="set" | "tell" | "show"), args=[code, severity, _]):
            if severity_of(severity):  # nothing else that has such a method takes one
                yield code, severity_of(severity)
        case ast.Call(func=ast.Name(id="Lasting"), args=[_, code]):
            yield code, "warning"
        case ast.Call(func=ast.Name(id="Lasting"), args=[_, code, severity]):
            yield code, severity_of(severity)
        case ast.Call(func=ast.Name(id="Alarm"), keywords=keywords):
            values = {keyword.arg: keyword.value for keyword in keywords}
            if isinstance(active := values.get("active"), ast.Constant) and active.value:
                yield values["code"], severity_of(values["severity"])
        case ast.Dict(keys=keys, values=values):
            yield from in_a_dict(zip(keys, values, strict=True))
        case ast.DictComp(key=key, value=value):
            yield from in_a_dict([(key, value)])
        case ast.Assign(targets=[ast.Subscript(slice=key)], value=value):
            yield from in_a_dict([(key, value)])


def in_a_dict(entries) -> Iterator[tuple[ast.expr, str | None]]:
    """For `Alarms.hold`."""
    for key, value in entries:
        if isinstance(value, ast.Tuple) and value.elts and (severity := severity_of(value.elts[0])):
            yield key, severity


def in_the_code() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        unwritten = 0
        for node in ast.walk(ast.parse(path.read_text())):
            for expression, severity in raised(node):
                assert severity, f"{name}:{expression.lineno}: the severity of an alarm is not written out"
                code = code_of(expression)
                unwritten += code is None
                codes = {code} if code else NOT_WRITTEN_OUT.get(name, set())
                assert code or severity == "error"
                for each in codes:
                    found.setdefault(each, set()).add(severity)
        assert unwritten == (name in NOT_WRITTEN_OUT), f"{name}: the code of an alarm is not written out"
    return found


def test_the_table_has_every_alarm_with_its_severity_and_no_other():
    code, docs = in_the_code(), in_the_docs()
    # Those of the archive and of cameras are lines of the table for all processes.
    processes = {each for each in code if each.startswith("process.")}
    assert processes >= {"process.restarted.NAME", "process.failing.NAME", "process.failing.camera-NAME"}
    for each in processes:
        kind = ".".join(each.split(".")[:2])
        code[f"{kind}.NAME"] = code.get(f"{kind}.NAME", set()) | code[each]
    wanted = {each: severities for each, severities in code.items() if each not in processes or each.endswith(".NAME")}
    assert {each: {severity} for each, severity in docs.items()} == wanted
