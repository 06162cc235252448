"""Training tests need torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'inspectd[train]'")
torch.set_num_threads(1)
