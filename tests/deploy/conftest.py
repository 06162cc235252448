"""A wheelhouse of this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from .debian import CHECKOUT


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheelhouse")
    done = subprocess.run(
        # With what it takes to build inspectd, so that a checkout can be installed from it as well.
        ["make", "wheelhouse", f"PYTHON={sys.executable}", f"OUT={out}", "WITH=setuptools>=77"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    if "No matching distribution" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip(f"pip's index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.tar")
    yield path
    shutil.rmtree(out)
