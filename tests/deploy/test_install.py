"""The installer, in a clean Debian without a network: what it makes, what it keeps, and what it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from .debian import CHECKOUT, Debian, make_debian

INSTALLER = CHECKOUT / "deploy" / "install.sh"
LINE = """
[station]
state_dir = "/var/lib/inspectd/press4"
[cameras.cam1]
source = "buttons"
[model]
bundle = "demo"
[publish]
endpoint = "ipc:///run/inspectd/press4/pub"
"""


@pytest.mark.parametrize("options", [["--purge"], ["--wheelhouse"], ["--what"], ["--wheelhouse", "/none", "--dry-run"]])
def test_what_makes_no_sense_is_refused(options):
    done = subprocess.run([INSTALLER, *options], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("install: error: ")


def test_its_help_names_every_option():
    text = subprocess.run([INSTALLER, "--help"], capture_output=True, text=True, check=True).stdout
    accepted = {
        line.split(")")[0].strip() for line in INSTALLER.read_text().splitlines() if line.startswith(" " * 8 + "--")
    }
    named = {option for options in accepted for option in options.split(" | ")} - {"-h", "--help"}
    assert len(named) == 7
    assert all(option in text for option in named)


@pytest.fixture(scope="module")
def debian(tmp_path_factory, archive):
    """With the archive in /srv, and the installer out of it as a person unpacks it."""
    folder = tmp_path_factory.mktemp("debian")
    try:
        made = make_debian(folder)
        shutil.copy(archive, made.path / "srv" / "wheelhouse.tar")
        with tarfile.open(archive) as packed:
            packed.extractall(made.path / "srv", filter="data")
        (unpacked,) = (made.path / "srv").glob("inspectd-*")
        unpacked.rename(made.path / "srv" / "unpacked")
        yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def clean(debian: Debian) -> dict[str, tuple[int, int, int, str]]:
    """What there was before the station."""
    return debian.tree()


@pytest.fixture
def station(debian: Debian, clean) -> Debian:
    """With the station installed, however the test before left it."""
    debian.output("/srv/unpacked/deploy/install.sh")
    return debian


def changed(before: dict[str, tuple[int, int, int, str]], after: dict[str, tuple[int, int, int, str]]) -> set[str]:
    """What is new, gone or different."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestInDebian:
    """In the order in which a site does it; each brings about what it needs."""

    def test_there_is_no_network(self, debian):
        names = [line.split(":")[0].strip() for line in debian.output("cat", "/proc/net/dev").splitlines()[2:]]
        assert names == ["lo"]

    def test_a_dry_run_changes_nothing(self, debian, clean):
        told = debian.output("/srv/unpacked/deploy/install.sh", "--dry-run", user="nobody")
        assert "would run: systemd-sysusers" in told
        assert changed(clean, debian.tree()) == set()

    def test_an_archive_that_was_changed_is_refused(self, debian, clean):
        shutil.copytree(debian.path / "srv/unpacked", debian.path / "srv/changed")
        (wheel,) = (debian.path / "srv/changed/wheels").glob("typer-*.whl")
        wheel.write_bytes(wheel.read_bytes() + b"\0")
        done = debian.run("/srv/changed/deploy/install.sh")
        shutil.rmtree(debian.path / "srv/changed")
        assert done.returncode == 1
        assert "is damaged, or was changed" in done.stderr
        assert changed(clean, debian.tree()) == set()

    def test_files_users_and_permissions(self, station):
        assert station.status("/opt/inspectd") == ("755", "root", "root")
        assert station.status("/etc/inspectd") == ("750", "root", "inspectd")
        assert station.status("/var/lib/inspectd") == ("750", "inspectd", "inspectd")
        assert {"inspectd", "video", "render"} == set(station.output("id", "-nG", "inspectd").split())
        written = [
            path
            for path, (mode, user, _, _) in station.tree().items()
            if path.startswith(("/opt/inspectd", "/etc/systemd/system/inspectd")) and (user != 0 or mode & 0o022)
            if not Path(f"{station.path}{path}").is_symlink()
        ]
        assert written == []  # the service can change no program of its own
        unit = "/etc/systemd/system/inspectd@.service"
        assert station.output("systemd-analyze", "verify", "--man=no", unit) == ""
        for path in ("/etc/udev/rules.d/60-inspectd-cameras.rules", "/usr/local/share/doc/inspectd/station.md"):
            assert station.status(path) == ("644", "root", "root")
        assert not list(station.path.glob("etc/systemd/system/*.wants/inspectd@*"))

    def test_the_service_s_user_runs_a_line(self, station):
        done = station.run("inspectd", "demo", "--frames", "5", user="inspectd")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdicts"] == 5
        assert "5 of 5 verdicts agree" in done.stderr

    def test_its_own_checks_find_nothing_broken(self, station):
        config = station.path / "etc/inspectd/press4.toml"
        config.write_text(LINE)
        doctor = station.output("inspectd", "doctor", "--state-dir", "/var/lib/inspectd/press4", user="inspectd")
        assert "Nothing is broken" in doctor
        assert "no fault found" in station.output("inspectd", "check", "/etc/inspectd/press4.toml", user="inspectd")
        assert not (station.path / "var/lib/inspectd/press4").exists()
        config.unlink()

    def test_a_second_run_changes_nothing(self, station):
        before = station.tree()
        told = station.output("/srv/unpacked/deploy/install.sh", "--wheelhouse", "/srv/wheelhouse.tar")
        assert "is there" in told
        assert changed(before, station.tree()) == set()

    def test_an_update_can_be_rolled_back(self, station):
        def release() -> str:
            return str((station.path / "opt/inspectd/current").readlink())

        first = release()
        new = station.path / "srv/new"
        shutil.copytree(station.path / "srv/unpacked", new)
        with (new / "CHANGELOG.md").open("a") as file:
            file.write("\n")
        sums = "find . -type f ! -name SHA256SUMS -printf '%P\\n' | sort | xargs -d '\\n' sha256sum > SHA256SUMS"
        subprocess.run(["sh", "-c", sums], cwd=new, check=True)
        station.output("/srv/new/deploy/install.sh")
        second = release()
        assert first != second
        assert "inspectd" in station.output("inspectd", "--version")
        # The installer of the installed station, without any archive.
        station.output("/opt/inspectd/install.sh", "--rollback")
        assert release() == first
        assert station.output("readlink", "-f", "/usr/local/bin/inspectd") == f"/opt/inspectd/{first}/bin/inspectd\n"
        station.output("/opt/inspectd/install.sh", "--rollback")
        assert release() == second
        shutil.rmtree(new)

    def test_a_checkout_is_built_with_what_pip_finds(self, station):
        """Wheels in a folder in the place of an index."""
        before = (station.path / "opt/inspectd/current").readlink()
        checkout = station.path / "srv/checkout"
        checkout.mkdir()
        folders = ("inspectd", "training", "export", "runtime", "calibration", "deploy", "docs")
        files = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
        for name in folders:
            shutil.copytree(
                CHECKOUT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.cti")
            )
        for name in files:
            shutil.copy(CHECKOUT / name, checkout)
        found = ("env", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/srv/unpacked/wheels")
        station.output(*found, "/srv/checkout/deploy/install.sh", "--with", "setuptools>=77")
        shutil.rmtree(checkout)
        assert (station.path / "opt/inspectd/current").readlink() != before
        assert "inspectd" in station.output("inspectd", "--version", user="inspectd")
        left = [path.name for path in (station.path / "var/tmp").iterdir() if path.name.startswith("inspectd")]
        assert left == []

    def test_an_interrupted_installation_is_made_good(self, station):
        (station.path / "opt/inspectd/current/complete").unlink()
        (station.path / "opt/inspectd/current/bin/inspectd").unlink()
        station.output("/srv/unpacked/deploy/install.sh")
        assert "inspectd" in station.output("inspectd", "--version")
        assert (station.path / "opt/inspectd/current/complete").exists()

    def test_removing_keeps_configurations_and_state(self, station):
        config, state = station.path / "etc/inspectd/press4.toml", station.path / "var/lib/inspectd/press4/epoch"
        config.write_text(LINE)
        state.parent.mkdir()
        state.write_text("7\n")
        station.output("systemctl", "enable", "inspectd@press4")
        station.output("/opt/inspectd/install.sh", "--uninstall")
        assert (config.read_text(), state.read_text()) == (LINE, "7\n")
        assert station.status("/etc/inspectd") == ("750", "root", "inspectd")
        for path in ("opt/inspectd", "usr/local/bin/inspectd", "usr/local/share/doc/inspectd"):
            assert not (station.path / path).exists()
        assert not list(station.path.glob("etc/systemd/system/**/inspectd@*"))
        assert station.run("/srv/unpacked/deploy/install.sh").returncode == 0
        assert config.exists()

    def test_purging_leaves_nothing(self, station, clean):
        station.output("/opt/inspectd/install.sh", "--uninstall", "--purge")
        left = changed(clean, station.tree())
        # Empty folders for the site's own files are Debian's to have; systemd-sysusers made the group of GPUs.
        left = {path for path in left if not (station.path / path[1:]).is_dir()}
        users = {f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-")}
        assert {path for path in left if not path.startswith(("/srv/", "/tmp/", "/var/tmp/", "/run/"))} - users == set()
        for name in ("passwd", "group", "shadow", "gshadow"):
            assert "inspectd" not in (station.path / "etc" / name).read_text()
