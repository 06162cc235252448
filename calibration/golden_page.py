"""The page about a set of master parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inspectd.masters import MastersRecord, RecallLimit

from .golden import Shown
from .page import Page, Picture, Section, Table, Text, Verdict
from .threshold_page import contact_sheet, percent

__all__ = ["golden_page", "golden_remarks", "golden_summary"]


def golden_summary(record: MastersRecord) -> str:
    """What the set is, in a sentence."""
    good = sum(part.is_good for part in record.parts)
    return (
        f"{len(record.parts) - good} known defects of {len(record.types)} types and {good} good parts, each of which "
        f"{record.bundle_name!r} ({record.bundle_sha256[:12]}) judges as it should on {record.engine}."
    )


def golden_remarks(record: MastersRecord) -> tuple[str, ...]:
    """What the set must not be used without knowing."""
    remarks = []
    kept = Counter(part.defect for part in record.parts)
    missed = Counter(each.defect for each in record.left_out)
    for name in sorted({*kept, *missed}):
        what = f"of the type {name!r}" if name else "that are good"
        if not kept[name]:
            remarks.append(
                f"Of {missed[name]} parts {what} none comes out as it should: the set says nothing of them, and the "
                "network must not be trusted with them."
            )
        elif missed[name]:
            remarks.append(
                f"{missed[name]} of {missed[name] + kept[name]} parts {what} came out otherwise than they should, and "
                "were left out."
            )
        if 0 < kept[name] < record.per_class:
            remarks.append(f"There are {kept[name]} parts {what}, and {record.per_class} were asked for.")
    if not kept[""] and not missed[""]:
        remarks.append("There is no good part: a line that rejects everything would pass.")
    return tuple(remarks)


def golden_page(record: MastersRecord, shown: Sequence[Shown]) -> Page:
    """The page.

    Args:
        record: what was made.
        shown: the parts of the record in their order, then those that were left out.
    """
    remarks = golden_remarks(record)
    kept = [each for each in shown if not each.left_out]
    sections = [
        Section("What has to be found", [Text(_meaning(record)), *_limits(record)]),
        Section(
            "The master parts",
            [
                Picture(contact_sheet([_cell(each) for each in kept]), "Row by row as below; defects as labelled."),
                Table(
                    ("part", "type", "class", "largest region (px)", "size", "expected"),
                    [
                        (
                            part.name,
                            part.defect or "good",
                            part.class_name,
                            str(part.area_px) if part.area_px else "",
                            part.size,
                            part.expected,
                        )
                        for part in record.parts
                    ],
                ),
            ],
        ),
    ]
    if record.left_out:
        out = [_cell(each) for each in shown if each.left_out]
        sections.append(
            Section(
                "Left out",
                [
                    Text(
                        "These came out otherwise than they should: wrong labels, or what the network does not find. "
                        "A line lets such parts pass."
                    ),
                    Picture(contact_sheet(out), "Row by row as below; defects as labelled."),
                    Table(
                        ("part", "type", "size", "came out as"),
                        [(each.name, each.defect or "good", each.size, each.why) for each in record.left_out],
                    ),
                ],
            )
        )
    if remarks:
        sections.insert(0, Section("Remarks", [Text(remark) for remark in remarks]))
    verdict = Verdict("doubtful" if remarks else "good", golden_summary(record))
    return Page("Master parts", verdict, record, sections)


def _meaning(record: MastersRecord) -> str:
    return (
        "A line that has this set judges these pictures between its frames, by its own network, engine and rule. The "
        "set was chosen from parts that are found today, so what is lost is the network, the engine or the rule. It "
        "does not say how many of all defects are found: for that, evaluate the network. Roles: "
        f"{', '.join(record.defect_roles)} and {', '.join(record.good_roles)}, seed {record.seed}."
    )


def _limits(record: MastersRecord) -> tuple[Table, Table]:
    head = ("", "master parts", "have to be found", "tried for the set")

    def rows(limits: Sequence[RecallLimit]) -> list[tuple[str, ...]]:
        return [(each.name, str(each.parts), percent(each.least), str(each.tried)) for each in limits]

    return (
        Table(("type", *head[1:]), rows(record.types), "By the type of the defect"),
        Table(("size", *head[1:]), rows(record.sizes), "By the size of its largest region"),
    )


def _cell(shown: Shown) -> tuple[NDArray[np.uint8], NDArray[np.floating], bool]:
    return shown.pixels, 0.6 * shown.labels.astype(np.float32), shown.left_out
