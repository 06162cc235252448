"""Export tests need torch and onnx."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="export needs torch: pip install 'inspectd[export]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install 'inspectd[export]'")
torch.set_num_threads(1)
