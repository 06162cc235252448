"""What an experiment found, as tables: mean ± standard deviation over seeds, the best of what is compared in bold.

The deviation is that of a sample (n - 1). Seeds are those of the trainings; placements and networks that paint, which
are drawn once, all of them share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from inspectd.simulation.placement import VARIED
from inspectd.training.document import Table
from inspectd.training.segmentation.results import Evaluation

from .simulation import ExperimentSettings

__all__ = ["HEADLINE", "by_size", "common", "compared", "figures", "machines", "summary"]

HEADLINE = ("pooled F1", "image F1", "recall at 1 %", "AUROC")
"""The figures that a comparison is about."""


def figures(result: Evaluation) -> dict[str, float | None]:
    """What a table shows of one training."""
    level = {point.false_reject_rate: point.recall for point in result.image_level.at_false_rejects}
    return {
        "pooled F1": result.pooled.pixels.f1,
        "image F1": result.image_f1.mean,
        "recall at 1 %": level[0.01],
        "AUROC": result.image_level.auroc,
        "best F1": result.pooled.best_f1,
    } | {f"F1 {name}": found.pixels.f1 for name, found in result.types.items()}


def summary(results: Sequence[float | None], *, brief: bool = False) -> tuple[float | None, str]:
    """Mean of what is defined, and mean ± standard deviation (n - 1) as text; where brief, the mean with two digits."""
    values = _defined(results)
    if not values:
        return None, "-"
    if brief:
        return mean(values), f"{mean(values):.2f}"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return mean(values), f"{mean(values):.3f}{spread}"


def _defined(results: Sequence[float | None]) -> list[float]:
    return [value for value in results if value is not None]


def compared(
    values: Mapping[str, Mapping[str, Sequence[float | None]]], seeds: int, *, along_rows: bool, brief: bool = False
) -> list[tuple[str, ...]]:
    """The rows of a table, the best mean of each row or column in bold, and all that is printed like it.

    Args:
        values: figures of each seed, by row and column; a place that is not there is empty.
        seeds: how many there are to be; a place with fewer where the figure is defined competes for the bold only
            where no other has all, and has their number behind it.
        along_rows: whether the places of a row compete, or those of a column.
        brief: means alone, with two digits.
    """
    columns = list(dict.fromkeys(column for row in values.values() for column in row))
    texts: dict[tuple[str, str], str] = {}
    means: dict[tuple[str, str], float] = {}
    counts: dict[tuple[str, str], int] = {}
    for row, of in values.items():
        for column in columns:
            average, texts[row, column] = summary(of.get(column, ()), brief=brief)
            if average is not None:
                # To the digits that are shown: of two figures that look alike, none is better.
                means[row, column] = round(average, 2 if brief else 3)
                counts[row, column] = len(_defined(of[column]))
    for line in values if along_rows else columns:
        places = [place for place in means if place[0 if along_rows else 1] == line]
        whole = [place for place in places if counts[place] == seeds] or places
        if len(whole) > 1:
            best = max(means[place] for place in whole)
            for place in whole:
                if means[place] == best:
                    texts[place] = f"**{texts[place]}**"
    for place, count in counts.items():
        if count != seeds:
            texts[place] += f" ({count})"
    return [(row, *(texts[row, column] for column in columns)) for row in values]


def by_size(found: Mapping[str, Sequence[Evaluation]], seeds: int) -> Table:
    """Mean F1 of the pictures with so many labelled pixels, as `Evaluation.f1_by_size_px` groups them.

    Args:
        found: results of each seed, by row; one at least.
        seeds: as in `compared`.
    """
    first = next(iter(found.values()))[0]
    names = [name for name, part in first.f1_by_size_px.items() if part.images]
    values = {
        row: {
            f"{name} px ({first.f1_by_size_px[name].images})": [
                result.f1_by_size_px[name].image_f1.mean for result in results
            ]
            for name in names
        }
        for row, results in found.items()
    }
    header = next(iter(values.values())).keys()
    caption = "## Mean image F1 by labelled pixels (pictures)"
    return Table(caption, ("", *header), tuple(compared(values, seeds, along_rows=False, brief=True)))


def common(settings: ExperimentSettings, networks: Sequence[str] = ()) -> str:
    """What all trainings of an experiment have in common, in one paragraph; `networks` where there are several."""
    segment = settings.segment
    learns = ", ".join(networks) or segment.network
    height, width = segment.window_size
    changed = {key: value for key, value in settings.dst.items() if key != "precision"}
    if "vgg" in changed:
        changed["vgg"] = Path(str(changed["vgg"])).name
    schedule = f"DST with {', '.join(f'{key} {value}' for key, value in changed.items())}; " if changed else ""
    changed = {key: value for key, value in settings.cyclegan.items() if key != "precision"}
    if changed:
        schedule += f"CycleGAN with {', '.join(f'{key} {value}' for key, value in changed.items())}; "
    usual = VARIED.model_dump()
    drawn = {key: value for key, value in settings.placement.model_dump().items() if value != usual[key]}
    if drawn:
        schedule += f"placements with {', '.join(f'{key} {value}' for key, value in drawn.items())}; "
    weights = "random" if segment.weights == "none" else "pretrained"
    own = "; a network of one's own begins as it makes itself" if any(":" in name for name in networks) else ""
    loss = "".join(
        f", {what} {weight:g}"
        for what, weight, usual in (
            ("defects weighing", segment.defect_weight, 1.0),
            ("the windows' peaks weighing", segment.peak_weight, 0.0),
        )
        if weight != usual
    )
    decay = f"AdamW with decay {segment.weight_decay:g}" if segment.weight_decay else "Adam"
    shares = (
        f"defective {segment.defect_share or 'as they occur'}, simulated of those "
        f"{segment.simulated_share or 'as they occur'}"
    )
    return (
        f"{settings.seeds} seed{'s' * (settings.seeds > 1)}, {segment.steps} updates of {segment.batch} windows of "
        f"{height}x{width} px from pictures of {segment.height}x{segment.width} px turned by up to "
        f"{segment.rotation_deg:g} degrees, {learns} on {segment.backbone} ({weights} weights{own}), "
        f"{settings.count} simulated pictures, {schedule}measured on {' + '.join(settings.roles)}; "
        "mean ± standard deviation (n - 1) over seeds, which are of the training alone: placements and networks that "
        f"paint are the same for all. {decay}, rate {segment.rate:g} {segment.schedule}, augmentation "
        f"{segment.augment}, crop {segment.crop:g}, laid over the defect {segment.crop_bias:g}{loss}, shares of a "
        f"batch: {shares}; arithmetic {segment.precision}."
    )


def machines(results: Iterable[Evaluation]) -> str:
    """Where and when trainings were measured, each machine and date once; and whether they are of different code."""
    every = list(results)
    places = " · ".join(sorted({str(result.provenance.get("machine", "unknown machine")) for result in every}))
    codes = Counter(map(_code, every))
    if len(codes) == 1:
        return places
    listed = ", ".join(f"{count} by {code}" for code, count in sorted(codes.items()))
    return f"{places} Trainings of different code stand in these tables ({listed}): what differs may be of the code."


def _code(result: Evaluation) -> str:
    """The code that trained, as the card says it."""
    versions = result.provenance.get("card", {}).get("provenance", {}).get("versions", {})
    return str(versions.get("code", "an earlier version"))
