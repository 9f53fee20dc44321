"""Which compile-time variants of the kernels the tests of the machine code build.

``covering``, the core of ``sample``, has, on every architecture and for every dtype, each value of each option at least
once; of the variants that would do, it takes the one that brings most pairs of option values together for the first time.
``every`` is each combination of the options that share a code path: all dtypes and widths, with the options that add code
all off or all on.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.triton.compiled import Variant

CAPABILITIES = (80, 90, 100)
CONSUMER = (89, 120)
DTYPES = (("bf16", "tf32"), ("fp16", "tf32"), ("fp32", "tf32"), ("fp32", "ieee"))  # of inputs, of float32 products
PAIR_KERNELS = ("forward", "backward")
CHOICES: dict[str, tuple[Any, ...]] = dict(
    kernel=PAIR_KERNELS, D=(31, 64, 128, 200, 256), F=(1, 2, 3, 8), flow_kernel=("gaussian", "laplace", "cauchy", "tophat"),
    positives=("outside", "inside"), negatives=("all", "dissimilar"), scope=("frame", "batch"), bounded=(True, False),
    masked=(True, False), grouped=(True, False), weight_stats=(True, False),
    terms=("own", "other", "both"), temperature=(True, False),
)  # fmt: skip
OF_BACKWARD = ("terms", "temperature")
OF_FORWARD = ("weight_stats",)
DRAWS = 60

EVERYTHING: dict[str, Any] = dict(positives="inside", negatives="dissimilar", scope="batch", bounded=False, terms="both")
WITHOUT_A_TILE = ((Variant("backward", "fp16", 384, F=8, **EVERYTHING), 90),)  # right, but not by wgmma: see notes/

Feature = tuple[str, Any]
VALUES: set[Feature] = {(name, value) for name, choices in CHOICES.items() for value in choices}


def features(variant: Variant) -> set[Feature]:
    """(option, value) for the options that the variant's kernel has."""
    return {(name, getattr(variant, name)) for name in CHOICES if name not in absent(variant.kernel)}


def absent(kernel: str) -> tuple[str, ...]:
    """The options that a kernel does not have."""
    return OF_FORWARD if kernel == "backward" else OF_BACKWARD


def possible(chosen: dict[str, Any]) -> bool:
    """Whether a variant with these values exists."""
    if "kernel" not in chosen:
        return not set(chosen) & set(OF_FORWARD) or not set(chosen) & set(OF_BACKWARD)
    return not set(chosen) & set(absent(chosen["kernel"]))


def drawn(generator: random.Random, dtype: str, precision: str) -> Variant:
    """A random variant that ``launch`` can ask for."""
    chosen = {name: generator.choice(values) for name, values in CHOICES.items()}
    chosen = {name: value for name, value in chosen.items() if name not in absent(chosen["kernel"])}
    return Variant(dtype=dtype, precision=precision, **chosen)


def covering(seed: int = 0) -> list[tuple[Variant, int]]:
    """(variant, compute capability) of the covering set, the same for the same seed."""
    generator = random.Random(seed)
    together: set[tuple[Feature, ...]] = set()

    def pairs(variant: Variant) -> set[tuple[Feature, ...]]:
        return set(itertools.combinations(sorted(features(variant), key=str), 2)) - together

    result = []
    for capability, (dtype, precision) in itertools.product(CAPABILITIES, DTYPES):
        missing = set(VALUES)
        while missing:
            draws = [drawn(generator, dtype, precision) for _ in range(DRAWS)]
            best = max(draws, key=lambda variant: (len(features(variant) & missing), len(pairs(variant))))
            missing -= features(best)
            together |= pairs(best)
            result.append((best, capability))
    # pairs that chance has left out: some options meet on few architectures
    values = sorted(VALUES, key=str)
    wanted = {pair for pair in itertools.combinations(values, 2) if pair[0][0] != pair[1][0] and possible(dict(pair))}
    while wanted - together:
        places = [(generator.choice(DTYPES), generator.choice(CAPABILITIES)) for _ in range(DRAWS)]
        tried = [(drawn(generator, *dtype), capability) for dtype, capability in places]
        best_case = max(tried, key=lambda case: len(pairs(case[0])))
        if pairs(best_case[0]):
            together |= pairs(best_case[0])
            result.append(best_case)
    return result


def sample(seed: int = 0) -> list[tuple[Variant, int]]:
    """What the default run compiles: (variant, compute capability)."""
    return covering(seed) + found_wrong() + at_width(256, CONSUMER) + wide() + list(small_kernels())


def at_width(width: int, capabilities: tuple[int, ...], seed: int = 1) -> list[tuple[Variant, int]]:
    """Variants with rows of one width: on each architecture each dtype once, its kernel now the one and now the other.

    GPUs with 99 KB of shared memory may have no room for a default tile and the widest rows that a program holds.
    """
    generator = random.Random(seed)
    result = []
    for i, capability in enumerate(capabilities):
        for j, (dtype, precision) in enumerate(DTYPES):
            kernel = PAIR_KERNELS[(i + j) % 2]
            draws = (drawn(generator, dtype, precision) for _ in itertools.count())
            result.append((replace(next(v for v in draws if v.kernel == kernel), D=width), capability))
    return result


def wide() -> list[tuple[Variant, int]]:
    """Variants with rows that no program holds: the plain ones and, of two widths, draws of options that find a tile."""
    plain = [(Variant(kernel, D=width), 90) for width in (384, 768) for kernel in PAIR_KERNELS]
    drawn_ones = at_width(384, CAPABILITIES, seed=2) + at_width(1000, (90, CONSUMER[0]), seed=3)
    return plain + [case for case in drawn_ones if case not in WITHOUT_A_TILE]


def found_wrong() -> list[tuple[Variant, int]]:
    """Variants outside the sample that were once found wrong.

    In the first four, whose tiles were small, several warps computed the same pairs; the last two took more registers than
    wgmma's tiles leave.
    """
    everything: dict[str, Any] = dict(negatives="dissimilar", scope="batch", masked=True)
    full: dict[str, Any] = dict(everything, positives="inside", bounded=False, terms="both", temperature=True)
    return [
        (Variant("backward", "fp16", 96, flow_kernel="cauchy", **full), 80),
        (Variant("backward", "fp32", 256, positives="inside", bounded=False, precision="ieee"), 90),
        (Variant("backward", "fp32", 256, flow_kernel="cauchy", **full), 90),
        (Variant("backward", "fp32", 256, **(full | dict(flow_kernel="laplace", F=8))), 89),
        (Variant("backward", "bf16", 256, F=8, flow_kernel="cauchy", temperature=True, **everything), 90),
        (Variant("backward", "bf16", 256, F=8, flow_kernel="cauchy", **full), 90),
    ]


def small_kernels() -> Iterator[tuple[Variant, int]]:
    """The kernels without embeddings, on every architecture."""
    for capability in CAPABILITIES:
        for (_, precision), flow_kernel in zip(DTYPES[2:], ("gaussian", "laplace"), strict=True):
            yield Variant("weighted_sum", dtype="fp32", precision=precision, flow_kernel=flow_kernel), capability
        yield Variant("finish", positives="inside", bounded=False, masked=True), capability
        yield Variant("coefficients", positives="inside"), capability
        yield Variant("operands", F=1 + capability % 20 // 10, masked=True), capability


def every() -> list[tuple[Variant, int]]:
    """Every combination of the options that share a code path, on every architecture."""
    result = []
    for kernel, (dtype, precision), width, flow_kernel, positives, bounded, full, capability in itertools.product(
        PAIR_KERNELS, DTYPES, (64, 96, 128, 256), ("gaussian", "cauchy"), CHOICES["positives"], CHOICES["bounded"],
        (False, True), CAPABILITIES,
    ):  # fmt: skip
        more: dict[str, Any] = dict(negatives="dissimilar", scope="batch", masked=True) if full else {}
        if full and kernel == "backward":
            more |= dict(temperature=True, terms="both")
        variant = Variant(
            kernel, dtype, width, flow_kernel=flow_kernel, positives=positives, bounded=bounded, precision=precision, **more
        )
        result.append((variant, capability))
    return result + at_width(256, CONSUMER) + wide() + list(small_kernels())
