"""`inspectd-calibrate image`: what good pictures of a station look like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from inspectd.command import stages

from .live import (
    CameraOption,
    ConfigOption,
    ProducerOption,
    SetOption,
    Taking,
    TimeoutOption,
    take_pictures,
)

__all__ = ["image"]


def image(
    frames: Annotated[
        Path,
        typer.Argument(
            metavar="FRAMES",
            help="Folder of pictures of good parts as the line took them; new ones are put there.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="The record to write; the page goes beside it.")],
    margin: Annotated[
        float, typer.Option(min=0, max=10, help="How much further than the farthest good picture a limit lies.")
    ] = 0.5,
    camera: CameraOption = None,
    config: ConfigOption = None,
    count: Annotated[int, typer.Option("--frames", min=1, max=10_000, metavar="N", help="How many to take now.")] = 200,
    set_: SetOption = None,
    producer: ProducerOption = None,
    timeout: TimeoutOption = 5.0,
    serial: Annotated[
        str | None, typer.Option(help="Serial number of the camera; the line refuses another one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the camera.")] = None,
    bits: Annotated[int, typer.Option(min=8, max=16, help="Bits that 16-bit files really use.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the noise of simulated faults.")] = 0,
) -> None:
    """Learn from good pictures when a picture is none: blurred, too dark, partly covered, displaced.

    The line looks at each frame by it (cameras.NAME.image_health): what is unlike the good ones passes no part.
    Give 200 pictures or more, of different parts, over a shift; with --config or --camera they are taken now, and with
    --config they are corrected by the line's flat field as the line corrects them.

    Example: inspectd-calibrate image archive/good --serial 4103 --out image.json
    """
    from inspectd.calibrated import ImageRecord, encode_reference
    from inspectd.errors import ConfigError

    from .image import learn_image
    from .image_page import image_page
    from .page import write_page
    from .pictures import known_channels, list_pictures, read_pictures, same_size
    from .record import CameraId, header, save_record, utc_now

    if out.suffix != ".json" or out.is_dir():
        raise ConfigError(f"--out {out}: expected a file that ends in .json; the page goes beside it")
    whose = CameraId(serial, model)
    taking = Taking(camera, config, count, tuple(set_ or ()), tuple(producer or ()), timeout)
    if taking.is_asked_for:
        found = take_pictures(frames, taking, corrected=True)
        whose = CameraId(serial or found.serial, model or found.model)
    photographs = []
    with stages() as progress:
        paths = list_pictures(frames)
        for number, path in enumerate(paths, 1):
            photographs += read_pictures([path], bits=bits)
            progress("pictures read", number, len(paths))
        height, width = same_size(photographs)
        fit = learn_image(
            [photograph.pixels for photograph in photographs],
            margin=margin,
            seed=seed,
            progress=lambda done, total: progress("pictures measured", done, total),
        )
    record = ImageRecord(
        **header(
            (photograph.entry for photograph in photographs),
            made=utc_now(),
            camera=whose,
            width_px=width,
            height_px=height,
        ),
        channels=known_channels(photographs),
        frames=len(photographs),
        margin=margin,
        limits=dict(fit.limits),
        reference=encode_reference(fit.reference),
        found=dict(fit.found),
    )
    # The record last: where the page cannot be written, the line's is the one of before.
    write_page(out.with_suffix(".html"), image_page(record, fit, photographs))
    save_record(out, record)
    for name, limit in record.limits.items():
        low = "" if limit.low is None else f"from {limit.low:.4g}"
        high = "" if limit.high is None else f"up to {limit.high:.4g}"
        print(f"{name:<12}{low:<16}{high}")
    for name, share in record.found.items():
        print(f"{name:<12}found in {100 * share:.0f}% of the good pictures that were made so")
    for index, what in fit.odd:
        print(f"inspectd-calibrate: note: {photographs[index].entry.name}: {what}; is it a good one?", file=sys.stderr)
    print(f"written: {out}, {out.with_suffix('.html').name}", file=sys.stderr)
