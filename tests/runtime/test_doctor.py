"""`inspectd doctor`: what it says of this machine, and of machines on which things are broken."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from inspectd.calibration.record import save_record
from inspectd.runtime import doctor
from inspectd.runtime.doctor import (
    Check,
    check_calibration,
    check_clock,
    check_gpu,
    check_packages,
    check_sockets,
    check_storage,
    examine,
)
from inspectd.runtime.doctor_host import check_host

from .conftest import run_inspectd
from .test_optics import scale

SECTIONS = ("python", "gpu", "cameras", "host", "clock", "storage", "sockets")


def examined(*arguments: object) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the checks by their names."""
    status, out, err = run_inspectd("doctor", "--json", *arguments)
    assert not err
    report = json.loads(out)
    assert report["ok"] == (status == 0)
    assert [*dict.fromkeys(check["section"] for check in report["checks"])] == [*SECTIONS]
    return status, {check["name"]: check for check in report["checks"]}


def package(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that takes a package's place in every process that is started."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))


def test_this_machine_is_fit_for_a_line(tmp_path):
    status, checks = examined("--producer", "viky", "--state-dir", tmp_path / "state")
    assert status == 0
    assert not (tmp_path / "state").exists()
    assert {checks[name]["verdict"] for name in ("Python", "numpy", "onnxruntime", "harvesters", "TCP")} == {"ok"}
    assert checks["test camera"]["found"] == "viky: 3 cameras through harvesters"
    assert checks["Viky [1 | VikyTL_DEV_green]"]["found"] == "free, sends RGBa8, Mono8"
    for check in checks.values():
        assert check["verdict"] == "ok" or check["remedy"], check


def test_the_report_for_people(monkeypatch):
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    status, out, err = run_inspectd("doctor")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line in SECTIONS] == [*SECTIONS]
    assert lines[-1] == "Nothing is broken that every line needs."
    assert "none in GENICAM_GENTL64_PATH" in out


def test_the_calibrations_of_a_configuration_are_looked_at(tmp_path, write_config):
    save_record(tmp_path / "scale.json", scale())
    named = 'source = "buttons"\nscale = "scale.json"\nflat_field = "flat.npz"\nimage_health = "scale.json"'
    config = write_config(named, '[acceptance]\nrecord = "thresholds.json"\n')
    (tmp_path / "thresholds.json").write_text("{")
    checks = {check.name: check for check in check_calibration(config)}
    assert {check.verdict for check in checks.values()} == {"broken"}
    missing, kind, damaged = (
        checks[name] for name in ("cameras.cam1.flat_field", "cameras.cam1.image_health", "acceptance.record")
    )
    assert missing.found.endswith("flat.npz: no such flat field")
    assert missing.remedy == "make one by inspectd-calibrate flat-field"
    assert "is a calibration of kind 'scale', expected 'image'" in kind.found
    assert "damaged: not JSON" in damaged.found
    status, out, err = run_inspectd("doctor", config)
    assert (status, err) == (1, "")
    assert "broken: cameras.cam1.flat_field, cameras.cam1.image_health, acceptance.record" in out
    (well,) = check_calibration(write_config('source = "buttons"\nscale = "scale.json"'))
    assert (well.verdict, well.found) == ("ok", f"scale of 2026-11-26 ({scale().sha256[:12]})")
    (none,) = check_calibration(tmp_path / "nowhere.toml")
    assert (none.verdict, "no such file" in none.found) == ("broken", True)


def test_a_broken_base_package_is_told_and_the_rest_is_looked_at(tmp_path, monkeypatch):
    package(tmp_path, "numpy", 'print("noise")\nraise ImportError("no such ABI")\n', monkeypatch)
    status, checks = examined()
    assert status == 1
    assert (checks["numpy"]["verdict"], checks["numpy"]["found"]) == ("broken", "ImportError: no such ABI")
    assert "pip install" in checks["numpy"]["remedy"]
    assert checks["pyzmq"]["verdict"] == "ok"
    assert "packages are broken" in checks["producers"]["found"]
    assert checks["TCP"]["verdict"] == "ok"


def test_a_python_without_its_library_is_told_the_package_of_the_system(tmp_path, monkeypatch):
    """As genicam ends on a Debian that has `python3` alone."""
    fault = "libpython3.11.so.1.0: cannot open shared object file: No such file or directory"
    package(tmp_path, "genicam", f'raise ImportError("{fault}")\n', monkeypatch)
    checks = {check.name: check for check in check_packages()}
    for name in ("genicam", "harvesters"):
        assert (checks[name].verdict, checks[name].remedy) == ("broken", "sudo apt install libpython3.11")


def test_a_package_that_ends_its_process_is_named(tmp_path, monkeypatch):
    package(tmp_path, "onnxruntime", "import os\nos.abort()\n", monkeypatch)
    checks = {check.name: check for check in check_packages()}
    assert (checks["onnxruntime"].verdict, checks["onnxruntime"].found) == ("broken", "crashed (signal 6)")
    others = ("numpy", "opencv-python-headless", "pydantic", "pyzmq", "harvesters")
    assert {checks[name].verdict for name in others} == {"ok"}


def test_an_optional_package_that_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    checks = {check.name: check for check in check_packages()}
    assert (checks["torch"].verdict, checks["torch"].remedy) == ("missing", "pip install 'inspectd[train]'")


@pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None or shutil.which("gcc") is None,
    reason="needs cuda-bindings (pip install 'inspectd[cuda-python]') and gcc",
)
def test_a_gpu_is_told_by_its_name(tmp_path, monkeypatch):
    """On the simulated driver of NVIDIA's."""
    source = Path(__file__).parent / "simulated_cuda.c"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "libcuda.so.1", source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    driver, gpu = check_gpu()
    assert (driver.verdict, gpu.verdict) == ("ok", "ok")
    assert "compute capability" in gpu.found


def test_a_machine_without_a_gpu_lacks_nothing_that_every_line_needs(monkeypatch):
    monkeypatch.setattr(doctor, "_child", lambda script: ('{"absent": true}', ""))
    (driver,) = check_gpu()
    assert driver.verdict == "missing"
    monkeypatch.setattr(doctor, "_child", lambda script: ("", "crashed (signal 11)"))
    (gpu,) = check_gpu()
    assert (gpu.verdict, gpu.found) == ("warning", "cannot be asked: crashed (signal 11)")


def test_a_producer_that_is_no_producer_is_a_warning(tmp_path):
    bad = tmp_path / "bad.cti"
    bad.write_text("no library")
    status, checks = examined("--producer", bad)
    assert status == 0
    assert checks[str(bad)]["verdict"] == "warning"
    assert "is not a GenTL producer" in checks[str(bad)]["found"]


def host(root: Path, files: dict[str, object]) -> dict[str, Check]:
    """The checks of a machine whose /sys, /proc and /etc have these files; folders end with a slash."""
    for name, content in files.items():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(f"{content}\n")
    return {check.name: check for check in check_host(root)}


def port(name: str, *, mtu: int, kind: int = 1, state: str = "up", part: str = "device/") -> dict[str, object]:
    folder = f"sys/class/net/{name}"
    return {f"{folder}/type": kind, f"{folder}/mtu": mtu, f"{folder}/operstate": state, f"{folder}/{part}": ""}


CAMERA = {
    "sys/bus/usb/devices/2-1/busnum": 2,
    "sys/bus/usb/devices/2-1/devnum": 14,
    "sys/bus/usb/devices/2-1:1.0/bInterfaceClass": "ef",
    "sys/bus/usb/devices/2-1:1.0/bInterfaceSubClass": "05",
    "sys/bus/usb/devices/2-1:1.0/bInterfaceProtocol": "00",
}
USB_MEMORY = "sys/module/usbcore/parameters/usbfs_memory_mb"
RULES = "etc/udev/rules.d/60-inspectd-cameras.rules"


def test_a_machine_as_it_comes_is_not_fit_for_fast_cameras(tmp_path):
    files = {"proc/sys/net/core/rmem_max": 212992, USB_MEMORY: 16, **port("enp3s0", mtu=1500)}
    checks = host(tmp_path, files)
    assert {check.verdict for check in checks.values()} == {"missing"}
    assert "net.core.rmem_max=33554432" in checks["socket buffers"].remedy
    assert checks["port enp3s0"].remedy.startswith("sudo ip link set enp3s0 mtu 9000")
    assert "usbfs_memory_mb - - - - 1000" in checks["USB memory"].remedy
    assert "udevadm control --reload" in checks["USB cameras"].remedy


def test_a_machine_that_was_tuned_lacks_nothing(tmp_path):
    files = {"proc/sys/net/core/rmem_max": 33554432, USB_MEMORY: 1000, RULES: "", **port("enp3s0", mtu=9000)}
    checks = host(tmp_path, files)
    assert {name: check.verdict for name, check in checks.items()} == dict.fromkeys(
        ("socket buffers", "port enp3s0", "USB memory", "USB cameras"), "ok"
    )
    assert host(tmp_path, {USB_MEMORY: 0})["USB memory"].verdict == "ok"


def test_ports_that_lead_to_no_camera_are_passed_over(tmp_path):
    others = {
        **port("lo", mtu=1500, kind=772),
        **port("docker0", mtu=1500, part="bridge/"),
        **port("enp4s0", mtu=1500, state="down"),
        **port("wlan0", mtu=1500),
        "sys/class/net/wlan0/wireless/": "",
    }
    assert list(host(tmp_path, others)) == ["socket buffers"]


def test_a_usb_camera_that_this_user_may_not_open_is_a_warning(tmp_path):
    checks = host(tmp_path, {USB_MEMORY: 1000, RULES: "", **CAMERA})
    assert checks["USB cameras"].verdict == "warning"
    assert "/dev/bus/usb/002/014" in checks["USB cameras"].found
    assert host(tmp_path, {"dev/bus/usb/002/014": ""})["USB cameras"].verdict == "ok"


def test_the_remedies_name_files_that_there_are():
    deploy = Path(__file__).parents[2] / "deploy"
    assert (deploy / "systemd" / Path(RULES).name).is_file()


CHRONY = "C0A80001,192.168.0.1,3,1700000000.0,-0.000012,0.0,0.0,1.0,0.0,0.1,0.0,0.0,64.0,"


@pytest.mark.parametrize(
    ("answers", "verdict", "words"),
    [
        ({"chronyc": CHRONY + "Normal\n"}, "ok", "chrony: normal, 0.012 ms off 192.168.0.1"),
        ({"chronyc": CHRONY + "Not synchronised\n"}, "warning", "chrony: not synchronised"),
        ({"timedatectl": "yes\n"}, "ok", "timedatectl: synchronised"),
        ({"timedatectl": "no\n"}, "warning", "timedatectl: not synchronised"),
    ],
)
def test_the_clock_is_told_by_what_keeps_it(answers, verdict, words):
    (check,) = check_clock(lambda command: answers.get(command[0]))
    assert check.verdict == verdict
    assert words in check.found


@pytest.mark.parametrize(("state", "verdict"), [(True, "ok"), (False, "warning"), (None, "warning")])
def test_without_a_daemon_the_kernel_tells(monkeypatch, state, verdict):
    monkeypatch.setattr(doctor, "kernel_clock", lambda: state)
    (check,) = check_clock(lambda command: None)
    assert check.verdict == verdict


def test_a_state_folder_that_cannot_be_written_is_broken_where_it_was_named():
    assert {check.name: check.verdict for check in check_storage(Path("/proc/state"))}["state folder"] == "broken"


def test_the_default_state_folder_may_lie_elsewhere(monkeypatch):
    monkeypatch.chdir("/proc")
    assert {check.name: check.verdict for check in check_storage(None)}["state folder"] == "warning"


def test_a_port_that_is_taken_is_a_warning():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        checks = {check.name: check for check in check_sockets(port)}
    assert (checks[f"port {port}"].verdict, checks["TCP"].verdict, checks["ipc"].verdict) == ("warning", "ok", "ok")


def test_a_section_that_fails_is_no_end_of_the_report(monkeypatch):
    def fails():
        raise ValueError("odd")
        yield

    for name in ("check_packages", "check_gpu"):
        monkeypatch.setattr(doctor, name, fails)
    monkeypatch.setattr(doctor, "check_cameras", lambda producers, environment: fails())
    checks = [check for check in examine() if check.section in {"python", "gpu", "cameras"}]
    assert checks == [
        Check(section, section, "warning", "cannot be looked at: ValueError: odd") for section in SECTIONS[:3]
    ]
