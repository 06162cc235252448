"""The command `inspectd-train update`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inspectd.command import stages
from inspectd.training.terminal import require_torch, validated

__all__ = ["update"]


class Way(str, Enum):
    """Names on the command line."""

    dst = "dst"
    histmatch = "histmatch"
    histmatch_gauss = "histmatch-gauss"
    cutpaste = "cutpaste"
    poisson = "poisson"
    relit = "relit"


def update(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that the line has now.")],
    sites: Annotated[
        list[Path],
        typer.Option(
            "--from", metavar="FOLDER", help="A copy of a station's folder augment.out, or a dataset; several times."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the update; one that was stopped is continued.")],
    data: Annotated[
        Path | None,
        typer.Option(help="What the bundle was trained on, or part of it: shown again, so that it is not forgotten."),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(metavar="FILE.zip", help="Master parts: the new bundle must judge each as well as the old one."),
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(metavar="DATA", help="A dataset to measure both on (test, ok_test).")
    ] = None,
    method: Annotated[Way, typer.Option(help="How marked defects are painted; all but dst need no network.")] = Way.dst,
    vgg_weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="VGG-19 for DST, as in `dst`; else downloaded.")
    ] = None,
    dst_epochs: Annotated[int | None, typer.Option(help="Passes of the DST networks.")] = None,
    dst_pictures: Annotated[int | None, typer.Option(help="Placements of a pass of the DST networks.")] = None,
    count: Annotated[int, typer.Option(help="Painted pictures to learn from; a fifth as many are measured on.")] = 600,
    steps: Annotated[int, typer.Option(help="Updates of the fine-tuning.")] = 800,
    batch: Annotated[int, typer.Option(help="Windows of an update.")] = 16,
    rate: Annotated[float, typer.Option(help="Highest rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the bundle with this key of `inspectd keys signing`.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="DST networks that are trained side by side.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
) -> None:
    """Teach a bundle the defects that its line has missed.

    What was marked on stations (`inspectd ctl mark`) is painted onto their good parts by DST, the bundle's network
    goes on from where it was with them, and the old bundle and the new one are measured on the same parts, of
    which some were held out. Exit status 1, and no signature, where master parts are lost or nothing was learnt.

    Example: inspectd-train update bundles/line1 --from site --data DATA --golden master-parts.zip --out out/update
    """
    require_torch()
    from .report import told, write_report
    from .settings import UpdateSettings
    from .update import Update
    from .update import update as run

    settings = validated(
        lambda: UpdateSettings(
            method=method.value,
            vgg=vgg_weights,
            dst_epochs=dst_epochs,
            dst_pictures=dst_pictures,
            count=count,
            steps=steps,
            batch=batch,
            rate=rate,
            seed=seed,
        )
    )
    order = Update(
        bundle=bundle,
        sites=tuple(sites),
        out=out,
        data=data,
        golden=golden,
        tests=tuple(test or ()),
        sign=sign,
        jobs=jobs,
        accelerator=accelerator,
    )
    try:
        with stages() as progress:
            result = run(
                order,
                settings,
                say=lambda text: print(f"inspectd-train: {text}", file=sys.stderr, flush=True),
                progress=progress,
            )
    except KeyboardInterrupt:
        print(f"inspectd-train: stopped; go on with the same command ({out})", file=sys.stderr)
        raise typer.Exit(130) from None
    write_report(order, result)
    print(told(result))
    for remark in result.remarks:
        print(f"inspectd-train: note: {remark}", file=sys.stderr)
    for reason in result.lost:
        print(f"inspectd-train: not to be used: {reason}", file=sys.stderr)
    print(f"written: {result.bundle}, {out / 'report.html'}", file=sys.stderr)
    if result.lost:
        raise typer.Exit(1)
