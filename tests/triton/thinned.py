"""A pytest plugin: of the shared suite of tests/kernels, what Triton's interpreter runs.

The interpreter takes about a second where the compiled backends take milliseconds. Every test function stays, and every
value of every option; left out are combinations of them, sizes over 130 (tiles are 64 x 64 there, so 63, 64, 65, 127, 129
cross every edge; 1000 rows run in tests/triton/interpreted with smaller tiles), the random shapes, and the widest rows
(also there). Draws are 3 instead of 6 (LAPAROFLOW_TEST_DRAWS). Without the plugin the whole suite runs, in about an hour:

    TRITON_INTERPRET=1 LAPAROFLOW_TEST_BACKENDS=triton:cpu python -m pytest tests/kernels
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

LEFT_OUT = ("test_random_shapes_and_strides", "test_every_option_float64", "test_widths_of_tokens")


def keep(name: str, p: dict[str, Any]) -> bool:
    """Whether the test ``name`` with the parameters ``p`` runs."""
    if "backend" not in p or name in LEFT_OUT:
        return False
    options = p.get("options", {})
    plain, mixed = options.get("negatives") == "all", options.get("symmetric") == (options.get("positives") == "inside")
    if name == "test_every_option_float32":
        return mixed if options["flow_kernel"] == "gaussian" else mixed and plain == (options["scope"] == "frame")
    if name == "test_half_precision":
        return mixed and plain == (p["dtype"] == torch.bfloat16)
    if name == "test_tile_edges":
        return max(p["n"], p["m"]) < 130
    if name == "test_widths":
        return p["dtype"] == torch.float32 or p["d"] in (1, 31, 256)
    if name == "test_temperatures":
        return (mixed or plain) if p["temperature"] in (0.01, 1.0) else (mixed and plain)
    if name == "test_nothing_valid_gives_zero_loss_zero_gradients_and_a_warning":
        return p["symmetric"] == (p["reduction"] == "mean")
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if keep(item.originalname, item.callspec.params if hasattr(item, "callspec") else {})]  # type: ignore[attr-defined]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
