"""What `inspectd doctor` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from .doctor import Check

__all__ = ["show"]

_STYLES = {"ok": "green", "missing": "cyan", "warning": "yellow", "broken": "bold red"}
_NAME = 28


def show(checks: Iterable[Check], *, as_json: bool) -> int:
    """Print checks, for people as they come; the exit status: 1 if something is broken that every line needs."""
    seen: list[Check] = []
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        if not as_json:
            if not seen or seen[-1].section != check.section:
                console.print(Text(check.section, "bold"))
            console.print(_line(check))
        seen.append(check)
    broken = [check.name for check in seen if check.verdict == "broken"]
    if as_json:
        report = {"ok": not broken, "checks": [asdict(check) for check in seen]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        console.print(f"broken: {', '.join(broken)}" if broken else "Nothing is broken that every line needs.")
    return 1 if broken else 0


def _line(check: Check) -> Text:
    line = Text("  ").append(f"{check.verdict:8}", _STYLES[check.verdict]).append(f"{check.name:{_NAME}} {check.found}")
    if check.remedy:
        line.append(f"\n{'':10}{'':{_NAME}} {check.remedy}", "dim")
    return line
