"""The bill of materials and the licences of a wheelhouse are of all that it installs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile

import pytest

from .debian import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def named(name: str) -> str:
    """As indices compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_they_name_every_package_of_the_archive(archive):
    done = subprocess.run(
        [CHECKOUT / "deploy" / "sbom.sh", "--python", sys.executable, archive], capture_output=True, text=True
    )
    if "NewConnectionError" in done.stderr:
        pytest.skip(f"pip's index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    bill = json.loads(archive.with_suffix(".cdx.json").read_text())
    with tarfile.open(archive) as packed:
        wheels = [name.rpartition("/")[2].split("-") for name in packed.getnames() if name.endswith(".whl")]
    packed = {f"{named(name)}@{version}" for name, version, *_ in wheels if name != "inspectd"}
    components = {f"{named(component['name'])}@{component['version']}" for component in bill["components"]}
    assert len(packed) > 15
    # Python's own environment brings pip, and setuptools before 3.12.
    assert {name.partition("@")[0] for name in components - packed} <= {"pip", "setuptools"}
    assert packed <= components
    assert bill["metadata"]["component"]["name"] == "inspectd"
    assert all(component["purl"].startswith("pkg:pypi/") for component in bill["components"])
    report = archive.with_suffix(".licenses.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines()[2:]]
    assert {f"{named(row[0])}@{row[1]}" for row in rows} >= packed
    assert [row for row in rows if row[2] in {"", "UNKNOWN"}] == []
