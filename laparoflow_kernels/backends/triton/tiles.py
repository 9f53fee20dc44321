"""Tile sizes: one for each kernel, class of dtypes and width.

The options of a call (flow components, flow kernel, masks, ...) change how many registers it needs, and GPUs differ in
shared memory (99 KB on sm_86, sm_89 and sm_120, 163 KB on sm_80, 227 KB on sm_90 and sm_100). A default that would spill
registers to memory, or does not fit, gives way to the first of its ``retreats`` that does neither. A launch learns this from
the compiled kernel at the first call of a variant, the tests from the cubin. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Tile:
    """Rows held by a program, rows streamed at a time, warps, stages of the load pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


# 16-bit inputs, by generation, by kernel and need (``is_heavy``): tiles for D up to 64, 128, 256
HALF_TILES = {
    80: {
        ("forward", False): (Tile(128, 64, 4, 3), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        ("forward", True): (Tile(128, 32, 4, 3), Tile(64, 32, 4, 2), Tile(128, 32, 8, 2)),
        ("backward", False): (Tile(128, 32, 4, 2), Tile(128, 64, 8, 2), Tile(64, 32, 4, 1)),
        ("backward", True): (Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 4, 1)),
    },
    # two blocks of four warps, where they find room: one of eight, all waiting for the same product, took 1.3 times as long
    90: {
        ("forward", False): (Tile(128, 32, 4, 3), Tile(128, 32, 4, 3), Tile(128, 64, 8, 2)),
        ("forward", True): (Tile(64, 64, 4, 3), Tile(128, 32, 8, 2), Tile(128, 32, 4, 1)),
        ("backward", False): (Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
        ("backward", True): (Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 1)),
    },
    100: {
        ("forward", False): (Tile(128, 64, 8, 2), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        ("forward", True): (Tile(64, 64, 4, 3), Tile(128, 32, 8, 2), Tile(64, 64, 4, 1)),
        ("backward", False): (Tile(128, 64, 4, 2), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        ("backward", True): (Tile(64, 32, 4, 1), Tile(64, 32, 4, 1), Tile(64, 32, 4, 1)),
    },
}
TF32_TILES = {
    ("forward", False): (Tile(128, 32, 4, 2), Tile(128, 32, 8, 2), Tile(64, 32, 8, 1)),
    ("forward", True): (Tile(128, 32, 8, 2), Tile(128, 32, 8, 2), Tile(64, 32, 8, 1)),
    ("backward", False): (Tile(128, 32, 8, 2), Tile(64, 32, 4, 1), Tile(64, 32, 4, 1)),
    ("backward", True): (Tile(128, 32, 8, 2), Tile(64, 32, 4, 1), Tile(64, 32, 4, 1)),
}


_settled: dict[tuple[Any, ...], Tile] = {}


def is_heavy(constants: Mapping[str, Any]) -> bool:
    """Whether a variant keeps so much per pair that it needs a smaller tile.

    Running maxima, the terms of both sides in a backward, a forward with every option at once.
    """
    options = bool(constants.get("DISSIMILAR") and constants.get("BATCH") and "LIFT" in constants)
    return not constants.get("BOUNDED", True) or options or bool(constants.get("OWN_TERMS") and constants.get("OTHER_TERMS"))


def capability_of(device: torch.device) -> int:
    """Compute capability as an integer, 80, 86, 90, ...; 0 for a CPU, on which the interpreter runs."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def generation(capability: int) -> int:
    """Whose instructions for products of 16-bit numbers a GPU has: 80 (mma.sync), 90 (wgmma) or 100 (tcgen05).

    GPUs of sm_120 and later, the consumer line, have mma.sync again; 0, the interpreter, stays 0.
    """
    if capability == 0:
        return 0
    return 90 if 90 <= capability < 100 else 100 if 100 <= capability < 120 else 80


def lanes(tile: Tile, capability: int, operands: bool) -> int:
    """Columns of the sums that a row keeps until its last tile, 0 to add a row up in every tile.

    The threads of wgmma's layout have 8 columns of a row between them, the next 8 are theirs again; where several warps
    share a row, keeping its sums apart would move every pair through shared memory. Weights that are no product have no
    layout of their own and would be formed in another one: 37 instructions per pair instead of 24 ("dissimilar", D = 64).
    """
    return 8 if operands and generation(capability) in (0, 90) and tile.block_m >= 16 * tile.warps else 0


def default_tile(kind: str, precision: str, block_d: int, capability: int, heavy: bool) -> Tile:
    """The tile that a launch tries first.

    Args:
        kind: "forward", "backward" or "weighted_sum".
        precision: "half", "tf32" or "ieee".
        block_d: D padded to a power of two.
        capability: compute capability as an integer, 80, 86, 90, ...; 0 in the interpreter.
        heavy: see ``is_heavy``.
    """
    served = generation(capability)
    if served == 0:
        return Tile(64, 64, 4, 1)
    if kind == "weighted_sum":
        return Tile(32, 32, 4, 2) if precision == "ieee" or served == 100 else Tile(64, 32, 4, 2)
    if precision == "ieee":
        return Tile(32, 32, 8, 1)
    table = TF32_TILES if precision == "tf32" else HALF_TILES[served]
    return table[kind, heavy][0 if block_d <= 64 else 1 if block_d <= 128 else 2]


def retreats(tile: Tile, capability: int) -> list[Tile]:
    """Tiles with less to hold than ``tile``, the nearest first; from sm_90 on, the products want 64 rows.

    On sm_100 a shape of 64 rows is tried with eight warps too, whose threads hold half as much; elsewhere their products
    have 128 rows, and two warps would compute each pair of such a tile. Wide tiles and those of two warps come before four
    warps with 16 columns: the warps of mma.sync lie side by side along the columns of a backward with few rows, eight
    columns each, and four of them would share 16.
    """
    served = generation(capability)
    narrower = [replace(tile, block_n=tile.block_n // 2)] if tile.block_n > 32 else []
    middle = ((32, 32), (64, 16)) if served == 80 else ((64, 16), (32, 32))
    shapes = ((64, 32), *middle)
    small = [Tile(m, n, warps, 1) for m, n in shapes for warps in ((4, 8) if served == 100 and m == 64 else (4,))]
    wide = [t for t in (Tile(32, 64, 8, 1), Tile(16, 64, 8, 1)) if t.block_m < tile.block_m]
    least = [Tile(16, 32, 2, 1), Tile(16, 16, 2, 1), Tile(32, 16, 4, 1), Tile(16, 16, 4, 1)]

    def size(t: Tile) -> tuple[int, int, int]:
        return t.block_m * t.block_n, t.stages, t.warps

    smaller = [t for t in small if t.block_m <= tile.block_m and size(t) < size(tile) and t not in narrower]
    return narrower + smaller + wide + least


def fitting(tile: Tile, capability: int, misfit: Callable[[Tile], float]) -> Tile:
    """``tile``, or the first of its retreats whose ``misfit`` is 0; where there is none, the one with the least."""
    found: dict[Tile, float] = {}
    for candidate in (tile, *retreats(tile, capability)):
        found[candidate] = misfit(candidate)
        if found[candidate] == 0:
            return candidate
    return min(found, key=lambda candidate: found[candidate])


def choose(kind: str, key: tuple[Any, ...], default: Tile, device: torch.device, misfit: Callable[[Tile], float]) -> Tile:
    """The tile for one call: ``default``, or what ``fitting`` found at the first call of this variant.

    Args:
        kind: kernel, as in ``default_tile``.
        key: all else that changes what the kernel needs.
        default: where the search begins.
        device: where the call runs.
        misfit: registers that a kernel of this tile spills, infinite where it cannot be launched for want of shared memory.
    """
    if device.type != "cuda":
        return default
    variant = (kind, default, torch.cuda.get_device_name(device), *key)
    if variant not in _settled and not torch.cuda.is_current_stream_capturing():
        _settled[variant] = fitting(default, capability_of(device), misfit)
    return _settled.get(variant, default)
