"""The images, as far as they can be judged without an engine that builds them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import inspectd

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "deploy" / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
PORT = 9464


def stages(file: Path) -> list[list[tuple[str, str]]]:
    """Instructions with their words, of each stage."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, words = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, words))
    return found


def said(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [words for found, words in stage if found == name]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request):
    return request.param


def test_there_is_one_for_each_kind_of_machine():
    assert [path.stem for path in FILES] == ["cpu", "dgpu", "jetson"]


def test_bases_are_pinned(file):
    for stage in stages(file):
        (base,) = said(stage, "FROM")
        image, _, tag = base.split(" AS ")[0].partition(":")
        assert image
        assert re.search(r"\d+\.\d+", tag), f"{base}: a tag that stays what it is"
        assert "latest" not in tag


def test_it_runs_as_nobody_in_particular_and_tells_its_health(file):
    last = stages(file)[-1]
    names = [name for name, _ in last]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said(last, "USER")[-1])
    # What comes after is done by that user: nothing that installs.
    assert not {"RUN", "COPY", "ADD"}.intersection(names[names.index("USER") :])
    (health,) = said(last, "HEALTHCHECK")
    command = yaml.safe_load(health.partition("CMD ")[2])
    shown = subprocess.run(
        [sys.executable, "-m", "inspectd.runtime.entry", command[1], "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert command[0] == "inspectd"
    assert all(word in shown for word in command[2:] if word.startswith("--"))
    assert command[-1] == str(PORT)
    assert said(last, "ENTRYPOINT") == ['["inspectd"]']


def test_everything_that_is_copied_is_there(file):
    ignored = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    build, last = stages(file)
    copied = [path for words in said(build, "COPY") for path in shlex.split(words)[:-1]]
    for path in copied:
        assert (CHECKOUT / path).exists(), path
        assert not any(fnmatch(path, pattern) for pattern in ignored)
    # Links of the package lead to folders beside it.
    links = {path.name for path in (CHECKOUT / "inspectd").iterdir() if path.is_symlink()}
    assert links | {"inspectd", "setup.py", "pyproject.toml"} <= set(copied)
    assert all(words.startswith("--from=build ") for words in said(last, "COPY"))


def test_lists_of_packages_are_not_left_in_an_image(file):
    for stage in stages(file):
        for words in said(stage, "RUN"):
            assert ("apt-get install" in words) == ("rm -rf /var/lib/apt/lists/*" in words)
            assert "apt-get install" not in words or "--no-install-recommends" in words
            assert "pip install" not in words or "--no-cache-dir" in words


def test_tags_are_those_of_this_version():
    text = "".join(path.read_text() for path in (*FILES, FOLDER / "compose.yaml"))
    assert set(re.findall(r"inspectd:([\d.]+)-\w+", text)) == {inspectd.__version__}


def test_the_station_of_compose_fits_its_image():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    station, subscriber = services["station"], services["subscriber"]
    build = station["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "cpu.Dockerfile"
    config = (FOLDER / "line.toml").read_text()
    mounted = [volume.split(":")[1] for volume in station["volumes"]]
    (command,) = said(stages(FOLDER / "cpu.Dockerfile")[-1], "CMD")
    assert yaml.safe_load(command)[-1] in mounted
    assert f"port = {PORT}" in config
    assert subscriber["command"][1] in config
    assert {"/var/lib/inspectd", "/run/inspectd"} <= set(mounted)
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
