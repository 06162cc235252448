"""A bundle against the one before it: what each finds of the same parts, at its own thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inspectd.dataset import open_dataset
from inspectd.training.document import Table
from inspectd.training.segmentation.measure import measure
from inspectd.training.segmentation.results import Evaluation

__all__ = ["MASTERS", "Comparison", "Exam", "TypeFound", "compare"]

MASTERS = "master parts"
"""The set whose parts the new bundle must not lose."""


@dataclass(frozen=True, slots=True)
class Exam:
    """Parts that both are measured on.

    Attributes:
        name: what the table calls them.
        data: folder of a dataset.
        roles: of it.
        learnt: whether the new network has been trained on them, so that they say little of others.
    """

    name: str
    data: Path
    roles: tuple[str, ...]
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class TypeFound:
    """Parts of a defect type, and how many of them each bundle finds; of good parts, how many it rejects."""

    name: str
    parts: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both bundles made of one set.

    Attributes:
        name: of the set.
        learnt: whether the new network has been trained on it.
        types: by defect type.
        good: of its good parts; None where there are none.
        f1: pooled pixel F1 before and after; None where it is not defined.
        lost: pictures that the old bundle judged rightly and the new one does not.
    """

    name: str
    learnt: bool
    types: tuple[TypeFound, ...]
    good: TypeFound | None
    f1: tuple[float | None, float | None]
    lost: tuple[str, ...]

    @property
    def recall(self) -> tuple[float, float] | None:
        """Share of the defective parts that each finds; None without any."""
        parts = sum(each.parts for each in self.types)
        if not parts:
            return None
        return sum(each.before for each in self.types) / parts, sum(each.after for each in self.types) / parts

    def of(self, defect: str) -> TypeFound | None:
        """Of one defect type."""
        return next((each for each in self.types if each.name == defect), None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"recall": self.recall}

    def table(self) -> Table:
        """Found before and after, by type."""
        rows = [
            (each.name, str(each.parts), _share(each.before, each.parts), _share(each.after, each.parts))
            for each in self.types
        ]
        if self.good is not None:
            good = self.good
            rows.append(
                ("good, rejected", str(good.parts), _share(good.before, good.parts), _share(good.after, good.parts))
            )
        before, after = ("-" if value is None else f"{value:.3f}" for value in self.f1)
        if before != "-" or after != "-":
            rows.append(("pixel F1", "", before, after))
        learnt = " (trained on, which says little of others)" if self.learnt else ""
        return Table(f"## {self.name}{learnt}", ("", "parts", "before", "after"), tuple(rows))


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.0f} %)"


def compare(
    exams: Sequence[Exam],
    old: Path,
    new: Path,
    out: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
) -> list[Comparison]:
    """Measure two bundles on the same parts.

    A defect is found where a pixel of one of its labelled regions is; a part is rejected for any pixel. Thresholds are
    those of the bundles' cards: rules of a line, and thresholds that were calibrated for the old bundle, are not taken.

    Args:
        exams: the parts.
        old: the bundle before.
        new: the bundle after.
        out: folder for the tables and overlays of the new one, one folder an exam; evaluations are written anew.
        progress: called with (what is done, number done, number in all).

    Raises:
        DatasetError: a set without pictures, or one that cannot be read.
        BundleError: a damaged bundle.
    """
    found = []
    for number, exam in enumerate(exams):
        if not open_dataset(exam.data).select(*exam.roles):
            continue
        results = [
            measure(
                bundle,
                exam.data,
                roles=exam.roles,
                # The old one may have no class for what is new.
                together=True,
                out=folder,
                progress=partial(progress, f"{exam.name}, {when}"),
            )
            for bundle, when, folder in ((old, "before", None), (new, "after", out / f"{number}-{_slug(exam.name)}"))
        ]
        found.append(_compared(exam, *results))
    return found


def _slug(name: str) -> str:
    return "-".join(name.replace(",", "").split())


def _compared(exam: Exam, before: Evaluation, after: Evaluation) -> Comparison:
    types = tuple(
        TypeFound(name, result.images.total, _found(before, name), _found(after, name))
        for name, result in before.types.items()
    )
    rejected = [
        [image.rejected for image in evaluation.images if not image.defective] for evaluation in (before, after)
    ]
    good = TypeFound("good", len(rejected[0]), sum(rejected[0]), sum(rejected[1])) if rejected[0] else None
    lost = tuple(
        old.image
        for old, new in zip(before.images, after.images, strict=True)
        if (old.regions.found > new.regions.found == 0 if old.defective else new.rejected and not old.rejected)
    )
    return Comparison(exam.name, exam.learnt, types, good, (before.pooled.pixels.f1, after.pooled.pixels.f1), lost)


def _found(evaluation: Evaluation, defect: str) -> int:
    return sum(image.regions.found > 0 for image in evaluation.images if image.defective and image.defect == defect)
