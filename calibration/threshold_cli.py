"""`inspectd-calibrate threshold`: scores and minimum areas from good parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import stages

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from inspectd.bundle import Bundle
    from inspectd.calibrated import Scale
    from inspectd.calibrated.threshold import ThresholdRecord
    from inspectd.dataset import Dataset
    from inspectd.inspection import AcceptanceRule, Inspection
    from inspectd.runtime.engine import Engine

    from .threshold_settings import ThresholdSettings

__all__ = ["inspector_of", "roles_of", "threshold"]

_CAMERA = "calibration"


def threshold(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle; or demo, the one that is shipped.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with split.csv, or an MVTec-style tree.")],
    max_false_reject: Annotated[
        str, typer.Option(metavar="PERCENT", help="Share of the good parts that may be rejected: 0.5% for example.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.json", help="The record to write; the page and the .toml go beside it.")
    ],
    confidence: Annotated[str, typer.Option(metavar="PERCENT", help="How sure that has to be.")] = "95%",
    roles: Annotated[str, typer.Option(help="Roles of the good pictures, with commas.")] = "ok_calibration",
    defects: Annotated[
        str | None, typer.Option(metavar="ROLE[,ROLE]", help="Roles of labelled or simulated defects to go by.")
    ] = None,
    minimum_area_px: Annotated[
        int | None, typer.Option(help="Smaller regions are let pass; without it some are tried, by the defects.")
    ] = None,
    minimum_area_mm2: Annotated[float | None, typer.Option(help="The same in mm2, with --config.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="The line's configuration: its camera's scale gives areas in mm2."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which camera of it took the pictures, where it has several.")
    ] = None,
    lowest_score: Annotated[
        float | None, typer.Option(help="No score is set below; without it 0.1, or 0.5 of several classes.")
    ] = None,
    backend: Annotated[str, typer.Option(help="What runs the network of the line, as in [model].")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option(help="Its arithmetic, as in [model].")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of a processor's; 0 takes all.")] = 0,
    bits: Annotated[
        int | None, typer.Option(min=8, max=16, help="Bits that 16-bit files really use; else as in training.")
    ] = None,
) -> None:
    """Set scores and minimum areas by good parts, so that few of them are rejected.

    Photographs of one part (the column tile of split.csv) count as one. Too few parts are refused: 598 are needed for
    0.5% at 95%.

    Example: inspectd-calibrate threshold BUNDLE DATA --max-false-reject 0.5% --defects extra --out thresholds.json
    """
    from inspectd.bundle import load_bundle
    from inspectd.dataset import open_dataset
    from inspectd.errors import ConfigError
    from inspectd.runtime.engine import open_engine
    from inspectd.runtime.station import demo_bundle

    from .files import write_whole
    from .line import scale_of
    from .page import write_page
    from .record import save_record, utc_now
    from .threshold import calibrate_thresholds
    from .threshold_page import promise, threshold_page
    from .threshold_settings import ThresholdSettings, percentage

    settings = ThresholdSettings(
        max_false_reject=percentage("--max-false-reject", max_false_reject),
        confidence=percentage("--confidence", confidence),
        roles=roles_of(roles),
        defect_roles=roles_of(defects or ""),
        minimum_area_px=minimum_area_px,
        minimum_area_mm2=minimum_area_mm2,
        lowest_score=lowest_score,
        bits=bits,
    )
    if out.suffix != ".json" or out.is_dir():
        raise ConfigError(f"--out {out}: expected a file that ends in .json; the page and the .toml go beside it")
    scale, inputs = scale_of(config, camera)
    opened = load_bundle(demo_bundle() if str(bundle) == "demo" else bundle)
    dataset = open_dataset(data)
    with open_engine(opened, backend=backend, precision=precision, threads=threads) as engine, stages() as progress:
        record = calibrate_thresholds(
            opened,
            dataset,
            settings,
            engine=engine,
            engine_name=engine.name,
            judge=lambda rule: inspector_of(opened, engine, rule, scale=scale),
            made=utc_now(),
            scale=scale,
            inputs=inputs,
            progress=progress,
        )
        sheet = _sheet(record, opened, engine, dataset, settings)
    # The record last: where something cannot be written, the line's is the one of before.
    write_page(out.with_suffix(".html"), threshold_page(record, sheet))
    write_whole(out.with_suffix(".toml"), record.toml(out.name))
    save_record(out, record)
    print(_summary(record))
    print(promise(record))
    for remark in record.remarks:
        print(f"inspectd-calibrate: note: {remark}", file=sys.stderr)
    print(f"written: {out}, {out.with_suffix('.html').name}, {out.with_suffix('.toml').name}", file=sys.stderr)


def roles_of(text: str) -> tuple[str, ...]:
    """Roles of a dataset that were written with commas."""
    return tuple(role for each in text.split(",") if (role := each.strip()))


def inspector_of(
    bundle: Bundle, engine: Engine, rule: AcceptanceRule, *, scale: Scale | None = None
) -> Callable[[NDArray[np.uint8]], Inspection]:
    """What the line makes of pixels by a rule: its own inspector."""
    import numpy as np

    from inspectd.frame import Frame
    from inspectd.runtime.inspector import Inspector

    inspector = Inspector(bundle, engine, rule, scales={_CAMERA: scale})

    def judge(pixels: NDArray[np.uint8]) -> Inspection:
        return inspector.inspect(Frame(_CAMERA, 0, np.ascontiguousarray(pixels), acquired_ns=0))

    return judge


def _sheet(
    record: ThresholdRecord, bundle: Bundle, engine: Engine, dataset: Dataset, settings: ThresholdSettings
) -> NDArray[np.uint8]:
    """The good parts of the record, looked at once more."""
    from inspectd.dataset import read_image

    from .threshold_levels import Levels
    from .threshold_page import contact_sheet
    from .threshold_settings import picture_bits

    levels = Levels.of(len(bundle.class_map), settings.lowest_score)
    files = {sample.name: sample.image for sample in dataset.samples}
    pictures = []
    for part in record.nearest:
        pixels = read_image(files[part.picture], bits=picture_bits(settings.bits, bundle.card.provenance))
        seen = levels.map(engine, bundle.card.preprocess, pixels, len(bundle.class_map)).max(axis=0)
        pictures.append((pixels, seen / len(levels), part.rejected))
    return contact_sheet(pictures)


def _summary(record: ThresholdRecord) -> str:
    width = max(len(each.name) for each in record.classes)
    lines = [
        f"{each.name:<{width}}  score {each.score:.4f} (bundle {card:.4f})  minimum area {each.minimum_area}"
        for each, card in zip(record.classes, record.card_scores, strict=True)
    ]
    width = max((len(each.name) for each in (*record.types, *record.sizes)), default=0)
    lines += [
        f"{each.name:<{width}}  {each.found} of {each.total} found, recall {each.recall:.3f} "
        f"({each.low:.3f} to {each.high:.3f} over {each.parts} parts)"
        for each in (*record.types, *record.sizes)
    ]
    return "\n".join(lines)
