"""Ways to simulate defects, compared by what Buttonlab learns from each.

The control `only-real` gets as many updates from the references alone. The default DST also varies the strength and hue
of defects that one sees the surface through, which is a part of it: whether it is that which helps is seen beside
`dst-varied`. Of the other ways only `relit` has a hue to turn; `cutpaste+varied` and the like vary in strength alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from inspectd.training.document import Table
from inspectd.training.files import written_whole
from inspectd.training.segmentation.results import Evaluation

from .experiment import Cells, Entry, Found, Watch, run_experiment
from .results import by_size, common, compared, figures, machines
from .simulation import ExperimentSettings, Report, painters
from .variants import Variant

__all__ = ["compare_methods", "table"]


def compare_methods(
    data: Path,
    out: Path,
    settings: ExperimentSettings,
    methods: Sequence[str],
    *,
    jobs: int = 1,
    accelerator: str = "auto",
    progress: Report | None = None,
    watch: Watch | None = None,
) -> str:
    """Train networks, simulate, train and measure Buttonlab for each method and seed; what is done is kept.

    Args:
        data: dataset with the roles ref and free, and those that are measured.
        out: folder of the experiment.
        settings: what all trainings have in common.
        methods: rows, see `Variant`.
        jobs: trainings side by side.
        accelerator: auto, cpu or gpu.
        progress: called with (what is done, number done, number in all).
        watch: told the cells before they run.

    Returns:
        The table, as Markdown; `report.md` and `report.json` in `out` hold it too, from the first training on.

    Raises:
        DatasetError: the data cannot be used, or `out` is of an experiment with other settings or data.
        ConfigError: an unknown method, or settings that DST does not know.
    """
    text = ""
    # What `auto` stands for on this machine is a part of what is reported.
    settings = settings.resolved(accelerator)
    entries = [Entry(name, "", Variant.of(name)) for name in methods]

    def report(_: Cells, found: Found) -> None:
        nonlocal text
        by_name = {entry.row: results for entry, results in found.items()}
        painted_by = painters(out, [entry.variant for entry in entries])
        text = table(data.resolve().name, settings, by_name, painted_by)
        shown = {name: [figures(result) for result in results] for name, results in by_name.items()}
        with written_whole(out / "report.json") as draft:
            draft.write_text(
                json.dumps({"settings": settings.model_dump(mode="json"), "figures": shown}, indent=1) + "\n"
            )
        with written_whole(out / "report.md") as draft:
            draft.write_text(text)

    run_experiment(
        data,
        out,
        settings,
        entries,
        report=report,
        jobs=jobs,
        accelerator=accelerator,
        progress=progress,
        watch=watch,
    )
    return text


def table(
    name: str, settings: ExperimentSettings, found: Mapping[str, Sequence[Evaluation]], painted_by: str = ""
) -> str:
    """The comparison, whole and by size, as Markdown: mean ± standard deviation over seeds, the best in bold."""
    shown = {method: [figures(result) for result in results] for method, results in found.items()}
    columns = list(next(iter(shown.values()))[0])
    values = {method: {name: [of[name] for of in results] for name in columns} for method, results in shown.items()}
    rows = compared(values, settings.seeds, along_rows=False)
    every = [result for results in found.values() for result in results]
    caption = "\n\n".join(text for text in (f"## {name}", common(settings), painted_by, machines(every)) if text)
    tables = (Table(caption, ("method", *columns), tuple(rows)), by_size(found, settings.seeds))
    return "\n\n".join(part.markdown() for part in tables) + "\n"
