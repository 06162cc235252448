"""`export-trt`: from a checkpoint to a bundle."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, run_command, version_of
from inspectd.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inspectd.bundle import EngineFile, EnginePrecision

    from .checks import Check

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)


class TargetName(str, Enum):
    """Names on the command line."""

    onnx = "onnx"
    tensorrt = "tensorrt"
    rtx = "rtx"
    openvino = "openvino"


@app.command()
def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder of a training, or its checkpoint; or a bundle, to give it what this version adds.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Folder to write, or a name ending in .zip; --from-onnx writes in place."),
    ] = None,
    target: Annotated[
        TargetName | None,
        typer.Option(
            help="onnx: graphs alone; tensorrt: an engine for this machine too; rtx: one for the GPUs that "
            "--compute-capability names; openvino: compared with OpenVINO too, for processors.  [default: onnx]",
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(metavar="8.6", help="A GPU that an engine of rtx is for; several times for several."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN,OPT,MAX", help="Pictures of one call of the engine; 1,1,8 if not given.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Graphs in integers for processors too, and an engine in integers, if masks stay what they were.",
        ),
    ] = False,
    from_onnx: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Build the engine of a bundle again, on this machine; needs no torch."),
    ] = None,
    certify: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="Compare its engine with its graph, on this machine's GPU; needs no torch."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Pictures that the graph takes, if not those of the training; px."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people will call it; else its training's dataset.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DATA", help="A dataset whose pictures the comparison runs on as well.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of them.")] = 64,
    allow_uncertified: Annotated[
        bool,
        typer.Option("--allow-uncertified", help="Write it also where a check failed; `inspectd run` then refuses it."),
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the bundle with this key of `inspectd keys signing`.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("export-trt"), is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    """Make a bundle of a trained network: ONNX graphs, engine, parity certificate, self-test, checksums.

    The bundle of a Buttonlab is what `inspectd run` loads; a DST network's paints defects. It is written only if the
    exported graphs, in fp32 and in fp16, give what the trained network gives.

    Examples: export-trt out/slim --out out/slim-bundle --calibration DATA

    export-trt out/slim --out out/slim-bundle --target rtx --compute-capability 8.6 --compute-capability 8.9

    export-trt out/slim --out out/slim-bundle --calibration DATA --target openvino --int8

    export-trt --from-onnx out/slim-bundle --target tensorrt

    export-trt --certify out/slim-bundle
    """
    from inspectd.errors import ConfigError
    from inspectd.signing import sign_bundle, signing_key

    from .engines import EngineWish, installed_target

    if sum(given is not None for given in (checkpoint, from_onnx, certify)) != 1:
        raise ConfigError("give a CHECKPOINT, or a bundle by --from-onnx or --certify")
    if sign is not None:
        # Not after an hour's work.
        signing_key(sign)
    if checkpoint is not None and out is None:
        raise ConfigError("say where the bundle goes: --out BUNDLE")
    if checkpoint is None and (name or calibration or size or target is TargetName.openvino):
        raise ConfigError(
            "--name, --calibration, --size and --target openvino are of an export; "
            "--from-onnx and --certify take the bundle as it is"
        )
    if certify is not None and (target or compute_capability or batch):
        raise ConfigError("--certify compares the engine that the bundle has; --from-onnx builds one")
    if target is None and (compute_capability or from_onnx is not None):
        # What an engine is asked for by: TensorRT where it is installed, and TensorRT-RTX where GPUs are named.
        target = TargetName("rtx" if compute_capability else installed_target() or "tensorrt")
    wish = None
    if target in (TargetName.tensorrt, TargetName.rtx):
        wish = EngineWish(target.value, tuple(compute_capability or ()), _three(batch or "1,1,8"))
    elif compute_capability or batch:
        raise ConfigError("--compute-capability and --batch are of an engine; give --target tensorrt or rtx")
    if checkpoint is not None:
        for module in ("torch", "onnx", "onnxscript"):
            require(module, extra="export")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def stage(name: str) -> None:
            bar.reset(task, total=None, description=name)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        ways: Mapping[str, tuple[Check, ...]] = {}
        checks: tuple[Check, ...] = ()
        sizes: dict[str, int] = {}
        engines: tuple[EngineFile, ...] = ()
        if certify is not None:
            from .engines import certify_engine

            out = out or certify
            precision: EnginePrecision = "int8" if int8 else "fp16"
            engine, checks = certify_engine(certify, out, precision=precision, stage=stage, progress=progress)
            engines = (engine,)
        elif checkpoint is not None and out is not None:
            from .bundler import export_bundle

            exported = export_bundle(
                checkpoint,
                out,
                name=name,
                calibration=calibration,
                limit=limit,
                engine=wish,
                openvino=target is TargetName.openvino,
                int8=int8,
                size=None if size is None else _size(size),
                allow_uncertified=allow_uncertified,
                stage=stage,
                progress=progress,
            )
            checks, sizes, engines = exported.certificate.checks, exported.sizes, exported.engines
            ways = exported.certificate.ways
        else:
            from .engines import rebuild

            if wish is None:
                raise ConfigError("--from-onnx builds an engine: give --target tensorrt or rtx")
            source = from_onnx or Path()
            wish = replace(wish, precision="int8") if int8 else wish
            out = out or source
            sizes, engines = rebuild(source, out, wish, stage=stage, progress=progress)
    if sign is not None and out is not None:
        print(f"{out}: signed by {sign_bundle(out, sign)}", file=sys.stderr)
    for check in checks:
        if not isinstance(check.value, str) or not check.passed:
            value = check.value if isinstance(check.value, str) else f"{check.value:g}"
            failed = "" if check.passed else "  FAILED: this is not the trained network"
            print(f"{check.name}: {value} ({check.bound}){failed}", file=sys.stderr)
    for way, its in ways.items():
        wrong = [check for check in its if not check.passed]
        listed = "; ".join(f"{check.name.removeprefix(f'{way}: ')}: {check.value} ({check.bound})" for check in wrong)
        says = f"not to be run so: {listed}" if wrong else "certified"
        print(f"{way}: {says}", file=sys.stderr)
    for file, length in sizes.items():
        print(f"{file}: {length / 1e6:.1f} MB", file=sys.stderr)
    for engine in engines:
        gpus = ", ".join(engine.compute_capabilities)
        checked = f"checked on {engine.checked_on}" if engine.checked_on else "not run on a device"
        made = f"{engine.precision}, built in {engine.built_s:g} s, {checked}"
        print(f"{engine.flavour} {engine.version} for compute capability {gpus}: {made}", file=sys.stderr)
    print(out)


def _size(text: str) -> tuple[int, int]:
    from inspectd.errors import ConfigError

    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"--size {text}: expected height x width in px, 256x256 for example") from None
    return height, width


def _three(text: str) -> tuple[int, int, int]:
    from inspectd.errors import ConfigError

    try:
        least, best, most = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--batch {text}: expected three numbers with commas, 1,1,8 for example") from None
    return least, best, most


def main() -> None:
    """Entry point."""
    run_command(app, "export-trt")


if __name__ == "__main__":
    main()
