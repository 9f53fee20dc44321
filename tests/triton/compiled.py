"""Ahead-of-time compilation of the kernels for a GPU that need not be present, and what the machine code says.

``compile_variant`` builds one variant for sm_80, sm_90 or sm_100 and reads registers, stack and shared memory from the
cubin and the instructions of its main loop from SASS, with the tools of Triton's wheel. The tests assert on these facts
and ``table`` writes them down. Needs triton imported without TRITON_INTERPRET.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from laparoflow_kernels.backends.triton import launch, pairs, tiles
from laparoflow_kernels.backends.triton.coefficients_kernel import coefficients_kernel
from laparoflow_kernels.backends.triton.finish_kernel import finish_kernel
from laparoflow_kernels.backends.triton.gradient_kernels import backward_kernel
from laparoflow_kernels.backends.triton.launch import INSIDE_LIFT, ROW_BLOCK, padded
from laparoflow_kernels.backends.triton.statistics_kernels import forward_kernel
from laparoflow_kernels.backends.triton.tiles import Tile
from laparoflow_kernels.backends.triton.weight_operands_kernel import weight_operands_kernel
from laparoflow_kernels.backends.triton.weighted_sum_kernel import weighted_sum_kernel

KERNELS = {
    "forward": forward_kernel,
    "backward": backward_kernel,
    "weighted_sum": weighted_sum_kernel,
    "finish": finish_kernel,
    "coefficients": coefficients_kernel,
    "operands": weight_operands_kernel,
}
SMALL_KERNELS = ("finish", "coefficients", "operands")
INPUT_POINTERS = ("query", "key", "own", "other", "own_gradient", "values")
OFFSET_POINTERS = ("offsets", "query_offsets", "key_offsets", "own_offsets", "other_offsets")
OPERAND_POINTERS = ("query_operands", "key_operands", "own_operands", "other_operands", "operands")
NEAR_POINTERS = ("query_near", "key_near", "own_near", "other_near", "near")
GROUP_POINTERS = ("query_group", "key_group", "own_group", "other_group")
FEW = 64
MASK_POINTERS = ("query_mask", "key_mask", "own_mask", "other_mask", "mask")


@dataclass(frozen=True)
class Variant:
    """One compile-time choice of every option; ``terms`` (own, other, both) belongs to backward alone."""

    kernel: str
    dtype: str = "bf16"
    D: int = 64
    F: int = 2
    flow_kernel: str = "gaussian"
    positives: str = "outside"
    negatives: str = "all"
    scope: str = "frame"
    terms: str = "own"
    bounded: bool = True
    masked: bool = False
    grouped: bool = False
    weight_stats: bool = False
    temperature: bool = False
    precision: str = "tf32"
    tile: Tile | None = None

    def has_operands(self, capability: int) -> bool:
        """Whether tensor cores form the exponents of the weights."""
        options = self.flow_kernel, self.F, self.bounded, self.negatives == "dissimilar"
        return launch.exponents_by_product(self.product_class, capability, *options)

    @property
    def products(self) -> int:
        """Matrix products per pair."""
        return {"forward": 1, "backward": 2, "weighted_sum": 1}.get(self.kernel, 0)

    @property
    def product_class(self) -> str:
        """half, tf32 or ieee, as ``tiles`` names the products."""
        return "half" if self.dtype in ("bf16", "fp16") and self.kernel != "weighted_sum" else self.precision

    def constants(self) -> dict[str, Any]:
        """Compile-time constants as ``launch`` sets them, tile sizes left out."""
        inside = self.positives == "inside"
        lift = INSIDE_LIFT if self.bounded and inside else 0.0
        quantities = 4 if self.bounded else 6 if inside else 5
        if self.kernel == "finish":
            return dict(BLOCK=ROW_BLOCK, INSIDE=inside, BOUNDED=self.bounded, LIFT=lift, QUANTITIES=quantities,
                        WEIGHT_STATS=self.weight_stats)  # fmt: skip
        if self.kernel == "coefficients":
            lift = launch.WEIGHT_LIFT if self.dtype == "fp16" else 1.0
            return dict(BLOCK=ROW_BLOCK, INSIDE=inside, BOUNDED=self.bounded, LIFT=lift)
        if self.kernel == "operands":
            return dict(F=self.F)
        if self.kernel == "weighted_sum":
            return dict(F=self.F, FLOW_KERNEL=self.flow_kernel, BLOCK_C=min(64, padded(self.D)), PRECISION=self.precision)
        shared = dict(
            D=self.D, F=self.F, BLOCK_D=padded(min(self.D, launch.WIDEST_BLOCK)), FLOW_KERNEL=self.flow_kernel,
            INSIDE=inside, DISSIMILAR=self.negatives == "dissimilar", BATCH=self.scope == "batch", BOUNDED=self.bounded,
            PRECISION=self.precision,
        )  # fmt: skip
        if self.kernel == "backward":
            return dict(
                shared, OWN_TERMS=self.terms != "other", OTHER_TERMS=self.terms != "own", ROWS=True,
                TEMPERATURE=self.temperature,
            )  # fmt: skip
        return dict(shared, LIFT=lift, QUANTITIES=quantities,
                    WEIGHT_STATS=self.weight_stats)  # fmt: skip

    def default_tile(self, capability: int) -> Tile:
        """The given tile, or the first that the launch would try."""
        if self.tile is not None:
            return self.tile
        constants = self.constants()
        if self.kernel in SMALL_KERNELS:
            return Tile(ROW_BLOCK, 1, 4, 1)
        width = int(constants["BLOCK_C" if self.kernel == "weighted_sum" else "BLOCK_D"])
        return tiles.default_tile(self.kernel, self.product_class, width, capability, tiles.is_heavy(constants))


@dataclass(frozen=True)
class Loop:
    """Instructions of an innermost loop over tiles of pairs, per pair."""

    instructions: float
    special: float
    tensor: Counter[str]


@dataclass(frozen=True)
class Facts:
    """What the compiled variant needs and does."""

    variant: Variant
    capability: int
    tile: Tile
    registers: int
    stack: int
    shared: int
    blocks_per_multiprocessor: int
    loops: tuple[Loop, ...]
    ptx: str
    sass: str

    @property
    def spills(self) -> int:
        """Instructions that move registers to the stack or back."""
        return len(re.findall(r"\b(?:STL|LDL)\S*", self.sass))

    @property
    def misfit(self) -> float:
        """Spilled registers' instructions, infinite where a block needs more shared memory than a multiprocessor has."""
        return self.spills if self.blocks_per_multiprocessor else math.inf

    @property
    def main(self) -> Loop:
        """The loop over whole tiles that have weights: of the loops with the most special operations, the first."""
        return max(self.loops, key=lambda loop: loop.special)


def compile_variant(variant: Variant, capability: int) -> Facts:
    """Compile for a compute capability (80, 86, 90, ...), with the tile that a launch settles on, and read the facts."""
    tried: dict[Tile, Facts] = {}

    def misfit(tile: Tile) -> float:
        tried[tile] = compile_tile(variant, tile, capability)
        return tried[tile].misfit

    tile = variant.default_tile(capability)
    if variant.tile is None and variant.kernel not in SMALL_KERNELS:
        tile = tiles.fitting(tile, capability, misfit)
    return tried[tile] if tile in tried else compile_tile(variant, tile, capability)


def compile_tile(variant: Variant, tile: Tile, capability: int) -> Facts:
    """Compile with one tile and read the facts."""
    kernel = KERNELS[variant.kernel]
    constants = variant.constants()
    if variant.kernel not in SMALL_KERNELS:
        constants |= dict(BLOCK_M=tile.block_m, BLOCK_N=tile.block_n)
    if variant.kernel == "forward":
        constants["LANES"] = tiles.lanes(tile, capability, variant.has_operands(capability))
    if "STAGES" in kernel.arg_names:
        constants["STAGES"] = tile.stages
    if not variant.has_operands(capability) and variant.kernel != "operands":
        constants |= {name: None for name in (*OPERAND_POINTERS, *NEAR_POINTERS) if name in kernel.arg_names}
    if not variant.grouped:
        constants |= {name: None for name in GROUP_POINTERS if name in kernel.arg_names}
    if not variant.masked:
        constants |= {name: None for name in MASK_POINTERS if name in kernel.arg_names}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = argument_type(name, variant.dtype)
        if signature[name].startswith("*"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage, sass = disassemble(binary.asm["cubin"])
    registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
    pairs_per_thread = tile.block_m * tile.block_n / (32 * tile.warps)
    return Facts(
        variant, capability, tile, registers,
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        shared=binary.metadata.shared,
        blocks_per_multiprocessor=occupancy(capability, tile.warps, registers, binary.metadata.shared),
        loops=tuple(inner_loops(sass, pairs_per_thread, steps_of(constants))), ptx=binary.asm["ptx"], sass=sass,
    )  # fmt: skip


def argument_type(name: str, dtype: str) -> str:
    """Triton's type of a kernel argument that is not a constant."""
    if name in INPUT_POINTERS:
        return f"*{dtype}"
    if name in OFFSET_POINTERS or name in GROUP_POINTERS:
        return "*i64"
    if name in MASK_POINTERS:
        return "*i1"
    if name in OPERAND_POINTERS:
        return "*fp16"
    if name in NEAR_POINTERS:
        return "*i32"
    if name.startswith(("total_", "row_tiles", "own_tiles", "query_tiles")) or name in (
        "total", "splits", "channels", "chunks", "query_chunks", "key_chunks", "own_chunks", "other_chunks",
    ):  # fmt: skip
        return "i32"
    return "*fp32"


def disassemble(cubin: bytes) -> tuple[str, str]:
    """Resource usage and SASS of a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(cubin)
    try:
        usage, sass = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    finally:
        os.unlink(file.name)
    return usage, sass


def steps_of(constants: dict[str, Any]) -> int:
    """Steps of the loop over channels inside of the loop over tiles, for rows that are too wide to be held."""
    width = int(constants.get("D", 0))
    return -(-width // pairs.CHUNK.value) if width > launch.WIDEST_BLOCK else 1


def inner_loops(sass: str, pairs_per_thread: float, steps: int) -> list[Loop]:
    """Innermost loops that use the special function unit: the loops over tiles of pairs.

    One inside of it without that unit, over the channels of wide rows, is counted ``steps`` times.
    Of a tile whose weights have their exponents from a product or, where flows are far, from differences, the product is
    counted. What lies behind the last EXIT are waits moved out of line, whose jump back is no loop.
    """
    code = [(int(m[1], 16), m[2]) for m in re.finditer(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass)]
    last_exit = max(address for address, text in code if operation(text) == "EXIT")
    code = [(address, text) for address, text in code if address <= last_exit]
    spans, products = [], []
    for address, text in code:
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            first = int(target[1], 16)
            counts = Counter(operation(text) for text in near_path([line for line in code if first <= line[0] <= address]))
            if any(name.startswith("MUFU") for name in counts):
                for inner in (counts for start, counts in products if start >= first and steps > 1):
                    counts += Counter({name: (steps - 1) * count for name, count in inner.items()})
                spans.append((first, address, counts))
            elif any(name.split(".")[0].endswith(("MMA", "FFMA")) for name in counts):
                products.append((first, counts))
    loops = []
    for first, last, counts in spans:
        if any((a, b) != (first, last) and first <= a and b <= last for a, b, _ in spans):
            continue
        families = Counter({"": 0})
        for name, count in counts.items():
            families[name.split(".")[0]] += count
        loops.append(
            Loop(
                counts.total() / pairs_per_thread,
                families["MUFU"] / pairs_per_thread,
                Counter({name: count for name, count in families.items() if name.endswith("MMA")}),
            )
        )
    return loops


def near_path(loop: list[tuple[int, str]]) -> list[str]:
    """Instructions of a loop without the arm of a branch that takes the place of a product.

    Such an arm has no tensor-core instruction; what is jumped over otherwise (at most FEW instructions) stays.
    """
    jumps = {at: int(m[1], 16) for at, text in loop if (m := re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text))}
    forward = {at: to for at, to in jumps.items() if at < to <= loop[-1][0]}
    edges = sorted({loop[0][0], *forward.values(), *(at + 16 for at in forward)})
    kept: list[str] = []
    for start, end in zip(edges, [*edges[1:], loop[-1][0] + 16], strict=True):
        block = [text for at, text in loop if start <= at < end]
        names = {operation(text).split(".")[0] for text in block}
        arm = len(block) > FEW and not any(name.endswith("MMA") or name == "MUFU" for name in names) and "LDG" in names
        kept += [] if arm else block
    return kept


def operation(text: str) -> str:
    """Mnemonic of a SASS instruction without its predicate."""
    words = text.split()
    return words[1] if words[0].startswith("@") else words[0]


def occupancy(capability: int, warps: int, registers: int, shared: int) -> int:
    """Resident blocks per multiprocessor; 0 where not even one fits.

    64 K registers in units of 256 per warp; shared memory of 164 KB (sm_80, sm_87), 228 KB (sm_90 to sm_11x) or 100 KB
    (sm_86, sm_89, sm_120), of which 1 KB per block is reserved; 64 warps, with 100 KB 48.
    """
    by_registers = 65536 // (warps * 32 * (-(-registers // 8) * 8))
    kilobytes = {80: 164, 87: 164}.get(capability, 100 if capability < 90 or capability >= 120 else 228)
    by_shared = kilobytes * 1024 // (shared + 1024)
    return min(by_registers, by_shared, (64 if kilobytes > 100 else 48) // warps, 32)
