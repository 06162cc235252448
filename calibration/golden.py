"""A set of master parts from a labelled dataset: balanced by type and size, and each of them found today.

Of each type the size classes take turns, so that a set of a few dozen has the small defects too; within one, chance
decides by a seed. A physical part is taken once. What the bundle does not find is no master part: it would be missed on
every day, and say nothing about this one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import Bundle, encode_png
from inspectd.calibrated import InputFile
from inspectd.dataset import DEFECT_FREE_ROLES, ROLES, Dataset, Sample, read_image, read_labels
from inspectd.errors import ConfigError, DatasetError
from inspectd.inspection import AcceptanceRule, Verdict
from inspectd.masters import MOST_PARTS, LeftOut, MasterPart, MastersRecord, RecallLimit, fault_of
from inspectd.picture import read_mask

from .record import entry_of, header
from .threshold import class_of, graph_entry
from .threshold_check import SIZES_PX, Judge, size_of
from .threshold_levels import labelled_areas
from .threshold_settings import Digest, picture_bits, unit

__all__ = ["GoldenSet", "GoldenSettings", "Shown", "make_masters"]

_LOOKED_AT = 300
"""Of so many samples of a type the masks are read, to know their sizes."""
_LISTED = 12


@dataclass(frozen=True, slots=True)
class GoldenSettings:
    """What is asked for.

    Attributes:
        per_class: parts of each type of defects, and good ones.
        defect_roles: roles that the defective parts are taken from.
        good_roles: roles that the good parts are taken from.
        least: share of the parts of a type or size that a line has to find, above 0 to 1.
        leave_out: take others for parts that come out otherwise than they should; else refuse.
        cover: share of a defect's label that has to be marked, 0 to 1: what is only just found is lost by chance later.
        seed: of the choice.
        bits: significant bits of 16-bit picture files; None takes those of the training.

    Raises:
        ConfigError: a value out of range, or a role on the wrong side.
    """

    per_class: int = 4
    defect_roles: tuple[str, ...] = ("test",)
    good_roles: tuple[str, ...] = ("ok_test",)
    least: float = 1.0
    leave_out: bool = False
    cover: float = 0.0
    seed: int = 0
    bits: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise ConfigError(f"--least {100 * self.least:g}%: expected more than 0% and at most 100%")
        if not 0 <= self.cover <= 1:
            raise ConfigError(f"--cover {100 * self.cover:g}%: expected 0% to 100%")
        for option, roles, good in (("--defects", self.defect_roles, False), ("--good", self.good_roles, True)):
            known = [role for role in ROLES if (role in DEFECT_FREE_ROLES) == good]
            if not roles or set(roles) - set(known):
                raise ConfigError(f"{option} {','.join(roles)}: expected some of {', '.join(known)}")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A part for the page: pixels uint8 [H, W, 1 or 3], labels bool [H, W], and whether it was left out."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    left_out: bool


@dataclass(frozen=True, slots=True, eq=False)
class GoldenSet:
    """What was made: the record, the PNGs by their names in the file, and the parts for the page, as in the record."""

    record: MastersRecord
    pictures: dict[str, bytes]
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A sample, and what is known of it; of a good one only the sample."""

    sample: Sample
    defect: str = ""
    class_name: str = ""
    area_px: int = 0

    @property
    def size(self) -> str:
        return size_of(self.area_px) if self.area_px else ""


@dataclass(slots=True)
class _Making:
    """The set as far as it is made."""

    parts: list[MasterPart] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    shown_out: list[Shown] = field(default_factory=list)
    tried: list[_Candidate] = field(default_factory=list)

    def keep(self, candidate: _Candidate, expected: Verdict, shown: Shown) -> None:
        number = f"{len(self.parts) + 1:03}.png"
        # OpenCV's channels are the other way round.
        picture = self._put(f"parts/{number}", np.ascontiguousarray(shown.pixels[..., ::-1]))
        labels = None
        if candidate.defect:
            labels = self._put(f"labels/{number}", shown.labels.astype(np.uint8) * 255)
        self.parts.append(
            MasterPart(
                name=candidate.sample.name,
                picture=picture,
                expected=expected.name,
                defect=candidate.defect,
                class_name=candidate.class_name,
                area_px=candidate.area_px,
                size=candidate.size,
                labels=labels,
            )
        )
        self.samples.append(candidate.sample)
        self.shown.append(shown)

    def _put(self, name: str, pixels: NDArray[np.uint8]) -> InputFile:
        self.pictures[name] = encode_png(pixels)
        return entry_of(name, self.pictures[name])


def make_masters(
    bundle: Bundle,
    dataset: Dataset,
    settings: GoldenSettings,
    *,
    rule: AcceptanceRule,
    judge: Judge,
    engine_name: str,
    made: datetime,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
) -> GoldenSet:
    """Choose the parts, and have each judged.

    Args:
        bundle: that has to find them.
        dataset: where they are.
        settings: what is asked for.
        rule: that `judge` judges by.
        judge: the line's inspector with the bundle and the rule.
        engine_name: what the record calls what runs the bundle.
        made: the time to write into the record.
        progress: called with (what is done, parts done, parts in all).

    Raises:
        ConfigError: the parts asked for are too many, or some come out otherwise than they should.
        DatasetError: no parts of a role, one that cannot be read, a defect that the network has no class for.
    """
    by_type = _candidates(dataset, settings, bundle)
    good = [_Candidate(sample) for sample in _drawn(dataset.select(*settings.good_roles), settings.seed)]
    if not good:
        raise DatasetError(_none(dataset, settings.good_roles, "--good"))
    wanted = sum(min(settings.per_class, len(candidates)) for candidates in (*by_type.values(), good))
    if wanted > MOST_PARTS:
        raise ConfigError(
            f"--per-class {settings.per_class}: {len(by_type)} types of defects and the good parts would be {wanted} "
            f"master parts, expected {MOST_PARTS} at most: a line judges them between its frames"
        )
    making, taken = _Making(), set[tuple[bool, str]]()
    bits = picture_bits(settings.bits, bundle.card.provenance)
    for candidates in (*map(_by_turns, by_type.values()), iter(good)):
        kept = 0
        for candidate in candidates:
            if kept == settings.per_class:
                break
            if unit(candidate.sample) in taken:
                continue
            taken.add(unit(candidate.sample))
            kept += _try(candidate, judge, making, bits=bits, cover=settings.cover)
            progress("master parts", len(making.parts), wanted)
    if making.left_out and not settings.leave_out:
        raise ConfigError(_refusal(dataset, making.left_out))
    if not any(part.defect for part in making.parts):
        raise ConfigError(f"{dataset.root}: the bundle finds no defect of it; nothing could be held against a line")
    digest = Digest()
    digest.add(making.samples)
    record = MastersRecord(
        **header([graph_entry(bundle), digest.entry(dataset.root.resolve().name)], made=made),
        bundle_name=bundle.card.name,
        bundle_sha256=bundle.digest,
        engine=engine_name,
        rule=rule,
        defect_roles=settings.defect_roles,
        good_roles=settings.good_roles,
        per_class=settings.per_class,
        seed=settings.seed,
        parts=tuple(making.parts),
        types=_limits(making, settings.least, sorted(by_type), lambda each: each.defect),
        sizes=_limits(making, settings.least, [size_of(lower) for lower in SIZES_PX], lambda each: each.size),
        left_out=tuple(making.left_out),
    )
    return GoldenSet(record, making.pictures, (*making.shown, *making.shown_out))


def _candidates(dataset: Dataset, settings: GoldenSettings, bundle: Bundle) -> dict[str, list[_Candidate]]:
    """Those with one defect each, by its type, in the order that chance gave them."""
    found: dict[str, list[_Candidate]] = defaultdict(list)
    for sample in _drawn(dataset.select(*settings.defect_roles), settings.seed):
        # Of a part with two defects nobody could say which one was found.
        if len(sample.masks) != 1 or len(found[sample.defect]) == _LOOKED_AT:
            continue
        class_name = bundle.class_map.names[class_of(sample.defect, bundle.class_map, sample)]
        area_px = max(labelled_areas(read_mask(sample.masks[0][1])), default=0)
        if area_px:
            found[sample.defect].append(_Candidate(sample, sample.defect, class_name, area_px))
    by_type = {name: candidates for name, candidates in sorted(found.items()) if candidates}
    if not by_type:
        raise DatasetError(_none(dataset, settings.defect_roles, "--defects"))
    return by_type


def _drawn(samples: Sequence[Sample], seed: int) -> list[Sample]:
    order = np.random.default_rng(seed).permutation(len(samples))
    return [samples[index] for index in order]


def _by_turns(candidates: Sequence[_Candidate]) -> Iterator[_Candidate]:
    """One of each size class after the other."""
    rows: dict[str, list[_Candidate]] = {size_of(lower): [] for lower in SIZES_PX}
    for candidate in candidates:
        rows[candidate.size].append(candidate)
    for turn in range(len(candidates)):
        yield from (row[turn] for row in rows.values() if turn < len(row))


def _try(candidate: _Candidate, judge: Judge, making: _Making, *, bits: int, cover: float) -> bool:
    """Whether a part came out as it should, and is one of the set now."""
    sample = candidate.sample
    pixels = read_image(sample.image, bits=bits)
    shape = (pixels.shape[0], pixels.shape[1])
    labels = read_labels(sample, None, shape) > 0
    inspection = judge(pixels)
    why = fault_of(
        inspection, expected=None, class_name=candidate.class_name, labels=labels if candidate.defect else None
    )
    if not why and candidate.defect and inspection.mask is not None:
        marked = labels & (inspection.mask.labels == inspection.mask.classes.label(candidate.class_name))
        share = marked.sum() / labels.sum()
        if share < cover:
            why = f"{100 * share:.0f} % of it is marked, below --cover {100 * cover:g}%"
    making.tried.append(candidate)
    if not why:
        making.keep(candidate, inspection.verdict, Shown(pixels, labels, left_out=False))
        return True
    making.left_out.append(LeftOut(name=sample.name, defect=candidate.defect, size=candidate.size, why=why))
    making.shown_out.append(Shown(pixels, labels, left_out=True))
    return False


def _limits(
    making: _Making, least: float, names: Sequence[str], name: Callable[[_Candidate | MasterPart | LeftOut], str]
) -> tuple[RecallLimit, ...]:
    kept, tried = Counter(map(name, making.parts)), Counter(map(name, making.tried))
    return tuple(
        RecallLimit(name=each, parts=kept[each], least=least, tried=tried[each]) for each in names if kept[each]
    )


def _refusal(dataset: Dataset, left_out: Sequence[LeftOut]) -> str:
    told = "; ".join(f"{each.name} ({each.defect or 'good'}: {each.why})" for each in left_out[:_LISTED])
    more = f"; and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
    return (
        f"{dataset.root}: {len(left_out)} parts come out otherwise than they should, so a line could not be held to "
        f"them: {told}{more}; mend their labels, the rule or the network, or take others in their place by --leave-out"
    )


def _none(dataset: Dataset, roles: Sequence[str], option: str) -> str:
    return (
        f"{dataset.root}: holds no usable part of the role {', '.join(roles)}, only {dataset.summary}; "
        f"name other roles by {option}"
    )
