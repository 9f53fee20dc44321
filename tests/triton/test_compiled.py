"""Every class of kernel variant, compiled for sm_80, sm_90 and sm_100 without a GPU: what the machine code says.

The default run compiles a covering set; LAPAROFLOW_TRITON_EXHAUSTIVE=1 compiles every combination of the options that
share a code path (several hundred variants, about half an hour on one core).
"""

import itertools
import os
import re
from dataclasses import replace
from typing import Any

import pytest

from laparoflow_kernels.backends.triton.compiled import Facts, Variant, compile_variant

CAPABILITIES = (80, 90, 100)
EXHAUSTIVE = os.environ.get("LAPAROFLOW_TRITON_EXHAUSTIVE", "0") == "1"

PLAIN = Variant("forward")
EVERYTHING: dict[str, Any] = dict(positives="inside", negatives="dissimilar", scope="batch", masked=True)
COVERING = (
    PLAIN,
    Variant("forward", dtype="fp16", D=200, F=3, bounded=False, **EVERYTHING),
    Variant("forward", dtype="fp32", precision="ieee", flow_kernel="laplace"),
    Variant("forward", dtype="fp32", D=128, flow_kernel="tophat"),
    Variant("symmetric", D=96, **EVERYTHING),
    Variant("backward"),
    Variant("backward", dtype="fp16", terms="both", bounded=False, temperature=True, **EVERYTHING),
    Variant("backward", D=256, terms="other"),
    Variant("backward", dtype="fp32", D=128, flow_kernel="cauchy", terms="other"),
    Variant("backward", dtype="fp32", precision="ieee", D=48, F=8),
    Variant("weighted_sum", dtype="fp32", precision="ieee"),
    Variant("finish", positives="inside", bounded=False, masked=True),
    Variant("coefficients", positives="inside"),
)


def exhaustive() -> list[Variant]:
    variants = []
    for dtype, precision in (("bf16", "tf32"), ("fp16", "tf32"), ("fp32", "tf32"), ("fp32", "ieee")):
        for width, kernel, flow_kernel, positives, bounded in itertools.product(
            (64, 96, 128, 256), ("forward", "symmetric", "backward"), ("gaussian", "cauchy"), ("outside", "inside"),
            (True, False),
        ):  # fmt: skip
            if kernel == "symmetric" and not bounded:
                continue
            for options in ({}, dict(negatives="dissimilar", scope="batch", masked=True, temperature=True, terms="both")):
                variants.append(
                    Variant(
                        kernel, dtype, width, flow_kernel=flow_kernel, positives=positives, bounded=bounded,
                        precision=precision, **options,
                    )
                )  # fmt: skip
    return variants


def name(variant: Variant) -> str:
    differs = [str(getattr(variant, f)) for f in variant.__dataclass_fields__ if getattr(variant, f) != getattr(PLAIN, f)]
    return "-".join(differs) or "plain"


def special_bound(variant: Variant) -> float:
    """Most special-unit operations per pair of a variant's main loop, by what its formula needs.

    One exponential of the logit (two where "inside" has a running maximum of its own; both again for the terms of the
    other side), and for the weight a quarter (gaussian, laplace and its square root: one more), one reciprocal and, in
    the statistics, one logarithm (cauchy), or nothing (tophat). A running maximum rescales each row once per tile: at most
    one more per pair in the narrowest tiles.
    """
    sides = 2 if variant.terms == "both" and not variant.bounded else 1
    softmax = 1.0 if variant.bounded else sides * (2.0 if variant.positives == "inside" else 1.0)
    if variant.kernel == "weighted_sum":
        softmax = 0.0
    weight = {"gaussian": 0.25, "laplace": 1.25, "cauchy": 2.0, "tophat": 0.0}[variant.flow_kernel]
    running = 0.0 if variant.bounded or variant.kernel == "backward" else 1.0
    return softmax + weight + running


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("variant", exhaustive() if EXHAUSTIVE else COVERING, ids=name)
def test_machine_code(variant: Variant, capability: int) -> None:
    facts = compile_variant(variant, capability)
    assert_no_spill(facts)
    assert ".f64" not in facts.ptx, "a float64 instruction in the PTX"
    assert not re.search(r"\bD(ADD|MUL|FMA|SETP|MNMX)\b|\bMUFU\S*64", facts.sass), "a float64 instruction in the SASS"
    half = variant.dtype in ("bf16", "fp16") and variant.products > 0
    if half:
        expected = {80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma"}[capability]
        assert expected in facts.ptx, f"no {expected} in the PTX for sm_{capability}"
    if variant.products:
        assert facts.main.special <= special_bound(variant), f"{facts.main.special} special-unit operations per pair"


def assert_no_spill(facts: Facts) -> None:
    """Spills store registers to the stack and load them again."""
    spilled = re.findall(r"\b(?:STL|LDL)\S*", facts.sass)
    assert not spilled, f"{len(spilled)} stack accesses, {facts.stack} bytes, {facts.registers} registers"


def test_the_gaussian_forward_takes_at_most_one_and_a_quarter_special_operations_per_pair() -> None:
    assert compile_variant(PLAIN, 90).main.special == 1.25


def test_a_tile_that_is_too_large_is_seen_to_spill() -> None:
    """The check can fail: a tile far over the register budget."""
    large = replace(PLAIN.chosen_tile(90), block_n=256)
    facts = compile_variant(replace(PLAIN, tile=large), 90)
    with pytest.raises(AssertionError, match="stack accesses"):
        assert_no_spill(facts)


def test_another_number_of_rows_needs_no_other_kernel() -> None:
    """Sizes of a problem are run-time arguments, so a new N compiles and tunes nothing."""
    from laparoflow_kernels.backends.triton.compiled import KERNELS

    for kernel in KERNELS.values():
        constants = {kernel.arg_names[index] for index in kernel.constexprs}
        assert not constants & {"total_query", "total_key", "total_own", "total_other", "total", "slots", "splits"}
