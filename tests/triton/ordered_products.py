"""A pytest plugin for processes with TRITON_INTERPRET=1: products of tiles are summed in one order, in float32.

The interpreter takes NumPy's product. On some processors its BLAS chooses the order of a sum by the shape and orientation of
the tile, so that q k^T of the forward and of the backward differ in their last bits. At a temperature of 0.01 that made 2.8
times the error of the reference, which forms each product once. With one order the two are equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter

_create_dot = interpreter.InterpreterBuilder.create_dot


def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
    """d + a b, the terms of each element added from the first channel to the last in the dtype of d."""
    if 8 in (a.dtype.primitive_bitwidth, b.dtype.primitive_bitwidth):
        return _create_dot(self, a, b, d, *options)
    total = np.zeros_like(d.data)
    left, right = a.data.astype(total.dtype), b.data.astype(total.dtype)
    for channel in range(left.shape[-1]):
        total += left[..., channel : channel + 1] * right[..., channel : channel + 1, :]
    return interpreter.TensorHandle(total + d.data, d.dtype.scalar)


interpreter.InterpreterBuilder.create_dot = create_dot
