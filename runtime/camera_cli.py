"""`inspectd camera`: which cameras there are, what they can do and see. Imports are inside, for a quick `--help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .sources.survey import FoundCamera

__all__ = ["app"]

app = typer.Typer(
    name="camera",
    help="Find GenICam cameras, see what they can do and what they see, and set them.",
    short_help="List, examine and set GenICam cameras.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)

Producers = Annotated[
    list[str] | None,
    typer.Option(
        "--producer", metavar="P", help="A producer's .cti file, viky (a test camera) or simulator; may be repeated."
    ),
]
Name = Annotated[str, typer.Argument(metavar="CAMERA", help="Serial number, id or user-defined name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", short_help="List producers and their cameras.")
def list_(producer: Producers = None, json: Json = False) -> None:
    """List the cameras behind all producers: those given, and every .cti in the folders of GENICAM_GENTL64_PATH.

    Each producer is loaded in a process of its own, so that a bad one costs its line and nothing else. No camera is
    opened: their states are what the producers say.

    \b
    Examples:
      inspectd camera list
      inspectd camera list --producer viky
    """  # noqa: D301 - click's mark for text that keeps its lines
    import os

    from inspectd.errors import CameraError

    from .sources.survey import PATH_VARIABLE, survey

    surveyed = survey(producer or (), environment=os.environ)
    if not surveyed:
        raise CameraError(
            f"no GenTL producer is known: install the software of the camera's maker and name the folder of its .cti "
            f"file in {PATH_VARIABLE}, or give it by --producer (viky for a test camera)"
        )
    if json:
        from dataclasses import asdict

        _print_json([asdict(answer) for answer in surveyed])
        return
    from .camera_view import survey_table

    _print_rich(survey_table(surveyed))


@app.command(short_help="Show what a camera can do.")
def info(
    name: Name,
    producer: Producers = None,
    everything: Annotated[bool, typer.Option("--all", help="List every feature that can be read.")] = False,
    json: Json = False,
) -> None:
    """Show a camera's formats, size, exposure, gain, rate, trigger sources and user sets.

    The camera is opened for it, so no line may hold it at the same time. Formats that inspectd cannot read are marked.

    \b
    Examples:
      inspectd camera info 22894911
      inspectd camera info VikyTL_DEV_red --producer viky --all
    """  # noqa: D301
    from .camera_view import description, feature_table, overview_table
    from .sources.features import features_of, opened

    found = _found(name, producer)
    with opened(found) as nodes:
        features = features_of(nodes)
    if json:
        _print_json(description(found, features, everything=everything))
        return
    _print_rich(overview_table(found, features), *([feature_table(features)] if everything else []))


@app.command(short_help="Save what a camera sees.")
def snap(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where the picture goes; several get -1, -2, ...")],
    count: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Pictures to take.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a feature first; may be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="S", help="Give up after S seconds without one.")] = 5.0,
    producer: Producers = None,
) -> None:
    """Save pictures as the line would see them: the same source, features and conversion of pixels.

    Prints size and mean grey value of each, and warns where pixels are saturated.

    \b
    Example:
      inspectd camera snap 22894911 --out part.png --set ExposureTime=2000 --set PixelFormat=BayerRG12p
    """  # noqa: D301
    from .snapshot import snapshots
    from .sources.features import feature_values

    features = feature_values(set_ or ())
    for path, picture in snapshots(_found(name, producer), out, count=count, features=features, timeout_s=timeout):
        print(f"{path}: {picture}", flush=True)
        if picture.warning:
            print(f"inspectd: {path}: {picture.warning}", file=sys.stderr, flush=True)


@app.command("set", short_help="Set features of a camera.")
def set_(
    name: Name,
    features: Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="Features, set in this order.")],
    producer: Producers = None,
    save: Annotated[
        str | None, typer.Option(metavar="USERSET", help="Then save all features in this user set of the camera.")
    ] = None,
) -> None:
    """Set features of a camera, and print their old values and those that it answers with.

    They last until the camera's next power cycle, and only if no line sets them otherwise, unless they are saved in a
    user set by --save and the camera starts with that one (UserSetDefault). A command is executed by NAME=true.

    \b
    Examples:
      inspectd camera set 22894911 ExposureTime=2000 Gain=0
      inspectd camera set 22894911 UserSetDefault=UserSet1 --save UserSet1
    """  # noqa: D301
    from inspectd.errors import CameraError

    from .sources.features import check_user_set, find_feature, opened, save_user_set, set_feature, split_feature

    wanted = [split_feature(feature) for feature in features]
    found = _found(name, producer)
    refused = []
    with opened(found) as nodes:
        if save is not None:
            check_user_set(nodes, save, camera=str(found))
        for feature, text in wanted:
            try:
                change = set_feature(nodes, feature, text, camera=str(found))
            except CameraError as error:  # noqa: PERF203 - all of them are told at once
                refused.append(str(error))
            else:
                print(change, flush=True)
        if refused:
            raise CameraError("\n".join([*refused, *(["nothing was saved"] if save is not None else [])]))
        if save is None:
            print("These values last until the camera's power cycle; --save USERSET keeps them.")
            return
        save_user_set(nodes, save, camera=str(found))
        print(f"saved in {save}")
        default = find_feature(nodes, "UserSetDefault")
        if default is not None and default.value != save:
            print(f"The camera starts with {default.value}; UserSetDefault={save} makes it start with this one.")


def _found(name: str, producer: Sequence[str] | None) -> FoundCamera:
    import os

    from .sources.survey import find_camera

    return find_camera(name, producer or (), os.environ)


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2))


def _print_rich(*tables: object) -> None:
    from rich.console import Console

    # A pipe has no width; rich would fold everything at 80.
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    for table in tables:
        console.print(table)
