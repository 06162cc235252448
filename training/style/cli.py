"""The commands of defect style transfer: `inspectd-train dst` and `inspectd-train simulate`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inspectd.command import stages
from inspectd.training.terminal import pair, require_torch, summary, validated

if TYPE_CHECKING:
    from .dst import DstSettings
    from .settings import LossSettings

__all__ = ["dst", "simulate"]

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of a dataset: references (ref) and good parts (free).")
]
Regions = Annotated[
    Path | None, typer.Option(help="Folder of masks of the part, named like the pictures; else it is found by itself.")
]
Forbidden = Annotated[
    Path | None, typer.Option(help="Folder of masks of pixels that no defect may touch, named like the pictures.")
]
Bits = Annotated[int, typer.Option(help="Bits that 16-bit files really use, 12 for example.")]


class Way(str, Enum):
    """Coarse steps and simple methods."""

    histmatch = "histmatch"
    histmatch_gauss = "histmatch-gauss"
    cutpaste = "cutpaste"
    poisson = "poisson"
    relit = "relit"


class AnyMethod(str, Enum):
    """Methods of simulation."""

    dst = "dst"
    cyclegan = "cyclegan"
    histmatch = "histmatch"
    histmatch_gauss = "histmatch-gauss"
    cutpaste = "cutpaste"
    poisson = "poisson"
    relit = "relit"


class Preset(str, Enum):
    """Settings to begin with."""

    default = "default"
    paper = "paper"


class Losses(str, Enum):
    """How the losses are weighed."""

    auto = "auto"
    literal = "literal"
    paper_sum = "paper_sum"


class Target(str, Enum):
    """Whose style the painting gets."""

    background = "background"
    ring = "ring"
    reference = "reference"


def dst(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the networks, one folder a reference.")],
    reference: Annotated[
        list[str] | None, typer.Option(help="Only references whose name contains this; may be given several times.")
    ] = None,
    defect: Annotated[
        list[str] | None, typer.Option(help="Only references of this defect type; several times.")
    ] = None,
    exactly: Annotated[str | None, typer.Option(hidden=True)] = None,
    jobs: Annotated[int, typer.Option(min=1, help="References that are trained side by side, a process each.")] = 1,
    preset: Annotated[Preset, typer.Option(help="What the other options change.")] = Preset.default,
    coarse: Annotated[Way | None, typer.Option(help="How the coarse defect is painted.")] = None,
    losses: Annotated[Losses | None, typer.Option(help="Losses and weights to begin with.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME=W,...", help="Of content, style, hist and tv; 0 leaves a term out.")
    ] = None,
    content_layers: Annotated[str | None, typer.Option(help="Layers of VGG-19, with commas.")] = None,
    style_layers: Annotated[str | None, typer.Option(help="Layers of VGG-19, with commas.")] = None,
    hist_layers: Annotated[str | None, typer.Option(help="Layers of VGG-19, with commas.")] = None,
    style_target: Annotated[Target | None, typer.Option(help="Whose style the painting gets.")] = None,
    vgg_weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="VGG-19 from a file, also one cut off early; else downloaded.")
    ] = None,
    sigma_px: Annotated[float | None, typer.Option(help="Of the Gaussian mask, px.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of the windows that the network sees, px. [default: 64]")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the network's first convolution.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Residual blocks.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes.")] = None,
    pictures: Annotated[int | None, typer.Option(help="Placements of a pass; else one for each good picture.")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows of an update.")] = None,
    rate: Annotated[float | None, typer.Option(help="Adam's rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, placements and order.")] = None,
    bits: Bits = 16,
    precision: Annotated[str | None, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    regions: Regions = None,
    forbidden: Forbidden = None,
    preview_every: Annotated[int, typer.Option(help="Updates between two previews; 0 for none.")] = 200,
    save_every: Annotated[int, typer.Option(help="Updates between two saved states.")] = 100,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the trainings in --out.")] = False,
) -> None:
    """Train DST: a network for each reference defect, that paints it onto good parts.

    Example: inspectd-train dst DATA --out out/dst --jobs 2
    """
    require_torch()
    from inspectd.dataset import open_dataset
    from inspectd.errors import DatasetError
    from inspectd.simulation.parts import Backgrounds, MaskFolders, folders_of, read_exemplars
    from inspectd.training.devices import Hardware

    from .several import train_side_by_side
    from .train import train_dst

    changes = {
        "coarse": coarse and coarse.value,
        "style_target": style_target and style_target.value,
        "vgg": vgg_weights,
        "sigma_px": sigma_px,
        "window": window,
        "channels": channels,
        "blocks": blocks,
        "epochs": epochs,
        "pictures": pictures,
        "batch": batch,
        "rate": rate,
        "seed": seed,
        "bits": bits,
        "precision": precision,
    }
    layers = {"content_layers": content_layers, "style_layers": style_layers, "hist_layers": hist_layers}
    settings = validated(lambda: _settings(preset.value, changes, losses and losses.value, weights, layers))
    dataset = open_dataset(data)
    masks = MaskFolders(regions, forbidden)
    every = read_exemplars(dataset, bits=bits)
    folders = {name: out / folder for name, folder in folders_of(every).items()}
    exemplars = [
        exemplar
        for exemplar in every
        if (exactly is None or exemplar.name == exactly)
        and (not reference or any(part in exemplar.name for part in reference))
        and (not defect or exemplar.defect in defect)
    ]
    if not exemplars:
        raise DatasetError(f"{data}: no reference fits --reference and --defect")
    stopped = f"inspectd-train: stopped; go on with the same command and --resume ({out})"
    if jobs > 1 and len(exemplars) > 1:
        chosen = {exemplar.name: folders[exemplar.name] for exemplar in exemplars}
        try:
            train_side_by_side(chosen, {e.name: e.defect for e in exemplars}, jobs=jobs, resume=resume)
        except KeyboardInterrupt:
            print(stopped, file=sys.stderr)
            raise typer.Exit(130) from None
        return
    samples = {sample.name: sample for sample in dataset.select("ref")}
    backgrounds = Backgrounds(dataset, masks, bits=bits)
    for exemplar in exemplars:
        shape = exemplar.image.shape[0], exemplar.image.shape[1]
        try:
            checkpoint = train_dst(
                exemplar,
                backgrounds,
                folders[exemplar.name],
                settings,
                region=masks.region(samples[exemplar.sample], shape),
                hardware=Hardware(accelerator=accelerator, save_every=save_every),
                resume=resume,
                preview_every=preview_every,
            )
        except KeyboardInterrupt:
            print(stopped, file=sys.stderr)
            raise typer.Exit(130) from None
        print(checkpoint)


def _settings(
    preset: str, changes: dict[str, Any], losses: str | None, weights: str | None, layers: dict[str, str | None]
) -> DstSettings:
    from .dst import DST_PRESETS, DstSettings
    from .settings import PRESETS

    base = DST_PRESETS[preset]
    loss = base.loss if losses is None else PRESETS[losses]
    given = {name: value for name, value in changes.items() if value is not None}
    return DstSettings(**(base.model_dump() | given | {"loss": _loss(loss, weights, layers).model_dump()}))


def _loss(loss: LossSettings, weights: str | None, layers: dict[str, str | None]) -> LossSettings:
    from inspectd.errors import ConfigError

    from .settings import LossSettings

    changed: dict[str, Any] = {
        name: tuple(layer.strip() for layer in text.split(",") if layer.strip())
        for name, text in layers.items()
        if text is not None
    }
    if weights is not None:
        factors: dict[str, float] = loss.weights.model_dump()
        for part in weights.split(","):
            name, _, number = part.partition("=")
            try:
                factors[name.strip()] = float(number)
            except ValueError:
                raise ConfigError(f"--weights {part!r}: expected NAME=NUMBER, content=1,style=0 for example") from None
        changed["weights"] = factors
    return LossSettings(**(loss.model_dump() | changed))


def simulate(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the dataset; a run that was stopped is continued.")],
    method: Annotated[AnyMethod, typer.Option(help="How the defects are painted.")] = AnyMethod.dst,
    networks: Annotated[
        Path | None, typer.Option("--dst", metavar="FOLDER", help="Where `inspectd-train dst` wrote the networks.")
    ] = None,
    count: Annotated[int, typer.Option(help="Simulated pictures.")] = 2167,
    placements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="placements.jsonl of another run: the same places again.")
    ] = None,
    gain: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Strength of the defects. [default: 0.5,1.2 for dst, else 1,1]"),
    ] = None,
    hue_deg: Annotated[
        float | None,
        typer.Option(help="Highest turn of the colour of stains and the like. [default: 180 for dst, else 0]"),
    ] = None,
    scale: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Size of the defects.")] = "0.8,1.25",
    rotation_deg: Annotated[float, typer.Option(help="Highest rotation, either way.")] = 180.0,
    elastic_px: Annotated[float, typer.Option(help="Highest elastic displacement, px; 0 for none.")] = 2.0,
    per_image: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Defects of a picture.")] = "1,1",
    sigma_px: Annotated[float, typer.Option(help="Of the Gaussian mask of methods without a network, px.")] = 1.0,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also where references of DATA have no network: without their types.")
    ] = False,
    histogram: Annotated[str, typer.Option(help="quantile, rank or cdf256 (the paper's).")] = "quantile",
    space: Annotated[str, typer.Option(help="rgb, lab or pca: what histograms are matched in.")] = "rgb",
    roles: Annotated[
        str, typer.Option(help="Roles of DATA that are taken over, with commas; empty for none.")
    ] = "ref,free,test,ok_test,ok_calibration",
    bits: Bits = 16,
    regions: Regions = None,
    forbidden: Forbidden = None,
    seed: Annotated[int, typer.Option(help="Of the placements.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that paint; one a core if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, which paints in one process.")] = "cpu",
) -> None:
    """Write a dataset of simulated defects with exact labels, ready for `inspectd-train segment`.

    Example: inspectd-train simulate DATA --dst out/dst --out out/simulated
    """
    require_torch()
    from inspectd.errors import DatasetError
    from inspectd.simulation.parts import MaskFolders
    from inspectd.simulation.placement import VARIED, PlacementSettings
    from inspectd.training.carded import CHECKPOINT

    from .simulate import SimulateSettings, Work
    from .simulate import simulate as write

    usual = VARIED if method is AnyMethod.dst else PlacementSettings()
    settings = validated(
        lambda: SimulateSettings(
            method=method.value,
            count=count,
            placement=PlacementSettings(
                gain=usual.gain if gain is None else pair("--gain", gain, float),
                hue_deg=usual.hue_deg if hue_deg is None else hue_deg,
                scale=pair("--scale", scale, float),
                rotation_deg=rotation_deg,
                elastic_px=elastic_px,
                per_image=pair("--per-image", per_image, int),
            ),
            # A list of another run has what it has.
            varied=method is AnyMethod.dst or gain is not None or hue_deg is not None,
            sigma_px=sigma_px,
            partial=partial,
            histogram=histogram,
            space=space,
            roles=tuple(role.strip() for role in roles.split(",") if role.strip()),
            bits=bits,
            seed=seed,
        )
    )
    found: tuple[Path, ...] = ()
    if networks is not None:
        found = tuple(sorted(path.parent for path in networks.rglob(CHECKPOINT)))
        if not found:
            raise DatasetError(f"{networks}: holds no {CHECKPOINT}; train networks with `inspectd-train dst`")
    work = Work(data, out, found, MaskFolders(regions, forbidden), device)
    with stages() as progress:
        dataset = write(work, settings, placements=placements, workers=workers, progress=progress)
    summary(dataset)
