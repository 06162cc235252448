"""`export-trt`: from a checkpoint to a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, version_of
from inspectd.optional import require

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a training, or its checkpoint.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to write, or a name ending in .zip.")],
    name: Annotated[str | None, typer.Option(help="What people will call it; else its training's dataset.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DATA", help="A dataset whose pictures the comparison runs on as well.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of them.")] = 64,
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("export-trt"), is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    """Make a bundle of a trained network: ONNX graph, parity certificate, self-test, checksums.

    The bundle is what `inspectd run` loads. It is written only if the exported graph gives the same masks as
    the trained network.

    Example: export-trt out/slim --out out/slim-bundle --calibration DATA
    """
    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .bundler import export_bundle

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        certificate = export_bundle(
            checkpoint,
            out,
            name=name,
            calibration=calibration,
            limit=limit,
            stage=lambda name: bar.update(task, description=name),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for check in certificate.checks:
        if not isinstance(check.value, str):
            print(f"{check.name}: {check.value:g} ({check.bound})", file=sys.stderr)
    print(out)


def main() -> None:
    """Entry point: every error that inspectd raises on purpose becomes one line and exit status 2."""
    from inspectd.errors import InspectdError

    try:
        app()
    except (InspectdError, OSError) as error:
        print(f"export-trt: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
