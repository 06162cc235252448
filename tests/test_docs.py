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
