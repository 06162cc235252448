"""`inspectd-train`: from photographs to a checkpoint."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, bar, run_command, version_of

from .experiments import cli as experiments
from .style import cli as style
from .terminal import Backbone, Network, Precision, require_torch, summary, validated
from .update import cli as update

if TYPE_CHECKING:
    from inspectd.training.data.holdout import HoldOut

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=CONTEXT,
    help="Make datasets, train Buttonlab on them, and measure what it learnt.\n\n"
    "Start with `inspectd-train check DATA`, then `segment`, then `evaluate`; "
    "`export-trt` makes a bundle of the result.",
)


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("inspectd-train"), is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    pass


importers = typer.Typer(no_args_is_help=True, help="Turn the labels of other tools into a dataset.")
app.add_typer(importers, name="import")
app.add_typer(experiments.app, name="experiment")
app.command()(style.dst)
app.command()(style.simulate)
app.command()(update.update)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder with split.csv, or an MVTec-style tree.")]
Link = Annotated[bool, typer.Option("--link", help="Hard links to the pictures instead of copies.")]


class Classes(str, Enum):
    """Names on the command line."""

    binary = "binary"
    types = "types"


class Schedule(str, Enum):
    """Names on the command line."""

    constant = "constant"
    onecycle = "onecycle"


class Augment(str, Enum):
    """Names on the command line."""

    none = "none"
    flips = "flips"
    full = "full"


class Protocol(str, Enum):
    """Names on the command line."""

    paper = "paper"
    demo = "demo"


@app.command()
def segment(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the training: checkpoint, logs, state.")],
    network: Annotated[
        Network, typer.Option(help="buttonlab, or one to compare it with, which cannot be exported.")
    ] = Network.buttonlab,
    backbone: Annotated[Backbone, typer.Option(help="The paper's is resnet50; slim is for stations without a GPU.")] = (
        Backbone.resnet50
    ),
    weights: Annotated[
        str,
        typer.Option(help="Start of the backbone: none, imagenet (downloaded), or a file with torchvision's names."),
    ] = "none",
    start: Annotated[
        str | None, typer.Option(metavar="PATH", help="A checkpoint or bundle to go on from, instead of --weights.")
    ] = None,
    classes: Annotated[Classes, typer.Option(help="One class for all defects, or one for each type.")] = Classes.binary,
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the network's input, multiples of 16.")] = "256x256",
    fill: Annotated[int, typer.Option(help="Grey value around letterboxed pictures.")] = 0,
    bits: Annotated[int, typer.Option(help="Bits that 16-bit files really use, 12 for example.")] = 16,
    roles: Annotated[str, typer.Option(help="Roles to train on, with commas.")] = "ref,extra,free,simulated",
    batch: Annotated[int, typer.Option(help="Pictures of one update on one device.")] = 8,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 120,
    steps: Annotated[int | None, typer.Option(help="Updates, instead of --epochs.")] = None,
    rate: Annotated[float, typer.Option(help="Adam's rate; the highest one with onecycle.")] = 2e-3,
    schedule: Annotated[Schedule, typer.Option(help="How the rate goes.")] = Schedule.constant,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.0,
    window: Annotated[
        float, typer.Option(help="Side of the window that is trained on, as a share of the picture's; 1 is all of it.")
    ] = 1.0,
    crop: Annotated[
        float, typer.Option(help="Side of the decoder's crop as a share of the window's; 1 sees all.")
    ] = 0.5,
    crop_bias: Annotated[
        float, typer.Option(help="How often a defective picture's window and crop are laid over its defect.")
    ] = 0.0,
    defect_share: Annotated[
        float | None, typer.Option(help="Share of each batch that shows a defect; else as they occur.")
    ] = None,
    simulated_share: Annotated[
        float | None,
        typer.Option(help="Share of a batch's defective pictures that are simulated, not real; else as they occur."),
    ] = None,
    real: Annotated[
        int | None,
        typer.Option(help="How many real defective pictures: the references, then others as the seed draws them."),
    ] = None,
    replacement: Annotated[
        bool, typer.Option("--replacement", help="Draw pictures with replacement, not in turn; needs --steps.")
    ] = False,
    defect_weight: Annotated[float, typer.Option(help="Weight of defects in the cross-entropy.")] = 1.0,
    peak_weight: Annotated[
        float, typer.Option(help="Weight of each window's likeliest pixels, which decide on a part, in the loss.")
    ] = 0.0,
    hard: Annotated[
        Path | None, typer.Option(help="File of `inspectd-train mine`: pictures to show more often, and where.")
    ] = None,
    hard_share: Annotated[float, typer.Option(help="Share of each batch that is drawn from --hard.")] = 0.5,
    augment: Annotated[Augment, typer.Option(help="How pictures are varied.")] = Augment.full,
    rotation_deg: Annotated[float, typer.Option(help="Highest rotation of --augment full, either way.")] = 180.0,
    # `fabric run` takes this option for itself wherever it stands, and hands it on by the variable.
    precision: Annotated[
        Precision,
        typer.Option(
            envvar="LT_PRECISION",
            show_envvar=False,
            help="Arithmetic of the network; auto: bf16 where the device calculates in it.",
        ),
    ] = Precision.auto,
    seed: Annotated[int, typer.Option(help="Of weights, order, crops and augmentation.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    devices: Annotated[int, typer.Option(help="GPUs or processes on this machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines, each started by `fabric run`.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that read pictures, for each device.")] = 0,
    save_every: Annotated[int, typer.Option(help="Updates between two saved states.")] = 200,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
) -> None:
    """Train Buttonlab: a segmentation network for small defects.

    The defaults are the paper's (ResNet-50, crops of half the side, Adam 2e-3, batch 8, 120 epochs).

    Example, for a station without a GPU:

        inspectd-train segment DATA --out out/slim --backbone slim --steps 6000 --schedule onecycle --crop-bias 0.5
    """
    require_torch()
    import torch
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from inspectd.errors import ConfigError
    from inspectd.training.segmentation.settings import SegmentSettings
    from inspectd.training.segmentation.train import Hardware, train

    height, width = _size(size)
    settings = validated(
        lambda: SegmentSettings(
            network=network.value,
            backbone=backbone.value,
            weights=weights,
            start=start,
            classes=classes.value,
            height=height,
            width=width,
            fill=fill,
            bits=bits,
            roles=_roles(roles),
            batch=batch,
            epochs=epochs,
            steps=steps,
            rate=rate,
            schedule=schedule.value,
            weight_decay=weight_decay,
            window=window,
            crop=crop,
            crop_bias=crop_bias,
            defect_share=defect_share,
            simulated_share=simulated_share,
            real=real,
            replacement=replacement,
            defect_weight=defect_weight,
            peak_weight=peak_weight,
            hard=None if hard is None else str(hard),
            hard_share=hard_share,
            augment=augment.value,
            rotation_deg=rotation_deg,
            precision=precision.value,
            seed=seed,
        )
    )
    hardware = Hardware(accelerator=accelerator, devices=devices, nodes=nodes, workers=workers, save_every=save_every)
    # Several devices run this program; one of them speaks.
    say = rank_zero_only(print)
    try:
        checkpoint = train(data, out, settings, hardware=hardware, resume=resume)
    except KeyboardInterrupt:
        say(f"inspectd-train: stopped; go on with the same command and --resume ({out})", file=sys.stderr)
        raise typer.Exit(130) from None
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"the device's memory is too small; lower --batch or --size: {error}") from error
    say(checkpoint)


@app.command()
def evaluate(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="A checkpoint, folder of a training, or bundle.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.json, tables, curves and overlays.")] = None,
    roles: Annotated[str, typer.Option(help="Roles to measure on, with commas.")] = "test,ok_test",
    threshold: Annotated[
        float | None, typer.Option(help="Probability from which on a pixel is a defect; else the card's.")
    ] = None,
    minimum_area_px: Annotated[int, typer.Option(help="Smaller regions are ignored, px of the photograph.")] = 1,
    device: Annotated[str, typer.Option(help="Of a checkpoint: cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling behind the intervals.")] = 0,
) -> None:
    """Measure a trained network: pixel F1, image recall at given false rejects, false alarms on good parts.

    A checkpoint is measured in torch, a bundle by its own graph in ONNX Runtime.

    Example: inspectd-train evaluate out/slim DATA --out out/slim-evaluation
    """
    require_torch()
    from inspectd.training.segmentation.measure import measure

    with bar("measuring") as progress:
        result = measure(
            network,
            data,
            roles=_roles(roles),
            threshold=threshold,
            minimum_area_px=minimum_area_px,
            device=device,
            seed=seed,
            out=out,
            note=lambda text: print(f"inspectd-train: note: {text}", file=sys.stderr),
            progress=progress,
        )
    print(result.text())
    if out is not None:
        print(f"written: {out}", file=sys.stderr)


@app.command()
def mine(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="A checkpoint, folder of a training, or bundle.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write, hard.json for example.")],
    roles: Annotated[str, typer.Option(help="Roles to judge, with commas.")] = "ref,extra,free,simulated",
    bits: Annotated[int, typer.Option(help="Bits that 16-bit files really use, 12 for example.")] = 16,
) -> None:
    """Find the training pictures that a network judges worst, for the next training to look there.

    Example:
        inspectd-train mine out/slim DATA --out hard.json

        inspectd-train segment DATA --out out/better --start out/slim --hard hard.json --window 0.5 --crop 1
    """
    require_torch()
    from inspectd.training.segmentation.mining import mine_dataset

    with bar("judging") as progress:
        examples = mine_dataset(network, data, out, roles=_roles(roles), bits=bits, progress=progress)
    wrong = sum(example.hardness > 0.5 for example in examples.pictures)
    print(f"{out}: {len(examples.pictures)} pictures, {wrong} judged wrongly (hardness above 0.5)")


@app.command()
def check(data: Data) -> None:
    """Say what a dataset holds, and every fault in it at once. Exit status 2 if there is one."""
    from inspectd.training.data.check import check as survey

    with bar("reading") as progress:
        report = survey(data, progress=progress)
    print(report.text())
    if not report.ok:
        raise typer.Exit(2)


@app.command()
def select(
    data: Data,
    roles: Annotated[str, typer.Option(help="Roles whose pictures to take, with commas.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    link: Link = False,
) -> None:
    """Take the pictures of some roles into a folder, for a folder camera (pattern "**/*") or to look at.

    Example: inspectd-train select DATA --roles test,ok_test --out out/pictures --link
    """
    from inspectd.training.data.select import select as take_over

    with bar("taking") as progress:
        count = take_over(data, _roles(roles), out, link=link, progress=progress)
    print(f"{out}: {count} pictures")


@app.command()
def buttons(
    out: Annotated[Path, typer.Option(help="Folder of the dataset; a run that was stopped is continued.")],
    protocol: Annotated[
        Protocol, typer.Option(help="paper: the paper's numbers on one line; demo: all six lines.")
    ] = Protocol.paper,
    size: Annotated[int, typer.Option(help="Side of the pictures, px.")] = 256,
    lines: Annotated[str | None, typer.Option(help="One product line, or all.")] = None,
    train: Annotated[int, typer.Option(help="demo: training pictures with defects, and as many without.")] = 600,
    seed: Annotated[int, typer.Option(help="Two seeds share no part.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that render; one a core if not given.")] = None,
) -> None:
    """Write a dataset of rendered buttons: nine defect types with exact masks, and a contact sheet.

    Example: inspectd-train buttons --out data/buttons --protocol paper
    """
    from inspectd.training.data.buttons import write_buttons

    with bar("rendering") as progress:
        dataset = write_buttons(
            out,
            protocol=protocol.value,
            size=size,
            seed=seed,
            lines=lines,
            train=train,
            workers=workers,
            progress=progress,
        )
    summary(dataset)


Role = Annotated[str, typer.Option(help="Role of the labelled pictures: ref, extra, simulated or test.")]
TestShare = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of each defect type, and of the good parts, that is held out to measure on (test, ok_test); "
        "a fifth of ref and extra if not given.",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Finds the physical part's name in a picture's, '^[^_]+' for example; pictures of a part stay together.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the pictures that are held out.")]


@importers.command()
def coco(
    labels: Annotated[Path, typer.Argument(metavar="JSON", help="The COCO file.")],
    images: Annotated[Path, typer.Option(help="Folder of its pictures.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    role: Role = "ref",
    test_share: TestShare = None,
    part: Part = None,
    seed: Seed = 0,
    link: Link = False,
) -> None:
    """Polygons and run lengths of a COCO JSON file."""
    from inspectd.training.data.importers import import_coco

    with bar("importing") as progress:
        dataset = import_coco(
            labels, images, out, role=role, held=_hold_out(role, test_share, seed, part), link=link, progress=progress
        )
    summary(dataset)


@importers.command()
def labelme(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of LabelMe's JSON files and pictures.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    role: Role = "ref",
    test_share: TestShare = None,
    part: Part = None,
    seed: Seed = 0,
    link: Link = False,
) -> None:
    """Polygons, rectangles and circles of LabelMe's JSON files."""
    from inspectd.training.data.importers import import_labelme

    with bar("importing") as progress:
        dataset = import_labelme(
            folder, out, role=role, held=_hold_out(role, test_share, seed, part), link=link, progress=progress
        )
    summary(dataset)


def _hold_out(role: str, share: float | None, seed: int, part: str | None) -> HoldOut:
    from inspectd.training.data.holdout import HoldOut

    if share is None:
        share = 0.2 if role in {"ref", "extra"} else 0.0
    return HoldOut(share, seed, part)


def _roles(text: str) -> tuple[str, ...]:
    return tuple(role.strip() for role in text.split(","))


def _size(text: str) -> tuple[int, int]:
    from inspectd.errors import ConfigError

    height, separator, width = text.lower().partition("x")
    if not (height.isdecimal() and (width.isdecimal() or not separator)):
        raise ConfigError(f"--size {text}: expected HxW in px, 256x256 for example")
    return int(height), int(width or height)


def main() -> None:
    """Entry point."""
    run_command(app, "inspectd-train")


if __name__ == "__main__":
    main()
