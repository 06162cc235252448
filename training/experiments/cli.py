"""The commands `inspectd-train experiment ...`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inspectd.training.terminal import Backbone, Network, Precision, pair, require_torch, validated

if TYPE_CHECKING:
    from inspectd.dataset import Dataset

    from .grid import Grid
    from .simulation import Report as Progress

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Many trainings that differ in one thing, and tables of what came out.")


@app.command()
def methods(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset with ref, free, and what is measured.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment; a run that was stopped is continued.")],
    rows: Annotated[
        str,
        typer.Option(
            "--methods",
            help="With commas: only-real, cutpaste, poisson, histmatch, histmatch-gauss, relit, "
            "cyclegan, dst-paper, dst; changes as in 'dst:style_target=ring;loss.weights.hist=0', "
            "strength and hue as in cutpaste+varied.",
        ),
    ] = "only-real,cutpaste,poisson,histmatch,histmatch-gauss,dst-paper,dst,relit+varied,cutpaste+varied",
    seeds: Annotated[int, typer.Option(help="Trainings of each method.")] = 3,
    count: Annotated[int, typer.Option(help="Simulated pictures of each method.")] = 900,
    gain: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Strengths that the one list of placements draws from.")
    ] = "0.5,1.2",
    hue_deg: Annotated[float, typer.Option(help="Highest turn of the colour of stains that it draws.")] = 180.0,
    scale: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Scales that it draws from.")] = "0.8,1.25",
    elastic_px: Annotated[float, typer.Option(help="How far it bends a defect at most.")] = 2.0,
    steps: Annotated[int, typer.Option(help="Updates of each training.")] = 1000,
    batch: Annotated[int, typer.Option(help="Windows of an update.")] = 16,
    size: Annotated[int, typer.Option(help="Side of the pictures, px.")] = 128,
    window: Annotated[
        float, typer.Option(help="Side of the windows that are trained on, as a share of the pictures' side; 1 is all.")
    ] = 0.5,
    crop: Annotated[float, typer.Option(help="Side of the decoder's crop, as a share of the window's.")] = 1.0,
    crop_bias: Annotated[float, typer.Option(help="How often window and crop are laid over a defect.")] = 0.8,
    defect_weight: Annotated[float, typer.Option(help="Weight of defects in the loss, as in `segment`.")] = 1.0,
    peak_weight: Annotated[float, typer.Option(help="Weight of the windows' peaks in it, as in `segment`.")] = 0.0,
    rotation_deg: Annotated[
        float,
        typer.Option(help="Highest rotation of the pictures in training; small for parts that fill the picture."),
    ] = 180.0,
    simulated_share: Annotated[
        float, typer.Option(help="Share of a batch's defects that are simulated; the others are the references.")
    ] = 0.5,
    network: Annotated[Network, typer.Option(help="That learns from them.")] = Network.buttonlab,
    backbone: Annotated[Backbone, typer.Option(help="Its backbone.")] = Backbone.slim,
    weights: Annotated[str, typer.Option(help="Start of the backbone, as in `segment`.")] = "none",
    rate: Annotated[float, typer.Option(help="Adam's rate.")] = 2e-3,
    vgg_weights: Annotated[str | None, typer.Option(metavar="FILE", help="VGG-19 for DST, as in `dst`.")] = None,
    dst_epochs: Annotated[int | None, typer.Option(help="Passes of the DST networks.")] = None,
    dst_pictures: Annotated[int | None, typer.Option(help="Placements of a pass of the DST networks.")] = None,
    gan_epochs: Annotated[int | None, typer.Option(help="Passes of the CycleGANs.")] = None,
    gan_pictures: Annotated[int | None, typer.Option(help="Placements of a pass of the CycleGANs.")] = None,
    bits: Annotated[int, typer.Option(help="Bits that 16-bit files really use, 12 for example.")] = 16,
    roles: Annotated[
        str, typer.Option(help="Roles that are measured; extra,ok_calibration to tune something.")
    ] = "test,ok_test",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings side by side.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
) -> None:
    """Compare ways to simulate defects by what Buttonlab learns from each.

    Started again with the same --out, it continues; started several times at once, the processes share the trainings.

    Example: inspectd-train experiment methods data/buttons --out out/methods --jobs 2
    """
    require_torch()
    from inspectd.simulation.placement import PlacementSettings
    from inspectd.training.segmentation.settings import SegmentSettings

    from .methods import methods as grid_of
    from .simulation import ExperimentSettings

    settings = validated(
        lambda: ExperimentSettings(
            seeds=seeds,
            count=count,
            placement=PlacementSettings(
                gain=pair("--gain", gain, float),
                hue_deg=hue_deg,
                scale=pair("--scale", scale, float),
                elastic_px=elastic_px,
            ),
            dst=_given(vgg=vgg_weights, epochs=dst_epochs, pictures=dst_pictures),
            cyclegan=_given(epochs=gan_epochs, pictures=gan_pictures),
            roles=_listed(roles),
            segment=SegmentSettings(
                network=network.value,
                backbone=backbone.value,
                weights=weights,
                height=size,
                width=size,
                bits=bits,
                batch=batch,
                steps=steps,
                rate=rate,
                schedule="onecycle",
                weight_decay=0.01,
                window=window,
                crop=crop,
                crop_bias=crop_bias,
                defect_weight=defect_weight,
                peak_weight=peak_weight,
                rotation_deg=rotation_deg,
                defect_share=0.5,
                simulated_share=simulated_share,
                roles=("ref", "free", "simulated"),
            ),
        )
    )
    grid = grid_of(settings, _listed(rows))
    _run(lambda _: data, data.resolve().name, out, lambda _: grid, jobs, accelerator)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class BudgetName(str, Enum):
    """Names on the command line."""

    quick = "quick"
    paper = "paper"


Data = Annotated[
    str,
    typer.Option(
        metavar="buttons|DIR", help="buttons, which are rendered, or a dataset with ref, free, test and ok_test."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the experiment; a run that was stopped is continued.")]
BudgetOption = Annotated[
    BudgetName,
    typer.Option(help="quick: a small network, hours on 2 cores; paper: its network and schedule, for GPUs."),
]
Line = Annotated[str, typer.Option(help="Product line of the buttons.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each place of the table.")]
Size = Annotated[int | None, typer.Option(help="Side of the pictures, px, if not the budget's.")]
Window = Annotated[
    float | None, typer.Option(help="Side of the windows as a share of the pictures', if not the budget's.")
]
Batch = Annotated[int | None, typer.Option(help="Windows of an update, if not the budget's.")]
Steps = Annotated[int | None, typer.Option(help="Updates of a training, if not the budget's.")]
Rotation = Annotated[
    float, typer.Option(help="Highest rotation of the pictures in training; small for parts that fill the picture.")
]
Rate = Annotated[float | None, typer.Option(help="Adam's rate, if not the budget's.")]
Crop = Annotated[
    float | None, typer.Option(help="Side of the decoder's crop, as a share of the window's, if not the budget's.")
]
CropBias = Annotated[
    float | None, typer.Option(help="How often window and crop are laid over a defect, if not the budget's.")
]
SimulatedShare = Annotated[
    float | None, typer.Option(help="Share of a batch's defects that are simulated, if not the budget's 0.5.")
]
DefectWeight = Annotated[float | None, typer.Option(help="Weight of defects in the loss, as in `segment`.")]
PeakWeight = Annotated[float | None, typer.Option(help="Weight of the windows' peaks in it, as in `segment`.")]
DstEpochs = Annotated[int | None, typer.Option(help="Passes of the DST networks, if not the budget's.")]
DstPictures = Annotated[int | None, typer.Option(help="Placements of a pass of the DST networks, if not the budget's.")]
Roles = Annotated[str, typer.Option(help="Roles that are measured; extra,ok_calibration to tune something.")]
Count = Annotated[int | None, typer.Option(help="Simulated pictures of each method, if not the budget's.")]
BackboneOption = Annotated[Backbone | None, typer.Option(help="Of all networks, if not the budget's.")]
Weights = Annotated[str, typer.Option(help="Start of all backbones, as in `segment`.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Arithmetic of all networks; machines that share an experiment need the same one.")
]
Vgg = Annotated[str | None, typer.Option(metavar="FILE", help="VGG-19 for DST, as in `dst`.")]
Bits = Annotated[int, typer.Option(help="Bits that 16-bit files really use, 12 for example.")]
Jobs = Annotated[int, typer.Option(min=1, help="Trainings side by side.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or gpu.")]


@app.command()
def table1(
    out: Out,
    data: Data = "buttons",
    budget: BudgetOption = BudgetName.quick,
    seeds: Seeds = 3,
    networks: Annotated[
        str,
        typer.Option(help="Rows, with commas; your own as module:function, which gets the number of logits."),
    ] = "buttonlab,deeplabv3plus,unet",
    ways: Annotated[
        str, typer.Option("--methods", help="Columns, with commas, as in `methods`; the first one is shown at work.")
    ] = "dst,dst-paper,histmatch,histmatch-gauss,cyclegan,cutpaste,only-real",
    line: Line = "wood",
    size: Size = None,
    window: Window = None,
    batch: Batch = None,
    steps: Steps = None,
    rate: Rate = None,
    crop: Crop = None,
    crop_bias: CropBias = None,
    simulated_share: SimulatedShare = None,
    defect_weight: DefectWeight = None,
    peak_weight: PeakWeight = None,
    count: Count = None,
    rotation_deg: Rotation = 180.0,
    backbone: BackboneOption = None,
    weights: Weights = "none",
    precision: PrecisionOption = Precision.auto,
    vgg_weights: Vgg = None,
    dst_epochs: DstEpochs = None,
    dst_pictures: DstPictures = None,
    bits: Bits = 16,
    roles: Roles = "test,ok_test",
    jobs: Jobs = 1,
    accelerator: Accelerator = "auto",
) -> None:
    """Reproduce the paper's Table 1: networks against ways to simulate defects, with a report.

    Started again with the same --out, it continues; started several times at once, also on other machines that see the
    folder or by `fabric run`, the processes share the trainings. The report is in --out from the first training on.

    Example: inspectd-train experiment table1 --data buttons --budget quick --out out/table1 --jobs 2
    """
    require_torch()
    from .paper import settings_of
    from .paper import table1 as grid_of

    changes = _given(
        height=size,
        width=size,
        window=window,
        batch=batch,
        steps=steps,
        rate=rate,
        crop=crop,
        crop_bias=crop_bias,
        simulated_share=simulated_share,
        defect_weight=defect_weight,
        peak_weight=peak_weight,
        backbone=None if backbone is None else backbone.value,
    )
    settings = validated(
        lambda: settings_of(
            budget.value,
            ("ref", "free", "simulated"),
            changes | {"rotation_deg": rotation_deg, "weights": weights, "precision": precision.value, "bits": bits},
            seeds=seeds,
            count=count,
            dst=_given(vgg=vgg_weights, epochs=dst_epochs, pictures=dst_pictures),
            measured=_listed(roles),
        )
    )
    rows, columns = _listed(networks), _listed(ways)
    _reproduce(data, line, out, lambda dataset: grid_of(settings, dataset, rows, columns), jobs, accelerator)


@app.command()
def figure6(
    out: Out,
    data: Data = "buttons",
    budget: BudgetOption = BudgetName.quick,
    seeds: Seeds = 3,
    network: Annotated[Network, typer.Option(help="That learns.")] = Network.buttonlab,
    way: Annotated[str, typer.Option("--method", help="To simulate defects for C, as in `methods`.")] = "dst",
    strategies: Annotated[str, typer.Option(help="Of A, B and C, with commas.")] = "A,B,C",
    real: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Numbers of real defects, where not all four are wanted.")
    ] = None,
    line: Line = "wood",
    size: Size = None,
    window: Window = None,
    batch: Batch = None,
    steps: Steps = None,
    rate: Rate = None,
    crop: Crop = None,
    crop_bias: CropBias = None,
    simulated_share: SimulatedShare = None,
    defect_weight: DefectWeight = None,
    peak_weight: PeakWeight = None,
    count: Count = None,
    rotation_deg: Rotation = 180.0,
    backbone: BackboneOption = None,
    weights: Weights = "none",
    precision: PrecisionOption = Precision.auto,
    vgg_weights: Vgg = None,
    dst_epochs: DstEpochs = None,
    dst_pictures: DstPictures = None,
    bits: Bits = 16,
    roles: Roles = "test,ok_test",
    jobs: Jobs = 1,
    accelerator: Accelerator = "auto",
) -> None:
    """Reproduce the paper's Figure 6: how many real defects there are, with simulated ones beside them or without.

    A takes the real defects in turn, B with replacement, C takes simulated ones too. Started again, or several times at
    once, it goes on as `table1` does.

    Example: inspectd-train experiment figure6 --data buttons --budget quick --out out/figure6 --jobs 2
    """
    require_torch()
    from .paper import figure6 as grid_of
    from .paper import settings_of

    changes = _given(
        height=size,
        width=size,
        window=window,
        batch=batch,
        steps=steps,
        rate=rate,
        crop=crop,
        crop_bias=crop_bias,
        simulated_share=simulated_share,
        defect_weight=defect_weight,
        peak_weight=peak_weight,
        backbone=None if backbone is None else backbone.value,
    )
    settings = validated(
        lambda: settings_of(
            budget.value,
            ("ref", "extra", "free", "simulated"),
            changes | {"rotation_deg": rotation_deg, "weights": weights, "precision": precision.value, "bits": bits},
            seeds=seeds,
            count=count,
            dst=_given(vgg=vgg_weights, epochs=dst_epochs, pictures=dst_pictures),
            measured=_listed(roles),
        )
    )
    rows, numbers = _listed(strategies), None if real is None else _listed(real)

    def grid(dataset: Dataset) -> Grid:
        return grid_of(settings, dataset, network.value, way, strategies=rows, numbers=numbers)

    _reproduce(data, line, out, grid, jobs, accelerator)


def _given(**options: Any) -> dict[str, Any]:  # noqa: ANN401 - settings of all kinds
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _reproduce(
    data: str, line: str, out: Path, grid_of: Callable[[Dataset], Grid], jobs: int, accelerator: str
) -> None:
    """Run one of the paper's experiments on what is rendered for it, or on a dataset."""
    from inspectd.training.data.buttons import write_buttons
    from inspectd.training.files import locked

    def rendered(progress: Progress) -> Path:
        # Beside the experiment, which claims its own folder by what it is trained on.
        folder = out.resolve().with_name(f"{out.resolve().name}-data")
        with locked(folder, wait=True, beside=True):
            write_buttons(folder, lines=line, progress=lambda done, total: progress("rendering", done, total))
        return folder

    if data == "buttons":
        _run(rendered, f"rendered {line} buttons", out, grid_of, jobs, accelerator)
    else:
        _run(lambda _: Path(data), Path(data).resolve().name, out, grid_of, jobs, accelerator)


def _run(
    data_of: Callable[[Progress], Path],
    name: str,
    out: Path,
    grid_of: Callable[[Dataset], Grid],
    jobs: int,
    accelerator: str,
) -> None:
    """Run a grid on a dataset and print its report."""
    from rich.console import Console

    from inspectd.dataset import open_dataset
    from inspectd.training.devices import alone

    from .runs import run_grid
    from .view import View

    place, out = alone(accelerator), out.resolve()
    with View(Console(stderr=True, quiet=not place.first)) as view:
        data = data_of(view)
        text = run_grid(
            data,
            out,
            grid_of(open_dataset(data)),
            name=name,
            command=shlex.join(["inspectd-train", *sys.argv[1:]]),
            jobs=jobs,
            accelerator=place.accelerator,
            progress=view,
            watch=view.watch,
        )
    if place.first:
        print(text)
        print(f"\n{out / 'report.html'}")
