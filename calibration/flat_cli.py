"""`inspectd-calibrate flat-field`: offset, gain and defective pixels. Imports are inside, for quick help."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .live import (
    CameraOption,
    ConfigOption,
    ProducerOption,
    SetOption,
    Taking,
    TimeoutOption,
    take_pictures,
)

if TYPE_CHECKING:
    from inspectd.calibrated import InputFile

    from .flat import Stack

__all__ = ["correct", "flat_field"]


def flat_field(
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="The flat field to write; the page goes beside it.")],
    flat: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Pictures of an even, bright target; those taken now are put there."),
    ],
    dark: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures with the lens covered; else offsets are 0.")
    ] = None,
    camera: CameraOption = None,
    config: ConfigOption = None,
    frames: Annotated[int, typer.Option(min=8, max=1000, metavar="N", help="How many to take now.")] = 32,
    set_: SetOption = None,
    producer: ProducerOption = None,
    timeout: TimeoutOption = 5.0,
    serial: Annotated[
        str | None, typer.Option(help="Serial number of the camera; the line then refuses any other one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the camera.")] = None,
    bits: Annotated[int, typer.Option(min=8, max=16, help="Bits that 16-bit files really use, 12 for example.")] = 16,
) -> None:
    """Even out vignetting, light and pixels, from pictures of an even target (opal glass, white paper out of focus).

    Use the exposure, gain and light of the line, so that the brightest part is at some 200. A target that is dark,
    saturated, moving, or not even is refused.

    Example: inspectd-calibrate flat-field --flat flat --dark dark --out flat.npz --serial 22894911
    """
    import numpy as np

    from inspectd.calibrated import FlatField, FlatFieldRecord
    from inspectd.calibrated.flat import GAIN_UNIT, arrays_sha256
    from inspectd.errors import ConfigError

    from .files import write_whole
    from .flat import fit_flat_field
    from .flat_page import flat_page, flat_verdict
    from .page import write_page
    from .record import CameraId, header, utc_now

    if out.suffix != ".npz":
        raise ConfigError(f"--out {out}: expected a name ending in .npz")
    whose = CameraId(serial, model)
    taking = Taking(camera, config, frames, tuple(set_ or ()), tuple(producer or ()), timeout)
    if taking.is_asked_for:
        found = take_pictures(flat, taking, corrected=False)
        whose = CameraId(serial or found.serial, model or found.model)
    stack, entries = _stacked(flat, bits)
    without = None
    if dark is not None:
        without, more = _stacked(dark, bits)
        entries += more
    fit = fit_flat_field(stack, without)
    height, width, channels = stack.shape or (0, 0, 0)
    record = FlatFieldRecord(
        **header(entries, made=utc_now(), camera=whose, width_px=width, height_px=height),
        channels=1 if channels == 1 else 3,
        flat_frames=len(stack),
        dark_frames=0 if without is None else len(without),
        mean_grey=fit.mean_grey,
        noise_grey=fit.noise_grey,
        shading_before=fit.shading_before,
        shading_after=fit.shading_after,
        pattern_before=fit.pattern,
        pattern_kept=fit.kept,
        gain_min=float(fit.gain.min()) * GAIN_UNIT,
        gain_max=float(fit.gain.max()) * GAIN_UNIT,
        hot_pixels=len(fit.hot),
        dead_pixels=len(fit.dead),
        arrays_sha256=arrays_sha256(fit.gain, fit.offset, fit.defects),
    )
    field = FlatField(record, fit.gain, fit.offset, fit.defects)
    page = out.with_suffix(".html")
    write_page(page, flat_page(record, fit, stack, field.apply(np.rint(stack.mean).astype(np.uint8))))
    write_whole(out, field.save())
    print(flat_verdict(record).text)
    print(f"written: {out}, {page}", file=sys.stderr)


def correct(
    field: Annotated[Path, typer.Argument(metavar="FIELD.npz", help="The flat field.")],
    frames: Annotated[Path, typer.Argument(metavar="FRAMES", help="Folder of pictures as the camera gave them.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the corrected ones: PNG, of the same names.")],
    bits: Annotated[int, typer.Option(min=8, max=16, help="Bits that 16-bit files really use.")] = 16,
) -> None:
    """Correct pictures by a flat field, as the line corrects its frames.

    What a line with a flat field is trained and calibrated by (image, threshold) are corrected pictures: those of its
    archive, or these.

    Example: inspectd-calibrate correct flat.npz taken --out corrected
    """
    from inspectd.bundle import encode_png
    from inspectd.calibrated import load_flat_field
    from inspectd.command import bar
    from inspectd.errors import ConfigError

    from .files import write_whole
    from .pictures import list_pictures, read_pictures

    correction, paths = load_flat_field(field), list_pictures(frames)
    if (out / paths[0].name).exists() and out.samefile(paths[0].parent):
        raise ConfigError(
            f"--out {out}: is where the pictures are; corrected twice they would be wrong: name another one"
        )
    names = Counter(path.stem for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"{frames}: several pictures are called {twice[0]} but for their suffix, and would be one {twice[0]}.png; "
            "rename them"
        )
    with bar("correcting") as progress:
        for number, path in enumerate(paths, 1):
            try:
                corrected = correction.apply(read_pictures([path], bits=bits)[0].pixels)
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from None
            write_whole(out / f"{path.stem}.png", encode_png(corrected[..., ::-1]))
            progress(number, len(paths))
    print(f"{len(paths)} pictures corrected by {field} of {correction.record.made:%Y-%m-%d}")


def _stacked(folder: Path, bits: int) -> tuple[Stack, list[InputFile]]:
    """The frames of a folder, added up, and what a record says of their files."""
    from inspectd.command import bar

    from .flat import Stack
    from .pictures import list_pictures, read_pictures

    paths, stack, entries = list_pictures(folder), Stack(), []
    with bar(f"reading {folder.name}") as progress:
        for number, path in enumerate(paths, 1):
            photograph = read_pictures([path], bits=bits)[0]
            stack.add(path.name, photograph.pixels)
            entries.append(photograph.entry)
            progress(number, len(paths))
    return stack, entries
