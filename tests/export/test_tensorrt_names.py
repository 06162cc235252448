"""What is called of TensorRT exists in 10.3, which a Jetson with JetPack 6 has: checked against a list of its names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# By the manual of TensorRT 10.3 (Python): the classes that are used here, with the members that could be.
TENSORRT_10_3 = {
    "module": {
        "__name__", "__version__", "Builder", "DataType", "ICudaEngine", "ILogger", "IProgressMonitor", "Logger",
        "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "Runtime", "TensorIOMode",
    },
    "ILogger": {"__init__", "Severity", "log"},
    "Severity": {"ERROR", "INFO", "INTERNAL_ERROR", "VERBOSE", "WARNING"},
    "IProgressMonitor": {"__init__", "phase_finish", "phase_start", "step_complete"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH", "STRONGLY_TYPED"},
    "MemoryPoolType": {"WORKSPACE", "TACTIC_DRAM"},
    "DataType": {"BF16", "BOOL", "FLOAT", "HALF", "INT32", "INT64", "INT8", "UINT8"},
    "TensorIOMode": {"INPUT", "NONE", "OUTPUT"},
    "builder": {
        "build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
    },
    "network": {"get_input", "get_output", "num_inputs", "num_outputs"},
    "tensor": {"dtype", "name", "shape"},
    "parser": {"get_error", "num_errors", "parse", "parse_from_file"},
    "config": {"add_optimization_profile", "progress_monitor", "profiling_verbosity", "set_memory_pool_limit"},
    "profile": {"set_shape"},
    "runtime": {"deserialize_cuda_engine"},
    "loaded": {
        "create_execution_context", "device_memory_size_v2", "get_tensor_dtype", "get_tensor_mode",
        "get_tensor_profile_shape", "get_tensor_shape", "get_tensor_name", "num_io_tensors",
    },
    "context": {"execute_async_v3", "infer_shapes", "set_input_shape", "set_tensor_address"},
}  # fmt: skip
# TensorRT-RTX's own, reached where it is the target alone.
RTX = {
    "module": {"ComputeCapability"},
    "config": {"num_compute_capabilities", "set_compute_capability"},
}
NAMES = {"trt": "module", "_context": "context"}
OURS = {"export/engines.py": set(), "inspectd/gpu.py": {"tensor"}}
"""Files, and the names in them that stand for something of ours."""


def used(file: str) -> dict[str, set[str]]:
    """Members that are taken of the library's things, by what the code calls those."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        # `trt.X`, `self._context.x`, and `trt.Enum.MEMBER`.
        owner = node.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        name = NAMES.get(name, name)
        if name in TENSORRT_10_3.keys() - OURS[file]:
            found.setdefault(name, set()).add(node.attr)
    return found


@pytest.mark.parametrize("file", OURS)
def test_nothing_newer_than_10_3_is_called(file):
    found = used(file)
    assert "module" in found
    for owner, members in found.items():
        unknown = members - TENSORRT_10_3[owner] - RTX.get(owner, set())
        assert not unknown, f"{file}: {owner} has no {', '.join(sorted(unknown))} in TensorRT 10.3"


def test_what_is_rtx_alone_is_called_for_rtx_alone():
    source = (ROOT / "export" / "engines.py").read_text(encoding="utf-8")
    head, guarded = source.split('    if wish.target == "rtx":\n', 1)
    assert not any(f"config.{name}" in head for name in RTX["config"])
    after = guarded.split("    profile = builder.", 1)[1]
    assert not any(f"config.{name}" in after for name in RTX["config"])


def test_the_list_is_what_the_real_library_has_too():
    real = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'inspectd[tensorrt-rtx]'")
    classes = {
        "builder": "Builder", "network": "INetworkDefinition", "tensor": "ITensor", "parser": "OnnxParser",
        "config": "IBuilderConfig", "profile": "IOptimizationProfile", "runtime": "Runtime", "loaded": "ICudaEngine",
        "context": "IExecutionContext",
    }  # fmt: skip
    for file in OURS:
        for owner, members in used(file).items():
            if owner in classes:
                assert [name for name in members if not hasattr(getattr(real, classes[owner]), name)] == []
