"""The commands `inspectd-train experiment ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from inspectd.training.terminal import Backbone, Network, pair, require_torch, stages, validated

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Many trainings that differ in one thing, and tables of what came out.")


@app.callback()
def _app() -> None:
    """Keep the names of commands, also while there is one."""


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
    from inspectd.training.segmentation.settings import SegmentSettings
    from inspectd.training.style.placement import PlacementSettings

    from .methods import MethodsSettings, compare_methods

    given: dict[str, Any] = {"vgg": vgg_weights, "epochs": dst_epochs, "pictures": dst_pictures}
    dst: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    given = {"epochs": gan_epochs, "pictures": gan_pictures}
    cyclegan: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = validated(
        lambda: MethodsSettings(
            methods=tuple(part.strip() for part in rows.split(",") if part.strip()),
            seeds=seeds,
            count=count,
            placement=PlacementSettings(
                gain=pair("--gain", gain, float),
                hue_deg=hue_deg,
                scale=pair("--scale", scale, float),
                elastic_px=elastic_px,
            ),
            dst=dst,
            cyclegan=cyclegan,
            roles=tuple(role.strip() for role in roles.split(",")),
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
                rotation_deg=rotation_deg,
                defect_share=0.5,
                simulated_share=simulated_share,
                roles=("ref", "free", "simulated"),
            ),
        )
    )
    with stages() as progress:
        text = compare_methods(data, out, settings, jobs=jobs, accelerator=accelerator, progress=progress)
    print(text)
