"""Pictures that no training may see, so that something is left to measure it on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from inspectd.dataset_writing import Row
from inspectd.errors import ConfigError

__all__ = ["NO_HOLD_OUT", "HoldOut"]


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which share of imported pictures becomes `test` (defects) and `ok_test` (good parts).

    Attributes:
        share: of the pictures of each defect type, and of the good ones; from 0 to below 1.
        seed: of the choice. It hangs on the pictures' names and not on their order.
        part: regular expression that finds the physical part's name in that of a picture (its first group, or all
            that it matches); None where parts are not known. The pictures of a part stay together.

    Raises:
        ConfigError: no such share, or no regular expression.
    """

    share: float = 0.0
    seed: int = 0
    part: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"--test-share {self.share}: expected a share from 0 to below 1")
        try:
            re.compile(self.part or "")
        except re.error as error:
            raise ConfigError(f"--part {self.part}: not a regular expression: {error}") from None

    def apply(self, rows: Sequence[Row], faults: list[str]) -> list[Row]:
        """The rows with their parts, those that are held out with their new role; what has no part becomes a fault."""
        parts = {image: self._part(image, faults) for image in dict.fromkeys(row[0] for row in rows)}
        named = [(image, mask, defect, role, parts[image]) for image, mask, defect, role, _ in rows]
        held = self._held(named)
        return [
            (image, mask, defect, ("test" if defect else "ok_test") if image in held else role, part)
            for image, mask, defect, role, part in named
        ]

    def _part(self, image: str, faults: list[str]) -> str:
        if self.part is None:
            return ""
        # As the picture was called before it was imported.
        name = PurePosixPath(*PurePosixPath(image).parts[1:]).as_posix()
        found = re.search(self.part, name)
        part = "" if found is None else (found[1] if found.re.groups else found[0]) or ""
        if not part:
            faults.append(f"{name}: --part {self.part} finds no part in its name")
        return part

    def _held(self, rows: Sequence[Row]) -> set[str]:
        """Images to hold out: of each defect type, and of the good ones, as near to the share as whole parts allow."""
        if not self.share:
            return set()
        defects: defaultdict[str, set[str]] = defaultdict(set)
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for image, _, defect, _, part in rows:
            defects[image] |= {defect} if defect else set()
            groups[part or image].add(image)
        common = Counter(name for names in defects.values() for name in names)
        strata: defaultdict[str, list[str]] = defaultdict(list)
        for group, images in groups.items():
            shown = {name for image in images for name in defects[image]}
            # By its rarest defect: a type of three pictures must not hang on what else is on them.
            strata[min(shown, key=lambda name: (common[name], name)) if shown else ""].append(group)
        held: set[str] = set()
        for members in strata.values():
            held |= self._nearest(members, {group: len(groups[group]) for group in members})
        return {image for group in held for image in groups[group]}

    def _nearest(self, groups: Iterable[str], pictures: dict[str, int]) -> set[str]:
        """Groups that hold the share of the pictures as nearly as they come; never all of them."""
        wanted = round(self.share * sum(pictures.values()))
        ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{self.seed}:{group}".encode()).digest())
        taken: set[str] = set()
        count = 0
        for group in ordered[:-1]:
            if abs(count + pictures[group] - wanted) < abs(count - wanted):
                taken.add(group)
                count += pictures[group]
        return taken


NO_HOLD_OUT = HoldOut()
