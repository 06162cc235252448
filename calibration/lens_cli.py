"""`inspectd-calibrate target`, `lens`, `scale`: geometry. Imports are inside, for quick help."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inspectd.calibrated import InputFile

    from .corners import View
    from .pictures import Photograph
    from .target import Target

__all__ = ["lens", "scale", "target"]


class Kind(str, Enum):
    """Names on the command line."""

    charuco = "charuco"
    chessboard = "chessboard"


class Dictionary(str, Enum):
    """Names on the command line."""

    d4x4_50 = "4x4_50"
    d4x4_100 = "4x4_100"
    d5x5_100 = "5x5_100"
    d5x5_250 = "5x5_250"
    d6x6_250 = "6x6_250"


class Paper(str, Enum):
    """Names on the command line."""

    a5 = "a5"
    a4 = "a4"
    a3 = "a3"
    a2 = "a2"


TargetFile = Annotated[
    Path, typer.Option("--target", metavar="FILE.json", help="What `inspectd-calibrate target` wrote beside the print.")
]
SquareMm = Annotated[
    float | None, typer.Option("--square-mm", help="Side of a square as measured on the print, instead of the file's.")
]
Serial = Annotated[str | None, typer.Option(help="Serial number of the camera; the line then refuses any other one.")]
Model = Annotated[str | None, typer.Option(help="Model of the camera.")]
Bits = Annotated[int, typer.Option(min=8, max=16, help="Bits that 16-bit files really use, 12 for example.")]


def target(
    out: Annotated[Path, typer.Option(help="Folder for target.pdf, target.png and target.json.")],
    kind: Annotated[Kind, typer.Option(help="charuco may be cut off by the picture's rim; chessboard must not.")] = (
        Kind.charuco
    ),
    squares: Annotated[str, typer.Option(metavar="COLUMNSxROWS", help="How many squares.")] = "12x9",
    square_mm: Annotated[float, typer.Option(help="Side of a square.")] = 20.0,
    marker_mm: Annotated[float | None, typer.Option(help="Side of a marker; 3/4 of a square if not given.")] = None,
    dictionary: Annotated[Dictionary, typer.Option(help="Of the markers: bits a side, and how many.")] = (
        Dictionary.d5x5_100
    ),
    paper: Annotated[Paper | None, typer.Option(help="The sheet, lying; the smallest that fits if not given.")] = None,
    dpi: Annotated[int, typer.Option(min=50, max=2400, help="Dots per inch of the PNG; the PDF has none.")] = 600,
) -> None:
    """Write a target to print: PDF in exact millimetres, PNG, and its description for the other commands.

    Print at 100 %, glue it on a flat plate, and measure the ruler below it.

    Example: inspectd-calibrate target --out target --squares 12x9 --square-mm 20
    """
    from inspectd.command import validated

    from .target import Target, write_target

    columns, rows = _squares(squares)
    made = validated(
        lambda: Target(
            kind=kind.value,
            columns=columns,
            rows=rows,
            square_mm=square_mm,
            marker_mm=0.75 * square_mm if marker_mm is None else marker_mm,
            dictionary=dictionary.value,
        )
    )
    for path in write_target(out, made, paper=None if paper is None else paper.value, dpi=dpi):
        print(path)


def lens(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of pictures of the target.")],
    out: Annotated[Path, typer.Option(help="Folder for lens.json and lens.html.")],
    target_file: TargetFile,
    square_mm: SquareMm = None,
    serial: Serial = None,
    model: Model = None,
    bits: Bits = 16,
    k3: Annotated[bool, typer.Option("--k3", help="A third radial term, for wide lenses with many views.")] = False,
) -> None:
    """Calibrate a lens: focal length, principal point and distortion, with their uncertainties.

    Take 12 to 20 sharp pictures of the target by the camera as it will be focused: over the whole picture, into each
    corner, and tilted to all four sides by 20 to 40 degrees. What is missing is told.

    Example: inspectd-calibrate lens views --target target/target.json --out lens --serial 22894911
    """
    from inspectd.calibrated import LensRecord

    from .lens import fit_lens, focal_without
    from .lens_page import lens_page, lens_verdict
    from .page import write_page
    from .pictures import list_pictures
    from .record import CameraId, header, save_record, utc_now

    described = _target(target_file, square_mm)
    looked = _looked_at(list_pictures(data), described, bits)
    shape, views = looked.shape, looked.views
    fit = fit_lens(views, described, shape, k3=k3)
    record = LensRecord(
        **header(
            looked.entries,
            made=utc_now(),
            camera=CameraId(serial, model),
            width_px=shape[1],
            height_px=shape[0],
        ),
        lens=fit.lens,
        covariance=tuple(map(tuple, fit.covariance.tolist())),
        rms_px=fit.rms_px,
        corner_noise_px=fit.noise_px,
        views=fit.views,
        target=described.model_dump(),
    )
    write_page(out / "lens.html", lens_page(record, fit, focal_without(fit, described, shape, k3=k3)))
    save_record(out / "lens.json", record)
    print(lens_verdict(record, fit).text)
    for view in record.views:
        if not view.used:
            print(f"inspectd-calibrate: note: {view.name} left out: {view.reason}", file=sys.stderr)
    print(f"written: {out / 'lens.json'}, {out / 'lens.html'}", file=sys.stderr)


def scale(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The target lying in the inspection plane.")],
    out: Annotated[Path, typer.Option(help="Folder for scale.json and scale.html.")],
    target_file: TargetFile,
    square_mm: SquareMm = None,
    lens_file: Annotated[
        Path | None,
        typer.Option("--lens", metavar="FILE.json", help="The lens's record; else none is taken out."),
    ] = None,
    target_tolerance_percent: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="The print's lengths are right to +/- this share.")
    ] = 0.2,
    plane_tolerance_mm: Annotated[
        float, typer.Option(min=0.0, help="The target's face lies at the parts' face to +/- this.")
    ] = 0.0,
    distance_mm: Annotated[
        float | None, typer.Option(min=1.0, help="From the camera to the plane, where no lens is given.")
    ] = None,
    serial: Serial = None,
    model: Model = None,
    bits: Bits = 16,
) -> None:
    """Measure mm per px in the plane of the parts, with its uncertainty and how it changes over the picture.

    Lay the target where the parts lie, its face at the height of theirs. Several pictures with the target at other
    places of the same plane make it more certain.

    Example: inspectd-calibrate scale plane.png --target target/target.json --lens lens/lens.json --out scale
    """
    import numpy as np

    from inspectd.calibrated import LensRecord, ScaleRecord, load_record
    from inspectd.errors import ConfigError

    from .page import write_page
    from .pictures import list_pictures
    from .record import CameraId, header, save_record, utc_now
    from .scale import Tolerances, fit_scale
    from .scale_page import scale_page, scale_verdict

    known = None if lens_file is None else load_record(lens_file, LensRecord)
    if known is not None:
        if serial is not None and known.serial not in (None, serial):
            raise ConfigError(f"{lens_file}: is of camera {known.serial}, and --serial says {serial}")
        serial, model = serial or known.serial, model or known.model
    described = _target(target_file, square_mm)
    looked = _looked_at([path for place in images for path in list_pictures(place)], described, bits)
    shape, views = looked.shape, looked.views
    fit = fit_scale(
        views,
        described,
        shape,
        lens=known,
        tolerances=Tolerances(target_tolerance_percent / 100, plane_tolerance_mm, distance_mm),
    )
    area = fit.plane.pixel_area_mm2
    record = ScaleRecord(
        **header(
            looked.entries,
            made=utc_now(),
            camera=CameraId(serial, model),
            width_px=shape[1],
            height_px=shape[0],
        ),
        lens=None if known is None else known.lens,
        lens_sha256=None if known is None else known.sha256,
        homography=tuple(np.ravel(fit.plane.homography).tolist()),
        scale_mm_per_px=fit.scale_mm_per_px,
        scale_std_mm_per_px=fit.std_mm_per_px,
        scale_min_mm_per_px=float(np.sqrt(area.min())),
        scale_max_mm_per_px=float(np.sqrt(area.max())),
        budget=fit.budget,
        rms_px=fit.rms_px,
        corners=fit.corners,
        distance_mm=fit.distance_mm,
        tilt_deg=fit.tilt_deg,
        target=described.model_dump(),
    )
    write_page(out / "scale.html", scale_page(record, fit, views, looked.first))
    save_record(out / "scale.json", record)
    print(scale_verdict(record, fit).text)
    print(f"written: {out / 'scale.json'}, {out / 'scale.html'}", file=sys.stderr)


class _Looked(NamedTuple):
    """What was found in pictures; of their pixels those of the first alone are kept."""

    first: Photograph
    entries: list[InputFile]
    views: list[View]
    shape: tuple[int, int]


def _looked_at(paths: Sequence[Path], described: Target, bits: int) -> _Looked:
    from inspectd.command import bar

    from .corners import find_view
    from .pictures import read_pictures, same_size

    first = read_pictures(paths[:1], bits=bits)[0]
    entries, views = [], []
    with bar("looking for the target") as progress:
        for number, path in enumerate(paths, 1):
            photograph = read_pictures([path], bits=bits)[0]
            same_size([first, photograph])
            entries.append(photograph.entry)
            views.append(find_view(path.name, photograph.pixels, described))
            progress(number, len(paths))
    return _Looked(first, entries, views, first.shape)


def _target(path: Path, square_mm: float | None) -> Target:
    from inspectd.command import validated

    from .target import Target, load_target

    described = load_target(path)
    if square_mm is None:
        return described
    # The markers were printed by the same printer.
    stretch = square_mm / described.square_mm
    changed = {"square_mm": square_mm, "marker_mm": described.marker_mm * stretch}
    return validated(lambda: Target.model_validate({**described.model_dump(), **changed}))


def _squares(text: str) -> tuple[int, int]:
    from inspectd.errors import ConfigError

    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal()):
        raise ConfigError(f"--squares {text}: expected COLUMNSxROWS, 12x9 for example")
    return int(columns), int(rows)
