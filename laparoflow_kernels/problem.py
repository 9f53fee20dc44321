"""The packed form in which every backend receives its work.

The frames of a batch are concatenated: ``query`` is [Tq, D] with Tq the number of query pixels of all frames, and frame b
owns rows ``query_offsets[b]:query_offsets[b + 1]``. A [B, N, D] batch is the case of equal sizes (a view, no copy); a list
of maps of different sizes packs without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from laparoflow_kernels.arguments import PairArguments

FLOW_KERNELS = ("gaussian", "laplace", "cauchy", "tophat")
POSITIVES = ("outside", "inside")
NEGATIVES = ("all", "dissimilar")
SCOPES = ("frame", "batch")
REDUCTIONS = ("mean", "sum", "none")

MAX_FLOW_CHANNELS = 8


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, float32 for every other dtype: the dtype of sums, flows and statistics."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_exists(kind: str) -> bool:
    """Whether devices of this kind, "cpu" or "cuda" say, have an autocast mode."""
    return torch.amp.is_autocast_available(kind)


def full_float() -> bool:
    """Whether torch.set_float32_matmul_precision asks for float32 products at the accuracy of float32."""
    return torch.get_float32_matmul_precision() == "highest"


# What torch.compiler.assume_constant_result does, whose call would import the compiler and Triton. torch 2.11 cannot
# trace the first question; for the second torch.compile guards torch's global state, and compiles again when it changes.
autocast_exists._dynamo_marked_constant = True  # type: ignore[attr-defined]
full_float._dynamo_marked_constant = True  # type: ignore[attr-defined]


class FrameSizes(NamedTuple):
    """How many frames one side has, and of how many pixels.

    Equal frames are two numbers, which torch.compile and torch.export can leave open; a tuple of B numbers would fix B.
    """

    frames: int  # B
    largest: int  # pixels of the largest frame
    each: tuple[int, ...] | None = None  # pixels of each frame, or None where all have ``largest``

    @classmethod
    def of(cls, each: Sequence[int]) -> FrameSizes:
        largest = max(each, default=0)
        return cls(len(each), largest, None if all(size == largest for size in each) else tuple(each))

    def same(self, other: FrameSizes) -> bool:
        return self.frames == other.frames and self.largest == other.largest and self.each == other.each

    def __str__(self) -> str:
        if self.each is None:
            return f"B={self.frames} frames of {self.largest} pixels"
        return f"frames of {list(self.each)} pixels"


class PackedFrames(NamedTuple):
    """One side (query or key) of a problem: T pixels of B frames."""

    flow: Tensor  # [T, F], accumulator dtype
    mask: Tensor | None  # [T] bool, True = keep
    offsets: Tensor  # [B + 1] int64, on the device of the flow
    sizes: FrameSizes
    group: Tensor | None = None  # [T] int64: a pair of equal groups is neither positive nor negative

    def keep(self) -> Tensor:
        """The mask [T], of ones where there is none."""
        return torch.ones_like(self.flow[:, 0], dtype=torch.bool) if self.mask is None else self.mask


@dataclass(frozen=True)
class PairProblem:
    """All that a backend needs: packed tensors and options."""

    query: Tensor  # [Tq, D]
    key: Tensor  # [Tk, D]
    query_frames: PackedFrames
    key_frames: PackedFrames
    temperature: Tensor  # [], accumulator dtype
    inv_bandwidth: Tensor  # [B], accumulator dtype
    flow_kernel: str
    positives: str
    negatives: str
    scope: str
    symmetric: bool
    bounded: bool
    weight_stats: bool = True  # the statistics that no loss needs are asked for, too (arguments.py)

    def op_args(self) -> PairArguments:
        """The problem as the operators take it: with row-major query and key (kernels address rows; flows are packed)."""
        q, k = self.query_frames, self.key_frames
        return PairArguments(
            self.query.contiguous(), self.key.contiguous(), q.flow, k.flow, self.temperature, self.inv_bandwidth, q.offsets,
            k.offsets, q.mask, k.mask, q.group, k.group, q.sizes.largest, k.sizes.largest, self.flow_kernel, self.positives,
            self.negatives, self.scope, self.symmetric, self.bounded, full_float(),
            torch.are_deterministic_algorithms_enabled(), self.weight_stats,
        )  # fmt: skip


Cut: TypeAlias = Callable[..., Any]
"""Some frames of one side: [T, ...] -> [frames, pixels of each, ...], None -> None."""


def cut(start: int, frames: int, size: int) -> Cut:
    """So many frames of one size, from a row on."""
    return lambda x: None if x is None else x[start : start + frames * size].reshape(frames, size, *x.shape[1:])


def equal_frames(query: FrameSizes, key: FrameSizes) -> Iterator[tuple[slice, Cut, Cut]]:
    """Runs of frames that are equal on both sides, with the cut of either: all frames at once, or each alone."""
    if query.each is None and key.each is None:
        yield slice(None), cut(0, query.frames, query.largest), cut(0, key.frames, key.largest)
        return
    q_start = k_start = 0
    for b in range(query.frames):
        n, m = (sizes.largest if sizes.each is None else sizes.each[b] for sizes in (query, key))
        yield slice(b, b + 1), cut(q_start, 1, n), cut(k_start, 1, m)
        q_start, k_start = q_start + n, k_start + m
