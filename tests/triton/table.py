"""Writes the table of notes/2026-11-26-triton-kernels.md: what each variant needs, and the time that predicts on an H200.

    python -m tests.triton.table notes/2026-11-26-triton-kernels.md

Replaces what stands between the markers of that page. The model, in seconds per pair of pixels:

    issue   = instructions of the main loop / (128 lanes * 132 multiprocessors * clock)
    tensor  = 36 clocks for each product of 64 x 64 pairs over 16 columns / (4096 * 132 * clock)
    special = special-unit operations / (16 * 132 * clock)
    traffic = bytes of a streamed row / rows of a tile / rate of the L2 cache (wide rows: those of the own rows, too)
    time    = pairs * channel blocks * STALLS * ((issue + tensor)^3 + special^3 + traffic^3)^(1/3)

Issue and tensor add up, as Nsight Compute showed of the CUDA kernels on an H200, and 36 is from there. The cube is what
their four shares of the special unit ask for (forward, D = 64: 6.3 to 7.1 ms, with STALLS = 1.03). STALLS is fitted to what
was measured of the Triton kernels of commit b7fcb4c, within 8 %: 1.22 where two or more blocks are resident on a
multiprocessor, 1.57 for a single one. The rate of the L2 cache is an assumption. Left out: ragged last waves, throttling.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laparoflow_kernels.backends.triton import launch
from tests.triton.compiled import Facts, Variant, compile_variant

CLOCK = 1.85e9
MULTIPROCESSORS = 132
PRODUCT_CLOCKS = {"bf16": 36, "fp16": 36, "fp32": 72}
L2_RATE = 5.5e12
STALLS, STALLS_OF_ONE_BLOCK = 1.22, 1.57
PAIRS = 1e10
CAPABILITIES = (80, 90, 100)
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

WIDTHS = (64, 128, 256)
EVERYTHING: dict[str, Any] = dict(positives="inside", negatives="dissimilar", scope="batch", masked=True)
VARIANTS = (
    *(Variant("forward", D=d) for d in WIDTHS),
    *(Variant("backward", D=d, terms=terms) for terms in ("own", "other", "both") for d in WIDTHS),
    *(Variant("forward", flow_kernel=kernel) for kernel in ("laplace", "cauchy", "tophat")),
    *(Variant(kernel, positives="inside") for kernel in ("forward", "backward")),
    *(Variant(kernel, negatives="dissimilar") for kernel in ("forward", "backward")),
    *(Variant(kernel, bounded=False) for kernel in ("forward", "backward")),
    *(Variant(kernel, dtype="fp16") for kernel in ("forward", "backward")),
    Variant("forward", bounded=False, **EVERYTHING),
    Variant("backward", terms="both", bounded=False, temperature=True, **EVERYTHING),
    *(Variant(kernel, dtype="fp32", D=d) for kernel in ("forward", "backward") for d in (64, 256)),
    *(Variant(kernel, dtype="fp32", precision="ieee") for kernel in ("forward", "backward")),
    *(Variant("weighted_sum", dtype="fp32", precision=precision) for precision in ("tf32", "ieee")),
)  # fmt: skip
# milliseconds of the CUDA kernels, forward and backward: their goals, and what an H200 took
GOALS = {64: (4.0, 7.8), 128: (4.5, 13.0), 256: (7.5, 26.0)}
MEASURED = {64: (6.3, 10.4), 128: (7.1, 16.1), 256: (10.0, 35.7)}


def predicted_seconds(facts: Facts) -> float:
    """Seconds on an H200 for 1e10 pairs by this module's model (ieee products are among the instructions)."""
    variant, tile = facts.variant, facts.tile
    clocks = MULTIPROCESSORS * CLOCK
    operands = variant.has_operands(facts.capability)
    width = int(variant.constants().get("BLOCK_D", 0))
    wide, size = variant.D > launch.WIDEST_BLOCK, 4 if variant.dtype == "fp32" else 2
    blocks = -(-variant.D // width) if wide and variant.kernel == "backward" else 1
    channels = variant.D + (variant.products - 1) * width if wide else variant.products * width
    products = 0.0 if variant.precision == "ieee" else channels / 16 + operands
    issue = facts.main.instructions / (128 * clocks)
    tensor = PRODUCT_CLOCKS[variant.dtype] * products / (4096 * clocks)
    special = facts.main.special / (16 * clocks)
    row = (channels if wide else variant.D) * size + (32 if operands else 0) + 4 * variant.F
    traffic = (row / tile.block_m + (variant.D * size / tile.block_n if wide else 0)) / L2_RATE
    stalls = STALLS if facts.blocks_per_multiprocessor > 1 else STALLS_OF_ONE_BLOCK
    return PAIRS * blocks * stalls * ((issue + tensor) ** 3 + special**3 + traffic**3) ** (1 / 3)


def describe(variant: Variant) -> str:
    """The options of a variant that are not the defaults, in words."""
    words = [variant.flow_kernel] if variant.flow_kernel != "gaussian" else []
    if variant.kernel == "backward":
        words.append({"own": "dq", "other": "dk", "both": "symmetric"}[variant.terms])
    words += [
        word for word in (variant.positives, variant.negatives, variant.scope) if word not in ("outside", "all", "frame")
    ]
    words += ["running maximum"] if not variant.bounded else []
    words += ["masks"] if variant.masked else []
    words += [f"F = {variant.F}"] if variant.F != 2 else []
    words += ["dtemperature"] if variant.temperature else []
    words += ["ieee"] if variant.precision == "ieee" else ["tf32"] if variant.dtype == "fp32" else []
    return ", ".join(words)


def spilling(facts: dict[int, Facts]) -> str:
    """Architectures on which registers go to the stack, in words."""
    return ", ".join(f"sm_{c}" for c, f in facts.items() if f.spills) or "none"


def rows(compiled: dict[Variant, dict[int, Facts]]) -> list[str]:
    """One row per variant: registers, blocks and spills on each architecture, the rest as for sm_90."""
    lines = [
        "| kernel | dtype | D | options | tile (rows x columns, warps, stages) | registers sm_80 / 90 / 100 | spills"
        " | shared KB | blocks per SM sm_80 / 90 / 100 | products per pair | special ops per pair | instructions per pair"
        " | predicted ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, facts in compiled.items():
        hopper = facts[90]
        tile = hopper.tile
        registers, blocks = (
            " / ".join(str(getattr(facts[c], name)) for c in CAPABILITIES)
            for name in ("registers", "blocks_per_multiprocessor")
        )
        lines.append(
            f"| {variant.kernel} | {variant.dtype} | {variant.D} | {describe(variant)} "
            f"| {tile.block_m} x {tile.block_n}, {tile.warps}, {tile.stages} | {registers} | {spilling(facts)} "
            f"| {hopper.shared / 1024:.0f} | {blocks} | {variant.products} | {hopper.main.special:.2f} "
            f"| {hopper.main.instructions:.1f} | {predicted_seconds(hopper) * 1e3:.1f} |"
        )
    return lines


def goals(compiled: dict[Variant, dict[int, Facts]]) -> list[str]:
    """Predictions of the plain bf16 kernels beside what the CUDA kernels took, whose speed is asked for to 75 %."""
    lines = [
        "| bf16, one direction | D | predicted ms | CUDA kernels, measured ms | their speed kept | their goal, ms |",
        "|---|---|---|---|---|---|",
    ]
    for index, name in enumerate(("forward", "backward")):
        for d in WIDTHS:
            parts = [Variant("forward", D=d)]
            if name == "backward":
                parts = [Variant("backward", D=d, terms=terms) for terms in ("own", "other")]
            predicted = 1e3 * sum(predicted_seconds(compiled[part][90]) for part in parts)
            measured = MEASURED[d][index]
            kept = f"{measured / predicted:.0%}".replace("%", " %")
            lines.append(f"| {name} | {d} | {predicted:.1f} | {measured:.1f} | {kept} | {GOALS[d][index]:.1f} |")
    return lines


def main() -> None:
    from rich.progress import track

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown page with the two markers")
    page = parser.parse_args().page
    if any(marker not in page.read_text() for marker in (BEGIN, END)):
        raise SystemExit(f"{page}: expected the markers {BEGIN} and {END}")
    compiled = {
        variant: {c: compile_variant(variant, c) for c in CAPABILITIES}
        for variant in track(VARIANTS, description="compiling")
    }
    written = ["", *goals(compiled), "", *rows(compiled), ""]
    text = page.read_text()
    page.write_text("\n".join([text.split(BEGIN)[0] + BEGIN, *written, END + text.split(END)[1]]))


if __name__ == "__main__":
    main()
