"""Writes the table of docs/TRITON.md: what each kernel variant needs, and the time that predicts on an H200.

    python -m laparoflow_kernels.backends.triton.table docs/TRITON.md

Replaces what stands between the markers of that page. The model, per pair of pixels and for N = M = 100,000:

    issue   = instructions of the main loop / (128 lanes * 132 multiprocessors * clock)
    special = special-unit operations / (16 * 132 * clock)
    tensor  = products * 2 * padded D / rate of the tensor cores
    time    = pairs * (max(issue, special) + tensor / warpgroups resident on a multiprocessor)

A warpgroup waits for its own product before the pair mathematics, so products overlap with the mathematics of the other
resident warpgroups only. Left out: memory traffic (keys stay in the L2 cache), ragged last waves, clock throttling.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from .compiled import Facts, Variant, compile_variant

CLOCK = 1.85e9
MULTIPROCESSORS = 132
TENSOR_RATE = {"bf16": 780e12, "fp16": 780e12, "fp32": 390e12}
PAIRS = 1e10
CAPABILITIES = (80, 90, 100)
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

EVERYTHING: dict[str, Any] = dict(positives="inside", negatives="dissimilar", scope="batch", masked=True)
VARIANTS = (
    *(Variant("forward", D=d) for d in (64, 128, 256)),
    *(Variant("backward", D=d) for d in (64, 128, 256)),
    *(Variant("backward", D=d, terms="other") for d in (64, 128, 256)),
    Variant("forward", D=64, bounded=False),
    Variant("forward", D=64, positives="inside"),
    Variant("forward", D=64, negatives="dissimilar"),
    *(Variant("forward", D=64, flow_kernel=kernel) for kernel in ("laplace", "cauchy", "tophat")),
    *(Variant("symmetric", D=d) for d in (64, 128, 256)),
    *(Variant("backward", D=d, terms="both") for d in (64, 128, 256)),
    Variant("backward", D=64, bounded=False),
    Variant("backward", D=64, terms="both", bounded=False, temperature=True, **EVERYTHING),
    Variant("forward", D=64, bounded=False, **EVERYTHING),
    Variant("forward", dtype="fp32", D=64),
    Variant("backward", dtype="fp32", D=64),
    Variant("forward", dtype="fp32", D=64, precision="ieee"),
    Variant("backward", dtype="fp32", D=64, precision="ieee"),
    Variant("weighted_sum", dtype="fp32", precision="ieee", D=64),
)


def predicted_seconds(facts: Facts) -> float:
    """Seconds on an H200 for 1e10 pairs by this module's model (ieee products are among the instructions)."""
    variant = facts.variant
    lanes = 128 * MULTIPROCESSORS * CLOCK
    issue = facts.main.instructions / lanes
    special = facts.main.special / (16 * MULTIPROCESSORS * CLOCK)
    if variant.precision == "ieee":
        return PAIRS * max(issue, special)
    width = int(variant.constants().get("BLOCK_D", 0))
    tensor = variant.products * 2 * width / TENSOR_RATE[variant.dtype]
    warpgroups = max(1.0, facts.blocks_per_multiprocessor * facts.tile.warps / 4)
    return PAIRS * (max(issue, special) + tensor / warpgroups)


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
    words += ["dtemperature"] if variant.temperature else []
    words += ["ieee"] if variant.precision == "ieee" else ["tf32"] if variant.dtype == "fp32" else []
    return ", ".join(words)


def rows() -> list[str]:
    """The table in Markdown: one row per variant, compiled for sm_90; registers and spills for all three."""
    lines = [
        "| kernel | dtype | D | options | tile (rows x columns, warps, stages) | registers sm_80 / 90 / 100 | spills"
        " | shared KB | blocks per SM | products per pair | special ops per pair | instructions per pair | predicted ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        facts = {capability: compile_variant(variant, capability) for capability in CAPABILITIES}
        hopper = facts[90]
        stores = [" STL" in f.sass or " LDL" in f.sass for f in facts.values()]
        tile = hopper.tile
        seconds = predicted_seconds(hopper)
        lines.append(
            f"| {variant.kernel} | {variant.dtype} | {variant.D} | {describe(variant)} "
            f"| {tile.block_m} x {tile.block_n}, {tile.warps}, {tile.stages} "
            f"| {' / '.join(str(f.registers) for f in facts.values())} | {'yes' if any(stores) else 'none'} "
            f"| {hopper.shared / 1024:.0f} | {hopper.blocks_per_multiprocessor} | {variant.products} "
            f"| {hopper.main.special:.2f} | {hopper.main.instructions:.1f} | {seconds * 1e3:.1f} |"
        )
    return lines


def shares() -> list[str]:
    """What moving weight exponentials to the special unit does to the forward at D = 64."""
    lines = [
        "| of four weights on the special unit | special ops per pair | instructions per pair | predicted ms |",
        "|---|---|---|---|",
    ]
    for special in (1, 2, 4):
        variant = Variant("forward")
        facts = compile_variant(replace(variant, tile=replace(variant.chosen_tile(90), special=special)), 90)
        seconds = predicted_seconds(facts)
        lines.append(f"| {special} | {facts.main.special:.2f} | {facts.main.instructions:.1f} | {seconds * 1e3:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown page with the two markers")
    page = parser.parse_args().page
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page}: expected the markers {BEGIN} and {END}")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text("\n".join([head + BEGIN, "", *rows(), "", *shares(), "", END + tail]))


if __name__ == "__main__":
    main()
