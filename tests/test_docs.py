"""The documents: links lead somewhere, and the walk through the calibration works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {"inspectd": "inspectd.runtime.entry", "inspectd-calibrate": "inspectd.calibration.cli"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, place = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        found = page if not path else (page.parent / path).resolve()
        assert found.exists(), target
        if place and found.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_has_both_sides_of_a_merge(page):
    assert not re.search(r"^(<{7}|>{7}) ", page.read_text(encoding="utf-8"), re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """What stands behind `$`, with the lines behind `>` that go on."""
    commands: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    $ "):
            commands.append(line[6:])
        elif line.startswith("    >"):
            commands[-1] += "\n" + line[6:]
    return commands


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_through_the_calibration_works_as_it_stands_there(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        name: f'-c "import sys; sys.argv[0] = {name!r}; from {at} import main; main()"' for name, at in COMMANDS.items()
    }
    for name, arguments in {**scripts, "python": ""}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (folder / name).chmod(0o755)
    script = "\n".join(["set -e", *commands_of(ROOT / "docs" / "guide" / "calibration.md")])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "line.toml: no fault found" in done.stdout
    # Six parts with a defect are found, and one is not, on the processor that the page was written on.
    assert len(re.findall(r"^\d{3}\.png .* NG .* \d\.\d\d$", done.stdout, re.MULTILINE)) >= 5
    assert "no part changed" in done.stdout
    assert "4 of 4 parts are NOT_INSPECTED" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_walk_from_a_missed_defect_to_a_better_bundle_finds_what_was_missed(tmp_path):
    """By cut-and-paste, which needs no weights that would have to be fetched."""
    pytest.importorskip("torch", reason="it trains: pip install 'inspectd[train]'")
    script = ROOT / "docs" / "guide" / "missed_defect.py"
    command = [sys.executable, str(script), str(tmp_path / "walk"), "--method", "cutpaste"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = {
        what: [float(value) for value in (before, after)]
        for what, before, after in re.findall(
            r"^(\S.*?) +([\d.]+)(?: of \d+)? +([\d.]+)(?: of \d+)?$", done.stdout, re.M
        )
    }
    # One reference, marked on the first day; 12 parts on the line and 40 that nothing was learnt from.
    before, after = told["imprint found"]
    assert (before <= 4, after >= 9) == (True, True), done.stdout
    before, after = told["recall of 40"]
    assert (before <= 0.3, after >= 0.7) == (True, True), done.stdout
    assert max(told["good parts rejected"]) <= 4, done.stdout
