"""`inspectd-calibrate`: from pictures of a target to what a line measures with. Imports are inside, for quick help."""

from __future__ import annotations

from typing import Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, run_command, version_of

from .flat_cli import correct, flat_field
from .golden_cli import golden
from .image_cli import image
from .lens_cli import lens, scale, target
from .threshold_cli import threshold

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=CONTEXT,
    help="Calibrate what a station measures with: lens, scale, flat field, thresholds, good pictures, master parts.\n\n"
    "Each command writes a record for the line, and a page about it that opens in any browser.",
)

app.command()(target)
app.command()(lens)
app.command()(scale)
app.command()(flat_field)
app.command()(correct)
app.command()(threshold)
app.command()(image)
app.command()(golden)


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("inspectd-calibrate"), is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point."""
    run_command(app, "inspectd-calibrate")


if __name__ == "__main__":
    main()
