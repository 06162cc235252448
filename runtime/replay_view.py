"""What a replay found, as tables and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inspectd.inspection import Verdict

from .replay import LOSSY_SHARE, Change, Replayed

__all__ = ["show_replay"]

SHOWN = 20
"""Parts that changed and are listed; JSON has them all."""
_STYLES = {
    Verdict.OK: "bold green",
    Verdict.NG: "bold red",
    Verdict.REVIEW: "bold yellow",
    Verdict.NOT_INSPECTED: "bold magenta",
}


def show_replay(replayed: Replayed, *, as_json: bool, console: Console | None = None) -> None:
    """Print it: tables to the console, standard output by default, or JSON to standard output."""
    if as_json:
        sys.stdout.write(json.dumps(_as_json(replayed), indent=1) + "\n")
        return
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    rate = replayed.parts / replayed.seconds if replayed.seconds > 0 else 0.0
    say(f"{replayed.archive}: {replayed.parts} parts inspected again in {replayed.seconds:.1f} s ({rate:.0f} a second)")
    for words in replayed.judged_by:
        say(f"judged by {words}; acceptance rule: {replayed.rule}")
    if replayed.other_bundle:
        say(f"{replayed.other_bundle} of them had been judged by another bundle")
    console.print(_confusion(replayed))
    say(
        f"masks: {replayed.masks} compared, mean IoU {replayed.mean_iou:.4f}, "
        f"{replayed.pixels} pixels differ altogether"
    )
    if replayed.not_inspected:
        say(f"{replayed.not_inspected} parts had not been inspected: there is nothing to compare with")
    if replayed.lossy:
        say(
            f"{replayed.lossy} parts were archived as JPEG, which is only similar to what was inspected: their masks "
            f"count as the same while at most {LOSSY_SHARE:.1%} of the pixels differ",
            "yellow",
        )
    if replayed.changes:
        console.print(_changed(replayed.changes))
        if len(replayed.changes) > SHOWN:
            say(f"and {len(replayed.changes) - SHOWN} more; --json lists all")
    if replayed.damaged:
        say(f"{len(replayed.damaged)} could not be read, and were passed over", "bold red")
    said = f"{len(replayed.changes)} of {replayed.parts} came out otherwise" if replayed.changes else "no part changed"
    say(said, "bold red" if replayed.changes else "bold green")


def _confusion(replayed: Replayed) -> Table:
    table = Table("archived", box=box.SIMPLE, title="verdicts", title_justify="left")
    present = [verdict for verdict in Verdict if any(verdict in pair for pair in replayed.verdicts)]
    for verdict in present:
        table.add_column(f"now {verdict.name}", justify="right")
    for was in present:
        counts = [replayed.verdicts.get((was, now), 0) for now in present]
        if any(counts):
            cells = [
                Text(str(count or "·"), "bold red" if count and now is not was else "")
                for now, count in zip(present, counts, strict=True)
            ]
            table.add_row(Text(was.name, _STYLES[was]), *cells)
    return table


def _changed(changes: tuple[Change, ...]) -> Table:
    table = Table("part", "was", "now", box=box.SIMPLE, title="changed, worst first", title_justify="left")
    table.add_column("IoU", justify="right")
    table.add_column("pixels", justify="right")
    for change in changes[:SHOWN]:
        mask = change.mask
        table.add_row(
            Text(change.part.removesuffix(".json"), overflow="fold"),
            Text(change.was.name, _STYLES[change.was]),
            Text(change.now.name + (f": {change.reason}" if change.reason else ""), _STYLES[change.now]),
            "" if mask is None else f"{mask.iou:.3f}",
            "" if mask is None else str(mask.pixels),
        )
    return table


def _as_json(replayed: Replayed) -> dict[str, Any]:
    return {
        "archive": str(replayed.archive),
        "parts": replayed.parts,
        "same": replayed.same,
        "judged_by": list(replayed.judged_by),
        "rule": replayed.rule,
        "other_bundle": replayed.other_bundle,
        "verdicts": [
            {"was": was.name, "now": now.name, "parts": count}
            for (was, now), count in sorted(replayed.verdicts.items())
        ],
        "masks": {"compared": replayed.masks, "mean_iou": replayed.mean_iou, "pixels": replayed.pixels},
        "not_inspected": replayed.not_inspected,
        "lossy": replayed.lossy,
        "damaged": list(replayed.damaged),
        "seconds": round(replayed.seconds, 3),
        "changes": [{**asdict(change), "was": change.was.name, "now": change.now.name} for change in replayed.changes],
    }
