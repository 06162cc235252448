"""Thresholds and minimum areas from good parts, with a promise of how few of them will be rejected.

What is promised, and why it holds, stands in `threshold_choice` and in docs/calibration-thresholds.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import MODEL, Bundle
from inspectd.calibrated import InputFile, Scale
from inspectd.calibrated.threshold import ChosenClass, CurvePoint, GoodPart, ThresholdRecord
from inspectd.dataset import Dataset, Sample, read_image
from inspectd.errors import ConfigError, DatasetError
from inspectd.inspection import AcceptanceRule
from inspectd.mask import ClassMap
from inspectd.picture import read_mask

from .bounds import upper_bound
from .record import header
from .threshold_check import Judge, run_rule
from .threshold_choice import Cuts, Path, cut, cuts_allowed, even_path, recall_path
from .threshold_levels import Levels, Prober, reached, region_areas
from .threshold_settings import Digest, Pictures, ThresholdSettings, select_pictures, unit

__all__ = ["calibrate_thresholds", "class_of", "graph_entry"]

Progress = Callable[[str, int, int], None]
_Ints = NDArray[np.int64]
_Areas = tuple[tuple[float, ...], ...]

AREA_SHARES = (0, 1 / 4, 1 / 2, 1 / 8)
"""Minimum areas that are tried, as shares of a small defect's area, 0 for one pixel; the last is given up first."""
SMALL_DEFECT = 0.05
"""Share of a class's labelled regions that are smaller than its small defect: labels have specks."""
CUTS_KEPT = 0.9
"""Share of the cuts that has to be left where several sets of minimum areas are tried."""
NEAREST = 12
CURVE_POINTS = 40


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """What was measured.

    Attributes:
        areas: the sets of minimum areas, one a class, px, or mm2 with a scale.
        scale: what measures in mm2; None where areas are in px.
        pictures: int64 [good pictures, sets, classes].
        parts: int64 [good parts, sets, classes]: a part is rejected where any photograph of it is.
        defects: int64 [labelled pictures, sets, classes].
        types: of the labelled pictures' defects.
        own: for each class that has some, which labelled pictures show defects of it.
    """

    areas: _Areas
    scale: Scale | None
    pictures: _Ints
    parts: _Ints
    defects: _Ints
    types: tuple[str, ...]
    own: dict[int, list[int]]

    def areas_px(self, index: int) -> tuple[int, ...]:
        """The minimum areas of a set as a rule has them in px."""
        return tuple(1 if self.scale is not None else int(area) for area in self.areas[index])

    def areas_mm2(self, index: int) -> tuple[float, ...]:
        """The minimum areas of a set in mm2, 0 for none; empty where they are in px."""
        return () if self.scale is None else self.areas[index]

    def recall(self, index: int, levels: _Ints) -> float:
        """Mean over the types of the share of pictures that a rule with the areas of a set rejects; 0 without any."""
        found = np.any(self.defects[:, index] > levels, axis=1).tolist()
        by_type = defaultdict(list)
        for kind, hit in zip(self.types, found, strict=True):
            by_type[kind].append(hit)
        return float(np.mean([np.mean(hits) for hits in by_type.values()])) if by_type else 0.0


def calibrate_thresholds(
    bundle: Bundle,
    dataset: Dataset,
    settings: ThresholdSettings,
    *,
    engine: Prober,
    engine_name: str,
    judge: Callable[[AcceptanceRule], Judge],
    made: datetime,
    scale: Scale | None = None,
    inputs: Sequence[InputFile] = (),
    progress: Progress = lambda _what, _done, _all: None,
) -> ThresholdRecord:
    """Choose the most sensitive rule that rejects at most a share of the good parts, with a confidence.

    Args:
        bundle: whose network judges.
        dataset: the pictures; photographs of one part carry its name (`tile` of split.csv) and count as one.
        settings: what is asked for.
        engine: the line's engine of the bundle.
        engine_name: what the record calls it.
        judge: the line's inspector for a rule; the rule chosen is run through it on every picture at the end.
        made: the time to write into the record.
        scale: what measures the line's pictures in mm, as `judge` has it: minimum areas are in mm2 then, unless the
            settings have one in px.
        inputs: further files that the record names: that of the scale.
        progress: called with (what is done, pictures done, pictures in all).

    Raises:
        ConfigError: what cannot be met: too few good parts, or too many of them that every rule rejects.
        DatasetError: no good pictures, one that cannot be read, a defect that the network has no class for, pictures
            of another size than the scale's.
        InferenceError: the engine failed, or does not say the same of a picture twice.
    """
    pictures = select_pictures(dataset, settings, bundle.card.provenance)
    if settings.minimum_area_px is not None:
        scale = None
    elif settings.minimum_area_mm2 is not None and scale is None:
        raise ConfigError(
            "a minimum area in mm2 needs the scale of a camera; name the line's configuration by --config"
        )
    levels = Levels.of(len(bundle.class_map), settings.lowest_score)
    scores, dropped = _measure(bundle, pictures, settings, levels=levels, engine=engine, scale=scale, progress=progress)
    share = 1 - (1 - settings.confidence) / len(scores.areas)
    cuts = cuts_allowed(len(pictures.names), settings.max_false_reject, share)
    paths = [_path(levels, bundle, scores, index) for index in range(len(scores.areas))]
    best = _best(scores, paths, cuts)
    if best is None:
        raise ConfigError(_all_rejected(dataset, pictures, scores, levels, cuts))
    index, chosen = best
    areas = scores.areas[index]
    classes = tuple(
        ChosenClass(
            name=name,
            score=levels.thresholds[level],
            minimum_area_px=1 if scale is not None else int(area),
            minimum_area_mm2=area if scale is not None and area else None,
        )
        for name, level, area in zip(bundle.class_map.names, chosen, areas, strict=True)
    )
    digest = Digest()
    digest.add((*pictures.good, *pictures.defects))
    values = {
        **header([graph_entry(bundle), digest.entry(pictures.root), *inputs], made=made),
        "bundle_sha256": bundle.digest,
        "engine": engine_name,
        "max_false_reject": settings.max_false_reject,
        "confidence": settings.confidence,
        "false_reject_bound": upper_bound(cuts - 1, len(pictures.names), share),
        "roles": settings.roles,
        "good_parts": len(pictures.names),
        "good_pictures": len(pictures.good),
        "parts_named": pictures.named,
        "cuts": cuts,
        "candidates": tuple(scores.areas_px(index) for index in range(len(scores.areas))),
        "candidates_mm2": () if scale is None else scores.areas,
        "scale": None if scale is None else scale.name,
        "classes": classes,
        "card_scores": bundle.card.thresholds,
        "defect_roles": settings.defect_roles,
        "curve": _curve(scores, paths, levels, share, settings.max_false_reject),
        "remarks": _remarks(bundle, pictures, settings, dropped),
    }
    draft = ThresholdRecord(**values, good_parts_rejected=0, types=(), sizes=(), nearest=())
    over = np.any(scores.pictures[:, index] > chosen, axis=1)
    outcome = run_rule(
        judge(draft.rule),
        pictures,
        classes=bundle.class_map,
        areas=areas,
        scale=scale,
        expected=np.asarray(over),
        progress=progress,
    )
    return ThresholdRecord(
        **values,
        good_parts_rejected=len(outcome.rejected),
        types=outcome.types,
        sizes=outcome.sizes,
        nearest=_nearest(
            scores.pictures[:, index],
            chosen,
            pictures,
            classes=bundle.class_map,
            levels=levels,
            rejected=outcome.rejected,
        ),
    )


def _measure(
    bundle: Bundle,
    pictures: Pictures,
    settings: ThresholdSettings,
    *,
    levels: Levels,
    engine: Prober,
    scale: Scale | None,
    progress: Progress,
) -> tuple[_Scores, int]:
    """The scores of all pictures, and how many sets of minimum areas the good parts were too few for."""
    classes = bundle.class_map
    own: dict[int, list[int]] = defaultdict(list)
    regions: dict[int, list[float]] = defaultdict(list)
    for index, sample in enumerate(pictures.defects):
        for name, path in sample.masks:
            label = class_of(name, classes, sample)
            own[label].append(index)
            labels = read_mask(path)
            _check_size(scale, labels, sample)
            regions[label] += region_areas(labels > 0, scale)[1][1:].tolist()
    areas, dropped = _areas(len(classes), regions, settings, len(pictures.names), in_mm2=scale is not None)

    def scored(samples: Sequence[Sample], what: str) -> _Ints:
        rows = np.zeros((len(samples), len(areas), len(classes)), np.int64)
        for done, sample in enumerate(samples):
            pixels = read_image(sample.image, bits=pictures.bits)
            _check_size(scale, pixels, sample)
            seen = levels.map(engine, bundle.card.preprocess, pixels, len(classes))
            for label, each in enumerate(seen):
                rows[done, :, label] = reached(each, [row[label] for row in areas], scale)
            progress(what, done + 1, len(samples))
        return rows

    good = scored(pictures.good, "good parts")
    parts = np.zeros((len(pictures.names), *good.shape[1:]), np.int64)
    np.maximum.at(parts, np.array(pictures.parts), good)
    types = tuple(sample.defect for sample in pictures.defects)
    return _Scores(areas, scale, good, parts, scored(pictures.defects, "defects"), types, own), dropped


def _check_size(scale: Scale | None, pixels: NDArray[np.uint8], sample: Sample) -> None:
    """Raises DatasetError: the scale is for pictures of another size."""
    sizes = None if scale is None else scale.pixel_area_mm2
    if isinstance(sizes, np.ndarray) and sizes.shape != pixels.shape[:2]:
        (height, width), (calibrated_height, calibrated_width) = pixels.shape[:2], sizes.shape
        raise DatasetError(
            f"{sample.name}: has {width} by {height} px, and the scale is for {calibrated_width} by "
            f"{calibrated_height}; give pictures as the line's camera takes them, or leave --config out"
        )


def class_of(defect: str, classes: ClassMap, sample: Sample) -> int:
    """The index of the class that finds a type of defects: of a network with one class, that one.

    Raises:
        DatasetError: the network has none of its name.
    """
    if len(classes) == 1:
        return 0
    if defect not in classes.names:
        raise DatasetError(
            f"{sample.name}: its defect {defect!r} is not one of the network's classes {', '.join(classes.names)}; "
            "name its class in split.csv, or take a bundle that was trained on it"
        )
    return classes.label(defect) - 1


def _areas(
    classes: int, regions: dict[int, list[float]], settings: ThresholdSettings, parts: int, *, in_mm2: bool
) -> tuple[_Areas, int]:
    """Sets of minimum areas, one a class, by the labelled defects alone; and how many of them had to be given up."""
    given = settings.minimum_area_mm2 if in_mm2 else settings.minimum_area_px
    if given is not None:
        return ((given,) * classes,), 0
    small = [
        float(np.quantile(regions[label], SMALL_DEFECT)) if regions.get(label) else 0.0 for label in range(classes)
    ]

    def least(area: float) -> float:
        # In mm2 to three digits: a configuration is read by people.
        return float(f"{area:.3g}") if in_mm2 else max(1, int(area))

    sets = tuple(dict.fromkeys(tuple(least(share * area) for area in small) for share in AREA_SHARES))

    def cuts(tried: int) -> int:
        return cuts_allowed(parts, settings.max_false_reject, 1 - (1 - settings.confidence) / tried)

    # Each set has its share of the risk. Cuts make a rule more sensitive: what is tried must not cost many of them.
    kept = max(tried for tried in range(1, len(sets) + 1) if cuts(tried) >= CUTS_KEPT * cuts(1))
    return sets[:kept], len(sets) - kept


def _path(levels: Levels, bundle: Bundle, scores: _Scores, index: int) -> Path:
    defects = {label: scores.defects[own, index, label] for label, own in scores.own.items()}
    if any((own > 0).any() for own in defects.values()):
        return recall_path(len(levels), defects, len(bundle.class_map))
    return even_path(np.array(levels.thresholds), np.array(bundle.card.thresholds))


def _cut(scores: _Scores, paths: Sequence[Path], index: int, cuts: int) -> Cuts:
    def next_class(levels: _Ints, taken: _Ints) -> int | None:
        able = np.flatnonzero(levels)
        if not able.size:
            return None
        # By what the class could still find, then in turn. None of it looks at a good part.
        gains = []
        for label in able:
            lowered = levels.copy()
            lowered[label] = 0
            gains.append(scores.recall(index, lowered))
        order = np.lexsort((able, taken[able], -np.array(gains)))
        return int(able[order[0]])

    return cut(scores.parts[:, index], paths[index], cuts, next_class)


def _best(scores: _Scores, paths: Sequence[Path], cuts: int) -> tuple[int, _Ints] | None:
    """The set of minimum areas that finds most, and its levels [C]; of equal ones the first."""
    best: tuple[float, int, _Ints] | None = None
    for index in range(len(scores.areas)):
        levels = _cut(scores, paths, index, cuts).levels
        if levels is None:
            continue
        recall = scores.recall(index, levels)
        if best is None or recall > best[0]:
            best = recall, index, levels
    return None if best is None else best[1:]


def _curve(scores: _Scores, paths: Sequence[Path], levels: Levels, share: float, rate: float) -> tuple[CurvePoint, ...]:
    """What other numbers of cuts would give, up to ten times the rate asked for."""
    parts, points = len(scores.parts), []
    most = cuts_allowed(parts, min(0.5, 10 * rate), share)
    for cuts in sorted({round(value) for value in np.linspace(1, max(1, most), CURVE_POINTS)}):
        if (best := _best(scores, paths, cuts)) is None:
            continue
        index, chosen = best
        points.append(
            CurvePoint(
                false_reject_bound=upper_bound(cuts - 1, parts, share),
                recall=scores.recall(index, chosen) if scores.types else None,
                scores=tuple(levels.thresholds[level] for level in chosen),
                minimum_areas_px=scores.areas_px(index),
                minimum_areas_mm2=scores.areas_mm2(index),
            )
        )
    return tuple(points)


def _nearest(
    scores: _Ints, chosen: _Ints, pictures: Pictures, *, classes: ClassMap, levels: Levels, rejected: frozenset[int]
) -> tuple[GoodPart, ...]:
    excess = scores - chosen  # [good pictures, C]
    worst = excess.max(axis=1)
    of_part: dict[int, int] = {}
    for index in np.argsort(-worst, kind="stable"):
        of_part.setdefault(pictures.parts[index], int(index))
    ranked = sorted(of_part, key=lambda part: (part not in rejected, -worst[of_part[part]]))
    nearest = []
    for part in ranked[: max(NEAREST, len(rejected))]:
        index = of_part[part]
        label = int(excess[index].argmax())
        score = int(scores[index, label])
        nearest.append(
            GoodPart(
                name=pictures.names[part],
                picture=pictures.good[index].name,
                class_name=classes.names[label],
                reaches=levels.thresholds[score - 1] if score else 0.0,
                rejected=part in rejected,
            )
        )
    return tuple(nearest)


def graph_entry(bundle: Bundle) -> InputFile:
    """The graph of a bundle, as a file that a calibration was made from."""
    return InputFile(name=MODEL, sha256=bundle.sha256(MODEL), size_bytes=len(bundle.read(MODEL)))


def _remarks(bundle: Bundle, pictures: Pictures, settings: ThresholdSettings, dropped: int) -> tuple[str, ...]:
    remarks = []
    if not pictures.named:
        remarks.append(
            "The data do not name the part of every good picture, so each of those pictures was taken for a part of "
            "its own. Where several show one part, the bound does not hold: name the parts in the column tile of "
            "split.csv."
        )
    if shared := {unit(sample) for sample in pictures.good} & {unit(sample) for sample in pictures.defects}:
        remarks.append(
            f"{len(shared)} parts are among the good ones and among the defective ones: what was set by the defects "
            "then knows these good parts, and the bound is a little too low."
        )
    trained = bundle.card.provenance.get("settings", {}).get("roles", ())
    if seen := [role for role in settings.roles if role in trained]:
        remarks.append(
            f"The network was trained on good pictures of the role {seen[0]}. If these are the same, the bound does "
            "not hold: a network says less of parts that it knows."
        )
    if seen := [role for role in settings.defect_roles if role in trained]:
        remarks.append(
            f"The network was trained on defects of the role {seen[0]}. If these are the same, expect it to find "
            "fewer of others."
        )
    if dropped:
        remarks.append(
            f"Minimum areas: {dropped} of the sets were not tried; their share of the risk would have cost too many of "
            "the cuts that so few good parts allow."
        )
    return tuple(remarks)


def _all_rejected(dataset: Dataset, pictures: Pictures, scores: _Scores, levels: Levels, cuts: int) -> str:
    reaching = np.min(np.max(scores.parts, axis=2), axis=1).tolist()
    names = [name for name, score in zip(pictures.names, reaching, strict=True) if score >= len(levels)]
    return (
        f"{dataset.root}: {len(names)} of {len(pictures.names)} good parts are rejected at every score "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}), and no more than {cuts - 1} may be; look whether "
        "they are good, give a larger minimum area, or train the network on more good parts"
    )
