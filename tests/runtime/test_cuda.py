"""The CUDA drivers, on a simulated `libcuda.so.1` here and on the real one where there is a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inspectd import cuda
from inspectd.errors import MissingDependencyError

from . import cuda_calls

CALLS = ("copies", "graphs", "threads", "full", "cycles")
NEEDS = {"PycudaDriver": "pycuda", "CudaPythonDriver": "cuda"}
DRIVERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None,
            reason=f"{name} needs {package}: pip install 'inspectd[tensorrt]'",
        ),
    )
    for name, package in NEEDS.items()
]
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """The folder of the simulated driver."""
    folder = tmp_path_factory.mktemp("cuda")
    source, library = HERE / "simulated_cuda.c", folder / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source)], check=True)
    return folder


def call(driver, name, **environment):
    command = [sys.executable, cuda_calls.__file__, driver, name]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", CALLS)
def test_on_the_simulated_driver(simulated, driver, name):
    done = call(driver, name, LD_LIBRARY_PATH=str(simulated), SIMULATED_CUDA_REPORT="1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("left: 0 contexts, 0 streams, 0 graphs, 0 execs, 0 device, 0 host\n")


@pytest.mark.gpu
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", CALLS)
def test_on_the_gpu_of_this_machine(driver, name):
    done = call(driver, name)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_machine_without_a_device_is_told_so(simulated, driver):
    done = call(driver, "no_device", LD_LIBRARY_PATH=str(simulated), SIMULATED_CUDA_FAILS="cuInit")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("fails", ["cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuMemcpyHtoDAsync", "cuGraphLaunch"])
def test_a_call_that_fails_raises_with_its_reason_and_lets_go(simulated, driver, fails):
    done = call(driver, "graphs", LD_LIBRARY_PATH=str(simulated), SIMULATED_CUDA_FAILS=fails, SIMULATED_CUDA_REPORT="1")
    assert done.returncode == 1
    assert "inspectd.errors.DeviceError: " in done.stderr
    assert done.stderr.endswith("left: 0 contexts, 0 streams, 0 graphs, 0 execs, 0 device, 0 host\n")


def test_without_bindings_or_driver_both_ways_are_told(monkeypatch):
    for module in ("pycuda.driver", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"inspectd\[tensorrt\]'; or: .*inspectd\[cuda-python\]'"):
        cuda.open_driver()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has NVIDIA's driver")
@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="needs cuda-python")
def test_bindings_without_the_driver_are_told_from_a_missing_package():
    with pytest.raises(MissingDependencyError, match="NVIDIA's driver cannot be loaded"):
        cuda.CudaPythonDriver()
