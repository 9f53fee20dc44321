"""Every class of kernel variant, compiled for sm_80, sm_90 and sm_100 without a GPU: what the machine code says.

The quick run compiles three variants, the slow one ``variants.sample``. LAPAROFLOW_TRITON_EXHAUSTIVE=1 compiles
``variants.every`` (a few hours on one core; ``-k`` picks by the names of the options).
"""

import itertools
import os
import re
from dataclasses import replace

import pytest

from laparoflow_kernels.backends.triton import tiles
from tests.triton import variants
from tests.triton.compiled import Facts, Variant, compile_variant

EXHAUSTIVE = os.environ.get("LAPAROFLOW_TRITON_EXHAUSTIVE", "0") == "1"
CASES = variants.every() if EXHAUSTIVE else variants.sample()
PLAIN = Variant("forward")
QUICK = [(PLAIN, 90), (Variant("backward"), 90), (Variant("backward", "fp32", terms="other"), 80)]


def name(case: tuple[Variant, int]) -> str:
    variant, capability = case
    words = [f"sm_{capability}", variant.kernel, variant.dtype, f"D{variant.D}"]
    for option in ("precision", "F", "flow_kernel", "positives", "negatives", "scope", "terms"):
        if getattr(variant, option) != getattr(PLAIN, option):
            words.append(f"{option}_{getattr(variant, option)}".replace("flow_kernel_", ""))
    v = variant
    said = dict(running=not v.bounded, masked=v.masked, stats=v.weight_stats, grouped=v.grouped, dtemperature=v.temperature)
    return "-".join(words + [word for word, yes in said.items() if yes])


def special_bound(variant: Variant, capability: int) -> float:
    """Most special-unit operations per pair of a variant's main loop, by what its formula needs.

    One exponential of the logit (two where "inside" has a running maximum of its own; both again for the terms of the
    other side), and for the weight one (gaussian), that and its square root (laplace), one reciprocal and, in the
    statistics, one logarithm (cauchy), or nothing (tophat). A running maximum ("inside" has two) rescales each
    row once per tile: at most one more per pair in the narrowest tiles.
    """
    sides = 2 if variant.terms == "both" and not variant.bounded else 1
    softmax = 1.0 if variant.bounded else sides * (2.0 if variant.positives == "inside" else 1.0)
    if variant.kernel == "weighted_sum":
        softmax = 0.0
    weight = {"gaussian": 1.0, "laplace": 2.0, "cauchy": 2.0, "tophat": 0.0}[variant.flow_kernel]
    running = 0.0 if variant.bounded or variant.kernel == "backward" else 2.0 if variant.positives == "inside" else 1.0
    return softmax + weight + running


@pytest.mark.parametrize(
    "case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in QUICK)], ids=name
)
def test_machine_code(case: tuple[Variant, int]) -> None:
    variant, capability = case
    facts = compile_variant(variant, capability)
    assert_no_spill(facts)
    assert facts.blocks_per_multiprocessor > 0, f"{facts.shared} bytes of shared memory do not fit"
    assert ".f64" not in facts.ptx, "a float64 instruction in the PTX"
    assert not re.search(r"\bD(ADD|MUL|FMA|SETP|MNMX)\b|\bMUFU\S*64", facts.sass), "a float64 instruction in the SASS"
    half = variant.dtype in ("bf16", "fp16") and variant.products > 0
    if half:
        expected = {80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma"}[tiles.generation(capability)]
        assert expected in facts.ptx, f"no {expected} in the PTX for sm_{capability}"
    if variant.products:
        found = facts.main.special
        assert found <= special_bound(variant, capability), f"{found} special-unit operations per pair"


def test_the_sample_has_every_value_on_every_architecture_and_every_pair_of_values() -> None:
    cases = variants.covering()
    for capability, (dtype, precision) in itertools.product(variants.CAPABILITIES, variants.DTYPES):
        here = [v for v, c in cases if (v.dtype, v.precision, c) == (dtype, precision, capability)]
        assert set().union(*(variants.features(v) for v in here)) == variants.VALUES, (dtype, precision, capability)
    together = set().union(*(itertools.permutations(variants.features(v), 2) for v, _ in cases))
    pairs = itertools.permutations(variants.VALUES, 2)
    possible = {(a, b) for a, b in pairs if a[0] != b[0] and variants.possible(dict([a, b]))}
    assert together == possible, f"{len(possible - together) // 2} pairs of values never meet"


def assert_no_spill(facts: Facts) -> None:
    """Spills store registers to the stack and load them again."""
    assert not facts.spills, f"{facts.spills} stack accesses, {facts.stack} bytes, {facts.registers} registers"


def test_the_gaussian_forward_takes_two_special_operations_per_pair() -> None:
    for capability in variants.CAPABILITIES:
        assert compile_variant(PLAIN, capability).main.special == 2, capability


@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_the_entropy_that_nobody_reads_costs_nothing(positives: str) -> None:
    """Its sum is an operation a pair, and with the sum it has to be scaled for, up to two."""
    asked, not_asked = (compile_variant(Variant("forward", positives=positives, weight_stats=x), 90) for x in (True, False))
    assert asked.tile == not_asked.tile and asked.main.instructions - not_asked.main.instructions > 0.75


def test_a_tile_that_is_too_large_is_seen_to_spill() -> None:
    """The check can fail: a tile far over the register budget."""
    large = replace(PLAIN.default_tile(90), block_n=256)
    facts = compile_variant(replace(PLAIN, tile=large), 90)
    with pytest.raises(AssertionError, match="stack accesses"):
        assert_no_spill(facts)


def test_another_number_of_rows_needs_no_other_kernel() -> None:
    """Sizes of a problem are run-time arguments, so a new N compiles and tunes nothing."""
    from tests.triton.compiled import KERNELS

    for kernel in KERNELS.values():
        constants = {kernel.arg_names[index] for index in kernel.constexprs}
        assert not constants & {"total_query", "total_key", "total_own", "total_other", "total", "splits"}
