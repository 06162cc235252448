"""`inspectd-calibrate golden`: master parts, which a line has to find again and again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from inspectd.command import stages

from .threshold_cli import inspector_of, roles_of

__all__ = ["golden"]


def golden(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle; or demo, the one that is shipped.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with split.csv, or an MVTec-style tree.")],
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The set to write; the page goes beside it.")],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="The line's configuration: its rule, and the scale of its camera."),
    ] = None,
    per_class: Annotated[
        int, typer.Option(min=1, metavar="N", help="Parts of each type of defects, and good parts.")
    ] = 4,
    defects: Annotated[str, typer.Option(metavar="ROLE[,ROLE]", help="Roles of the parts with defects.")] = "test",
    good: Annotated[str, typer.Option(metavar="ROLE[,ROLE]", help="Roles of the good parts.")] = "ok_test",
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Take others for parts that are not found today; else refuse.")
    ] = False,
    cover: Annotated[
        str,
        typer.Option(metavar="PERCENT", help="Share of a defect that has to be marked, so that it is clearly found."),
    ] = "0%",
    least: Annotated[
        str, typer.Option(metavar="PERCENT", help="Share of each type and size that a line has to find.")
    ] = "100%",
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    backend: Annotated[str, typer.Option(help="What runs the network of the line, as in [model].")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option(help="Its arithmetic, as in [model].")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of a processor's; 0 takes all.")] = 0,
    bits: Annotated[
        int | None, typer.Option(min=8, max=16, help="Bits that 16-bit files really use; else as in training.")
    ] = None,
) -> None:
    """Make a set of master parts: known defects and good parts, with the verdict that each has to have.

    A line with this set ([golden] of its configuration) judges them at its start, at the times that are set and
    when it is asked (inspectd ctl self_test), between its frames, and tells where a known defect is missed.
    Pictures are as the line takes them: archived parts that were labelled, say.

    Example: inspectd-calibrate golden BUNDLE DATA --config line.toml --out master-parts.zip
    """
    from inspectd.bundle import load_bundle
    from inspectd.config import load_config
    from inspectd.dataset import open_dataset
    from inspectd.errors import ConfigError
    from inspectd.inspection import AcceptanceRule
    from inspectd.masters import encode_masters
    from inspectd.runtime.engine import open_engine
    from inspectd.runtime.models import rule_for
    from inspectd.runtime.optics import Optics
    from inspectd.runtime.station import demo_bundle

    from .files import write_whole
    from .golden import GoldenSettings, make_masters
    from .golden_page import golden_page, golden_remarks, golden_summary
    from .page import write_page
    from .record import utc_now
    from .threshold_settings import percentage

    settings = GoldenSettings(
        per_class=per_class,
        defect_roles=roles_of(defects),
        good_roles=roles_of(good),
        least=percentage("--least", least),
        leave_out=leave_out,
        cover=percentage("--cover", cover),
        seed=seed,
        bits=bits,
    )
    if out.suffix != ".zip" or out.is_dir():
        raise ConfigError(f"--out {out}: expected a file that ends in .zip; the page goes beside it")
    opened = load_bundle(demo_bundle() if str(bundle) == "demo" else bundle)
    dataset = open_dataset(data)
    line = None if config is None else load_config(config)
    rule = rule_for(opened, AcceptanceRule() if line is None else line.acceptance)
    # As the line measures: by the calibrated scale where there is one.
    scale = None if line is None else Optics.load(line.golden_camera, line.cameras[line.golden_camera]).scale
    with open_engine(opened, backend=backend, precision=precision, threads=threads) as engine, stages() as progress:
        made = make_masters(
            opened,
            dataset,
            settings,
            rule=rule,
            judge=inspector_of(opened, engine, rule, scale=scale),
            engine_name=engine.name,
            made=utc_now(),
            progress=progress,
        )
    record = made.record
    # The set last: where the page cannot be written, the line's is the one of before.
    write_page(out.with_suffix(".html"), golden_page(record, made.shown))
    write_whole(out, encode_masters(record, made.pictures))
    width = max(len(limit.name) for limit in (*record.types, *record.sizes))
    for limit in (*record.types, *record.sizes):
        print(f"{limit.name:<{width}}  {limit.parts} of {limit.tried} that were tried")
    print(golden_summary(record))
    for each in record.left_out:
        print(f"inspectd-calibrate: note: left out: {each.name} ({each.defect or 'good'}: {each.why})", file=sys.stderr)
    for remark in golden_remarks(record):
        print(f"inspectd-calibrate: note: {remark}", file=sys.stderr)
    print(f"written: {out}, {out.with_suffix('.html').name}", file=sys.stderr)
