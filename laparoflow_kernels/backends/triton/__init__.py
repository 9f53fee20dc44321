"""Triton backend: statistics, gradients and weighted sums as tiled kernels for NVIDIA GPUs from sm_80 on.

Importing this package needs torch alone; triton and the kernels are imported at the first call. Under
``TRITON_INTERPRET=1`` (set before the first call) the same kernels run on CPU tensors, slowly.

    pairs.py                   mathematics of one tile: distances, weights, loads
    weight_operands_kernel.py  exponents of weights as a product of tensor cores
    statistics_kernels.py      forward: row and column sums
    finish_kernel.py           forward: the statistics that those sums make
    coefficients_kernel.py     backward: what dS needs of a row
    gradient_kernels.py        backward: dq, dk, dtemperature
    weighted_sum_kernel.py     sum_j w_ij v_j
    launch.py                  host code of each operator
    tiles.py                   tile sizes
    availability.py            where this backend can run
"""

from __future__ import annotations

from typing import Any

from laparoflow_kernels.arguments import split

from .availability import unavailable

__all__ = ["backward", "forward", "unavailable", "weighted_sum"]


def forward(*arguments: Any) -> Any:
    """(row_stats [4, Tq], column_stats [4, Tk] or [4, 0]); arguments of the operator flow_infonce_forward."""
    from . import launch

    return launch.forward(*split("flow_infonce_forward", arguments))


def backward(*arguments: Any) -> Any:
    """(dquery [Tq, D], dkey [Tk, D], dtemperature []); arguments of the operator flow_infonce_backward."""
    from . import launch

    return launch.backward(*split("flow_infonce_backward", arguments))


def weighted_sum(*arguments: Any) -> Any:
    """(sums [Tq, C], weight_sum [Tq]); arguments of the operator flow_weighted_sum."""
    from . import launch

    return launch.weighted_sum(*split("flow_weighted_sum", arguments))
