"""The GPU runner, on a simulated device: slots, batches, graphs, and that nothing stale is ever an answer."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import platform
import shutil
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from inspectd import gpu
from inspectd.bundle import ENGINES, GPU_INT8_MODEL, HALF_MODEL, EngineFile, Engines, load_bundle, write_bundle
from inspectd.config import load_config
from inspectd.cuda import PycudaDriver
from inspectd.errors import (
    BundleError,
    DeviceError,
    IncompatibleEngine,
    InferenceError,
    MissingDependencyError,
)
from inspectd.export import engines as export_engines
from inspectd.export.checks import Certificate
from inspectd.export.cli import main as export_main
from inspectd.export.engines import certify_engine
from inspectd.gpu import misfit, open_gpu_graph
from inspectd.runtime import engine as runtime_engine
from inspectd.runtime import own_engine
from inspectd.runtime.engine import GraphEngine, Opened, open_engine, self_test
from inspectd.runtime.messaging import Subscriber
from inspectd.runtime.station import check_station, run_station
from inspectd.wire import DeviceHealth, HeartbeatBody, Message, read_body

from .conftest import SIZE
from .simulated_gpu import SimulatedDriver, SimulatedTensorRT, engine_content
from .station_site import is_running

HERE = f"{platform.system().lower()}-{platform.machine()}"
THRESHOLDS = np.array([0.6], np.float32)


def described(bundle, **changes):
    """An engine that fits the simulated machine, or not."""
    fits = EngineFile(
        file="engines/simulated.engine",
        flavour="tensorrt_rtx",
        version="1.7.1",
        platform=HERE,
        compute_capabilities=("8.6", "8.9"),
        batch=(1, 1, 4),
        graph_sha256=bundle.sha256(HALF_MODEL) if HALF_MODEL in bundle.files else "0" * 64,
        built_s=1.0,
        checked_on="Simulated GPU",
    )
    return EngineFile(**(fits.model_dump() | changes))


@pytest.fixture
def with_engine(bundle_path, tmp_path):
    """Makes bundles with engines."""

    def make(*changes, half=True):
        plain = load_bundle(bundle_path)
        files = {name: plain.read(name) for name in plain.files}
        if half:
            files[HALF_MODEL] = files["model.onnx"]
        write_bundle(tmp_path / "plain", plain.card, files, version="test")
        plain = load_bundle(tmp_path / "plain")
        engines = [described(plain, **change) for change in changes or ({},)]
        files |= {engine.file: engine_content(plain) for engine in engines}
        files[ENGINES] = Engines(engines=tuple(engines)).model_dump_json().encode()
        write_bundle(tmp_path / "bundle", plain.card, files, version="test")
        return load_bundle(tmp_path / "bundle")

    return make


class Machine:
    """A GPU with its library; remembers the driver that was opened."""

    def __init__(self, **faults):
        self.driver = None
        self.module = SimulatedTensorRT(lambda: self.driver, **faults)
        self.installed = True

    def open(self):
        self.driver = SimulatedDriver()
        return self.driver

    def graph(self, bundle, **kwargs):
        module = (lambda _: self.module) if self.installed else (lambda _: None)
        return open_gpu_graph(bundle, driver=self.open, module=module, **kwargs)[0]

    def engine(self, bundle, **kwargs):
        return GraphEngine(bundle, Opened(self.graph(bundle, **kwargs), "simulated fp16", "fp16"))


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (4, 4, 4), (9, 9, 9), (1, 3, 10, 2, 4, 1, 9)])
def test_it_gives_what_the_graph_gives_whatever_the_batches(with_engine, counts):
    bundle, machine = with_engine(), Machine()
    with open_engine(bundle) as reference, machine.engine(bundle) as engine:
        for number, count in enumerate(counts):
            images = noise(count, seed=number)
            expected, found = reference.infer(images, THRESHOLDS), engine.infer(images, THRESHOLDS)
            for name in ("labels", "confidence", "scores"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), (name, number)
    assert machine.driver.closed


def test_thresholds_are_an_input_of_every_call(with_engine):
    bundle, machine = with_engine(), Machine()
    images = noise(1)
    with machine.engine(bundle) as engine:
        shares = [engine.infer(images, np.array([at], np.float32)).labels.mean() for at in (0.2, 0.5, 0.9, 0.2, 0.5)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[:2] == shares[3:]


def test_a_batch_size_is_captured_once_it_has_run_and_launched_from_then_on(with_engine):
    bundle, machine = with_engine({"batch": (1, 2, 2)}), Machine()
    with machine.engine(bundle) as engine:
        calls = machine.driver.calls
        for _ in range(4):
            engine.infer(noise(2), THRESHOLDS)
        assert [call for call in calls if call in ("capture", "launch")] == ["capture", "launch", "launch", "launch"]
        copied = calls.count("copy_in")
        for _ in range(5):
            engine.infer(noise(2), THRESHOLDS)
        assert calls.count("copy_in") == copied, "a graph holds its copies"
        assert calls.count("capture") == 1
        assert calls.count("memory") == 2 * 5, "two slots with five tensors, allocated once"


def test_two_slots_are_under_way_at_once(with_engine):
    """The second batch is given to its stream before the first is waited for."""
    bundle, machine = with_engine({"batch": (1, 2, 2)}), Machine()
    with machine.engine(bundle) as engine:
        engine.infer(noise(4), THRESHOLDS)
        calls = [call for call in machine.driver.calls if call in ("copy_in", "wait")]
    assert calls == ["copy_in"] * 6 + ["wait"] * 2


def test_fewer_pictures_than_the_engine_takes_are_filled_up(with_engine):
    bundle, machine = with_engine({"batch": (3, 4, 4)}), Machine()
    images = noise(5)
    with open_engine(bundle) as reference, machine.engine(bundle) as engine:
        assert np.array_equal(engine.infer(images, THRESHOLDS).labels, reference.infer(images, THRESHOLDS).labels)
        assert len(engine.infer(images[:1], THRESHOLDS).labels) == 1


def test_answers_are_the_callers_own(with_engine):
    bundle, machine = with_engine(), Machine()
    with machine.engine(bundle) as engine:
        first = engine.infer(noise(1, seed=1), THRESHOLDS)
        kept = first.confidence.copy()
        for seed in range(2, 6):
            engine.infer(noise(1, seed=seed), THRESHOLDS)
        assert np.array_equal(first.confidence, kept)


def test_the_self_test_passes_on_it(with_engine):
    bundle = with_engine()
    with Machine().engine(bundle) as engine:
        self_test(engine, bundle)


def test_an_engine_that_writes_nothing_is_found_out(with_engine):
    """Not the answer before: the scores are made no numbers on the device before each batch."""
    bundle, machine = with_engine(), Machine()
    with machine.engine(bundle) as engine:
        for seed in range(4):
            engine.infer(noise(1, seed=seed), THRESHOLDS)
        machine.module.faults["writes_nothing"] = True
        with pytest.raises(InferenceError, match="scores that are no probabilities"):
            engine.infer(noise(1), THRESHOLDS)


@pytest.mark.parametrize("call", ["copy_in", "copy_out", "wait", "capture", "launch"])
def test_a_failure_of_the_device_raises_and_ends_its_use(with_engine, call):
    bundle, machine = with_engine(), Machine()
    engine = machine.engine(bundle)
    if call in ("capture", "launch"):
        engine.infer(noise(1), THRESHOLDS)
    machine.driver.fail_in = call
    with pytest.raises(InferenceError, match=f"the GPU failed: Simulated GPU: {call} failed"):
        engine.infer(noise(1), THRESHOLDS)
    machine.driver.fail_in = None
    with pytest.raises(InferenceError, match="not used any more since it failed"):
        engine.infer(noise(1), THRESHOLDS)
    engine.close()
    assert machine.driver.closed


def test_an_engine_that_does_not_start_raises(with_engine):
    machine = Machine(does_not_start=True)
    with machine.engine(with_engine()) as engine, pytest.raises(InferenceError, match="the engine did not start"):
        engine.infer(noise(1), THRESHOLDS)


def test_a_device_that_hangs_raises_in_time_and_is_not_asked_again(with_engine):
    free = threading.Event()
    machine = Machine(hangs=free)
    engine = machine.engine(with_engine(), timeout_s=0.2)
    try:
        with pytest.raises(InferenceError, match=r"no answer within 0\.2 s"):
            engine.infer(noise(1), THRESHOLDS)
        with pytest.raises(InferenceError, match="not used any more"):
            engine.infer(noise(1), THRESHOLDS)
    finally:
        free.set()
        engine.close()
    assert machine.driver.closed


def test_after_close_nothing_is_inferred(with_engine):
    engine = Machine().engine(with_engine())
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="it was closed"):
        engine.infer(noise(1), THRESHOLDS)


def test_input_that_does_not_fit_is_refused_and_the_device_goes_on(with_engine):
    bundle = with_engine()
    with Machine().engine(bundle) as engine:
        with pytest.raises(InferenceError, match="expected pictures of uint8"):
            engine.infer(noise(1)[:, :8], THRESHOLDS)
        assert len(engine.infer(noise(1), THRESHOLDS).labels) == 1
    graph = Machine().graph(bundle)
    with pytest.raises(InferenceError, match=r"expected images of uint8 \[2, 32, 32, 3\], got float32"):
        graph.run({"images": noise(2).astype(np.float32), "thresholds": THRESHOLDS})
    with pytest.raises(InferenceError, match="expected images of uint8"):
        graph.run({"images": noise(0), "thresholds": THRESHOLDS})
    graph.close()


def test_the_table_of_the_engine_must_be_the_cards(with_engine):
    bundle = with_engine()
    shapes = {"images": [-1, 64, 64, 3], "thresholds": [1], "labels": [-1, 64, 64], "confidence": [-1, 64, 64],
              "scores": [-1, 1]}  # fmt: skip
    with pytest.raises(IncompatibleEngine, match=r"has inputs .*64, 64.*expected"):
        Machine(changed={"shapes": shapes}).graph(bundle)
    types = {"images": "u8", "thresholds": "f32", "labels": "f32", "confidence": "u8", "scores": "f32"}
    with pytest.raises(IncompatibleEngine, match="has outputs"):
        Machine(changed={"types": types}).graph(bundle)


def test_what_the_library_refuses_is_told_with_its_words_and_the_device_is_let_go(with_engine):
    machine = Machine(refuses=True)
    with pytest.raises(IncompatibleEngine, match=r"simulated\.engine cannot be loaded: the engine plan file is not"):
        machine.graph(with_engine())
    assert machine.driver.closed
    machine = Machine(no_room=True)
    with pytest.raises(DeviceError, match="no room on the GPU"):
        machine.graph(with_engine())
    assert machine.driver.closed


def test_a_full_device_is_told(with_engine, monkeypatch):
    machine = Machine()
    full = lambda: machine.__setattr__("driver", SimulatedDriver(room=100)) or machine.driver  # noqa: E731
    with pytest.raises(DeviceError, match="out of memory"):
        open_gpu_graph(with_engine(), driver=full, module=lambda _: machine.module)
    assert machine.driver.closed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"graph_sha256": "0" * 64}, "it was built from another graph"),
        ({"platform": "linux-aarch64x"}, "it is for linux-aarch64x, this is linux-"),
        ({"version": "1.6.0"}, r"it is of tensorrt_rtx 1\.6\.0, this machine has 1\.7\.1"),
        ({"compute_capabilities": ("12.0",)}, r"it is for compute capability 12\.0, this GPU has 8\.6"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_reason(with_engine, change, why):
    machine = Machine()
    with pytest.raises(IncompatibleEngine, match=f"no engine fits this machine: .*{why}.*export-trt --from-onnx"):
        machine.graph(with_engine(change))
    assert machine.driver.closed


def test_a_library_that_is_missing_is_told_with_its_remedy(with_engine):
    bundle = with_engine()
    machine = Machine()
    machine.installed = False
    with pytest.raises(IncompatibleEngine, match=r"pip install 'inspectd\[tensorrt-rtx\]'"):
        machine.graph(bundle)
    assert misfit(described(bundle), bundle.sha256(HALF_MODEL), version="1.7.1", capability="8.9") is None


def test_the_first_engine_that_fits_is_taken(with_engine):
    bundle = with_engine(
        {"file": "engines/a.engine", "version": "1.6.0"},
        {"file": "engines/b.engine"},
        {"file": "engines/c.engine"},
    )
    with Machine().engine(bundle) as engine:
        assert engine.infer(noise(1), THRESHOLDS).labels.shape == (1, SIZE, SIZE)
    graph = Machine().graph(bundle)
    assert graph.engine.file == "engines/b.engine"
    graph.close()


def test_a_bundle_without_engines_is_refused_with_the_command(bundle_path):
    with pytest.raises(IncompatibleEngine, match="holds no engine in fp16; build one on this machine: export-trt"):
        Machine().graph(load_bundle(bundle_path))


def test_contexts_belong_to_the_thread_that_opened_them():
    driver = SimulatedDriver()
    caught = []

    def elsewhere():
        try:
            driver.memory(8)
        except DeviceError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "another thread" in str(caught[0])


def on_this_machine(monkeypatch, machine):
    def opened(bundle, **wanted):
        return open_gpu_graph(bundle, driver=machine.open, module=lambda _: machine.module, **wanted)

    for module in (runtime_engine, export_engines):
        monkeypatch.setattr(module, "open_gpu_graph", opened)


def test_the_line_takes_engines_that_were_compared_on_a_device_and_no_others(with_engine, monkeypatch):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    with open_engine(with_engine(), backend="tensorrt") as engine:
        assert engine.name == "tensorrt_rtx 1.7.1 fp16, Simulated GPU"
        assert engine.infer(noise(1), THRESHOLDS).scores.shape == (1, 1)
    unchecked = with_engine({"checked_on": None})
    with pytest.raises(BundleError, match="never compared with the graph on a device; run `export-trt --certify"):
        open_engine(unchecked, backend="tensorrt")
    assert machine.driver.closed
    with open_engine(unchecked, backend="tensorrt", allow_uncertified=True) as engine:
        self_test(engine, unchecked)


def test_a_station_without_its_gpu_refuses_or_says_loudly_that_it_runs_on_the_processor(
    with_engine, write_config, monkeypatch, caplog
):
    bundle = with_engine()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    config = load_config(write_config('source = "buttons"'))

    def station(**changes):
        model = config.model.model_copy(update={"bundle": str(bundle.path), "backend": "tensorrt", **changes})
        said = []
        check_station(config.model_copy(update={"model": model}), announce=said.append)
        return said

    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[tensorrt\]'"):
        station()
    said = station(fallback="cpu")
    assert any("on ONNX Runtime fp32, self-test passed" in line for line in said)
    assert "RUNNING ON THE PROCESSOR INSTEAD OF THE GPU" in caplog.text


def certified(with_engine, **changes):
    """A bundle with a certificate and an engine that was not compared yet."""
    bundle = with_engine({"checked_on": None, **changes})
    files = {name: bundle.read(name) for name in bundle.files}
    certificate = Certificate(images=1, images_from="golden", thresholds=(0.6,), versions={}, checks=())
    files["parity.json"] = certificate.model_dump_json().encode()
    write_bundle(bundle.path, bundle.card, files, version="test")
    return load_bundle(bundle.path)


def test_certify_compares_the_engine_on_the_device_and_the_line_takes_it_then(with_engine, monkeypatch, capsys):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    bundle = certified(with_engine)
    with pytest.raises(BundleError, match="--certify"):
        open_engine(bundle, backend="tensorrt")
    monkeypatch.setattr(sys, "argv", ["export-trt", "--certify", str(bundle.path)])
    with pytest.raises(SystemExit, match="0"):
        export_main()
    told = capsys.readouterr().err
    assert "tensorrt_rtx 1.7.1 for compute capability 8.6, 8.9: fp16, built in 1 s, checked on Simulated GPU" in told
    assert "all in one call: pixels with the same class: 1 (>= 0.999)" in told
    found = load_bundle(bundle.path)
    assert found.engines()[0].checked_on == "Simulated GPU"
    names = [check["name"] for check in json.loads(found.read("parity.json"))["engines"]["engines/simulated.engine"]]
    assert any(name.startswith("one by one") for name in names)
    with open_engine(found, backend="tensorrt") as engine:
        self_test(engine, found)


def test_an_engine_that_computes_something_else_gets_no_certificate(with_engine, monkeypatch):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    bundle = certified(with_engine)
    files = {name: bundle.read(name) for name in bundle.files}
    head, _, graph = files["engines/simulated.engine"].partition(b"\n")
    # White is 510 now, so that everything is half as likely.
    half_white = graph.replace(np.float32(255).tobytes(), np.float32(510).tobytes())
    assert half_white != graph
    files["engines/simulated.engine"] = head + b"\n" + half_white
    write_bundle(bundle.path, bundle.card, files, version="test")
    with pytest.raises(BundleError, match="does not give what the graph gives on Simulated GPU: one by one: pixels"):
        certify_engine(bundle.path, bundle.path)
    assert load_bundle(bundle.path).engines()[0].checked_on is None
    assert machine.driver.closed


def test_pycuda_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[tensorrt\]'"):
        PycudaDriver()


def test_the_runner_calls_nothing_that_the_real_library_has_not():
    real = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'inspectd[tensorrt-rtx]'")
    wanted = {
        "Runtime": ("deserialize_cuda_engine",),
        "ICudaEngine": (
            "num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_shape", "get_tensor_mode",
            "create_execution_context",
        ),
        "IExecutionContext": ("set_tensor_address", "set_input_shape", "infer_shapes", "execute_async_v3"),
    }  # fmt: skip
    for name, members in wanted.items():
        assert [member for member in members if not hasattr(getattr(real, name), member)] == []
    assert {"ERROR", "INTERNAL_ERROR"} <= set(dir(real.ILogger.Severity))
    assert {"UINT8", "FLOAT"} <= set(dir(real.DataType))
    assert "INPUT" in dir(real.TensorIOMode)


def test_tensors_know_their_bytes():
    tensor = gpu.Tensor("float32", (3,), batched=True)
    assert (tensor.shape(5), tensor.size(5)) == ((5, 3), 60)
    assert dataclasses.replace(tensor, batched=False).size(5) == 12


REBUILT = """
import shutil, sys
option, bundle, *rest = sys.argv[1:]
with open({log!r}, "a") as log:
    print(option, file=log)
if option == "--from-onnx":
    shutil.copytree({ready!r}, rest[1], dirs_exist_ok=True)
elif {refused!r}:
    print("export-trt: error: it does not give what the graph gives", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """Takes the place of `export-trt`, which would need a GPU: what it builds is there already."""

    def make(ready, *, refused=False):
        script, log = tmp_path / "builder.py", tmp_path / "builder.log"
        script.write_text(REBUILT.format(ready=str(ready.path), refused=refused, log=str(log)))
        monkeypatch.setattr(own_engine, "COMMAND", (sys.executable, str(script)))
        return lambda: log.read_text().split() if log.exists() else []

    return make


def station_of(bundle, write_config, tmp_path, **changes):
    model = {"bundle": str(bundle.path), "backend": "tensorrt", "rebuild": True, **changes}
    config = load_config(write_config('source = "buttons"'))
    station = config.station.model_copy(update={"state_dir": tmp_path / "state"})
    return config.model_copy(update={"station": station, "model": config.model.model_copy(update=model)})


def started(config):
    """What a line says that inspects one part."""
    said = []
    run_station(config, frames=1, announce=said.append, report=lambda _: None)
    return said


def test_an_engine_that_does_not_fit_is_built_anew_once_and_the_bundle_stays(
    with_engine, builder, write_config, monkeypatch, tmp_path
):
    on_this_machine(monkeypatch, Machine())
    ready = with_engine()
    shutil.move(ready.path, tmp_path / "ready")
    calls = builder(load_bundle(tmp_path / "ready"))
    bundle = with_engine({"version": "1.0.0"})
    config = station_of(bundle, write_config, tmp_path)
    with pytest.raises(IncompatibleEngine, match="the line builds one when it starts"):
        check_station(config, announce=lambda _: None)
    for _ in range(2):
        said = started(config)
        assert any(f"({bundle.digest[:12]}) on tensorrt_rtx 1.7.1 fp16, Simulated GPU: " in line for line in said)
        assert calls() == ["--from-onnx", "--certify"], "the second start takes what the first built"
    assert load_bundle(bundle.path).digest == bundle.digest
    kept = tmp_path / "state" / "engines" / f"{bundle.digest[:16]}-fp16"
    for number, damaged in enumerate(("engines/simulated.engine", "bundle.json"), 2):
        (kept / damaged).write_bytes(b"{}")
        assert started(config)
        assert calls() == ["--from-onnx", "--certify"] * number, f"a damaged {damaged} is replaced"


def test_an_engine_of_another_graph_is_not_taken_for_it(with_engine, builder, write_config, monkeypatch, tmp_path):
    on_this_machine(monkeypatch, Machine())
    bundle = with_engine({"version": "1.0.0"})
    files = {name: bundle.read(name) for name in bundle.files} | {HALF_MODEL: b"another"}
    write_bundle(tmp_path / "other", bundle.card, files, version="test")
    builder(load_bundle(tmp_path / "other"))
    with pytest.raises(IncompatibleEngine, match="was made of another bundle; delete it"):
        started(station_of(bundle, write_config, tmp_path))


def test_an_engine_that_fails_its_comparison_is_not_run(with_engine, builder, write_config, monkeypatch, tmp_path):
    on_this_machine(monkeypatch, Machine())
    unproven = with_engine({"checked_on": None})
    shutil.move(unproven.path, tmp_path / "ready")
    builder(load_bundle(tmp_path / "ready"), refused=True)
    bundle = with_engine({"version": "1.0.0"})
    with pytest.raises(IncompatibleEngine, match=r"--certify .* failed: export-trt: error: it does not give what"):
        started(station_of(bundle, write_config, tmp_path))
    config = station_of(bundle, write_config, tmp_path, fallback="cpu")
    assert any("on ONNX Runtime fp32" in line for line in started(config))
    # Not even by a station that takes what was not compared: this one was, and is wrong.
    with pytest.raises(IncompatibleEngine, match="--certify"):
        started(station_of(bundle, write_config, tmp_path, allow_uncertified=True))


def test_a_builder_that_hangs_is_ended(with_engine, builder, write_config, monkeypatch, tmp_path):
    on_this_machine(monkeypatch, Machine())
    bundle = with_engine({"version": "1.0.0"})
    builder(bundle)
    number = tmp_path / "number"
    (tmp_path / "builder.py").write_text(
        f"import os, time\nopen({str(number)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    monkeypatch.setattr(own_engine, "BUILD_S", 2.0)
    with pytest.raises(IncompatibleEngine, match=r"--from-onnx .* was not done in 0 minutes, and was ended"):
        started(station_of(bundle, write_config, tmp_path))
    assert not is_running(int(number.read_text()))
    left = [path.name for path in (tmp_path / "state" / "engines").iterdir()]
    assert left == [f"{bundle.digest[:16]}-fp16.lock"]


def test_where_nothing_can_be_built_the_reason_is_told(with_engine, write_config, monkeypatch, tmp_path):
    """By the real `export-trt`, which finds no GPU here."""
    on_this_machine(monkeypatch, Machine())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    bundle = with_engine({"version": "1.0.0"})
    with pytest.raises(IncompatibleEngine, match=r"`export-trt --from-onnx .*` failed: export-trt: error: ") as caught:
        started(station_of(bundle, write_config, tmp_path))
    left = [path.name for path in (tmp_path / "state" / "engines").iterdir()]
    assert left == [f"{bundle.digest[:16]}-fp16.lock"], str(caught.value)


def test_two_stations_do_not_build_the_same_engine_at_once(with_engine, builder, write_config, monkeypatch, tmp_path):
    on_this_machine(monkeypatch, Machine())
    bundle = with_engine({"version": "1.0.0"})
    calls = builder(bundle)
    lock = tmp_path / "state" / "engines" / f"{bundle.digest[:16]}-fp16.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(IncompatibleEngine, match="another process is building this engine"):
            started(station_of(bundle, write_config, tmp_path))
    assert calls() == []


def test_the_engine_that_was_asked_for_last_is_the_first_to_be_run(with_engine):
    bundle = with_engine()
    built = SimpleNamespace(data=b"new", description=described(bundle, file="engines/new.engine", checked_on=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_engines, "build_engine", lambda *_, **__: built)
        files = {name: bundle.read(name) for name in bundle.files}
        wish = export_engines.EngineWish("rtx")
        _, engines = export_engines.with_engine(
            files, bundle.engines(), wish, kind="seg", stage=lambda _: None, progress=None
        )
    assert [engine.file for engine in engines] == ["engines/new.engine", "engines/simulated.engine"]


def test_a_gpu_that_fails_under_way_makes_the_station_a_failure(with_engine, write_config, monkeypatch, tmp_path):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    config = station_of(with_engine(), write_config, tmp_path, rebuild=False)
    beats, over = [], threading.Event()

    def listen(address):
        def receive():
            with Subscriber(address, topics=["ins1/hb/"]) as subscriber:
                while not over.is_set():
                    message = subscriber.receive(1)
                    if isinstance(message, Message):
                        beats.append(read_body(message, HeartbeatBody))
                        # The self-test is over by the first of them or a later one.
                        machine.driver.fail_in = "wait" if beats[-1].state == "ContinuousExecution" else None

        threading.Thread(target=receive, daemon=True).start()

    summaries = []
    run_station(config, frames=60, wait_s=5, opened=listen, announce=lambda _: None, report=summaries.append)
    over.set()
    assert summaries[0].not_inspected > 0
    assert beats[-1].device_health is DeviceHealth.FAILURE
    assert "illegal memory access" in beats[-1].health_reason


def test_a_station_that_runs_on_the_processor_instead_says_so_in_every_heartbeat(
    with_engine, write_config, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    config = station_of(with_engine(), write_config, tmp_path, rebuild=False, fallback="cpu")
    beats = []

    def listen(address):
        def receive():
            with Subscriber(address, topics=["ins1/hb/"]) as subscriber:
                while len(beats) < 2:
                    message = subscriber.receive(5)
                    if isinstance(message, Message):
                        beats.append(read_body(message, HeartbeatBody))

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        listening.append(thread)
        time.sleep(0.5)  # so that the very first one is heard

    listening = []
    run_station(config, frames=20, wait_s=5, opened=listen, announce=lambda _: None, report=lambda _: None)
    listening[0].join(10)
    assert [beat.device_health for beat in beats] == [DeviceHealth.OFF_SPEC] * 2
    assert beats[0].health_reason.startswith("running on the processor instead of the GPU: 'pycuda.driver' cannot be")


def test_an_engine_in_integers_is_its_own(with_engine, monkeypatch, capsys):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    bundle = with_engine({"file": "engines/half.engine"}, {"precision": "int8", "checked_on": None})
    files = {name: bundle.read(name) for name in bundle.files}
    files[GPU_INT8_MODEL] = files[HALF_MODEL]
    certificate = Certificate(images=1, images_from="golden", thresholds=(0.6,), versions={}, checks=())
    files["parity.json"] = certificate.model_dump_json().encode()
    write_bundle(bundle.path, bundle.card, files, version="test")
    with pytest.raises(BundleError, match="does not vouch for TensorRT int8: it was not compared"):
        open_engine(load_bundle(bundle.path), backend="tensorrt", precision="int8")
    vouched = certificate.model_copy(update={"ways": {"TensorRT int8": ()}})
    files["parity.json"] = vouched.model_dump_json().encode()
    write_bundle(bundle.path, bundle.card, files, version="test")
    with pytest.raises(IncompatibleEngine, match=r"run `export-trt --certify .* --int8`"):
        open_engine(load_bundle(bundle.path), backend="tensorrt", precision="int8")
    monkeypatch.setattr(sys, "argv", ["export-trt", "--certify", str(bundle.path), "--int8"])
    with pytest.raises(SystemExit, match="0"):
        export_main()
    assert "int8, built in 1 s, checked on Simulated GPU" in capsys.readouterr().err
    found = load_bundle(bundle.path)
    with open_engine(found, backend="tensorrt", precision="int8") as engine:
        assert (engine.name, engine.precision) == ("tensorrt_rtx 1.7.1 int8, Simulated GPU", "int8")
        self_test(engine, found)
    with open_engine(found, backend="tensorrt") as engine:
        assert engine.precision == "fp16"
    with pytest.raises(IncompatibleEngine, match=r"holds no engine in int8; build one .* --from-onnx .* --int8"):
        open_gpu_graph(with_engine(), precision="int8")
