"""Every kernel in the built extension, for every architecture in it: what the compiler made of it is what was meant.

The same is asked of single source files, compiled here (marked slow): of the sm_90a path, together with what the assembler
has to say of it, and of the sm_80 path for Blackwell, whose machine code the extension holds only in a wheel.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import host_sass as sass
import pytest
from host_sass import Kernel


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Kernel]]:
    """(architecture, kernel) of all that the extension holds."""
    spec = importlib.util.find_spec("laparoflow_kernels._C")
    if spec is None or spec.origin is None:
        pytest.skip("the extension was not built")
    facts = Path(spec.origin).with_name("_C.json")
    if not facts.exists() or json.loads(facts.read_text())["cuda"] is None:
        pytest.skip("the extension was built without CUDA")
    if sass.tool("cuobjdump") is None or sass.tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm (CUDA toolkit or Triton's wheel) to read it with")
    files = sass.read_library(Path(spec.origin), tmp_path_factory.mktemp("cubin"))
    return [(architecture, kernel) for architecture, kernels in files for kernel in kernels]


COMPILED = [("kernels_sm90a_bfloat16", "90a"), ("kernels_sm80_bfloat16", "100"), ("kernels_sm80_bfloat16", "120")]


@pytest.fixture(
    scope="module",
    params=["extension", *(pytest.param(unit, marks=pytest.mark.slow, id="-".join(unit)) for unit in COMPILED)],
)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Kernel]]:
    """(architecture, kernel) of all that the extension holds, or of one source file."""
    if request.param == "extension":
        return request.getfixturevalue("extension")
    source, architecture = request.param
    missing = [name for name in ("nvcc", "cuobjdump", "nvdisasm") if sass.tool(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} (CUDA toolkit) to compile {source}.cu with")
    cubin = sass.compile_cubin(source, architecture, tmp_path_factory.mktemp("cubin"))
    # C75xx: the assembler cannot follow the registers of wgmma, and puts in waits and arrivals of its own.
    noted = [line for line in cubin.with_suffix(".notes").read_text().splitlines() if "(C75" in line]
    assert not noted, noted
    return [(f"sm_{architecture}", kernel) for kernel in sass.read_cubin(cubin)]


def is_product(kernel: Kernel) -> bool:
    return kernel.forward or kernel.backward


def test_all_kernels_are_there(extension: list[tuple[str, Kernel]]) -> None:
    """Of each architecture: forward and backward of each engine and form, and the small kernels."""
    for architecture in {name for name, _ in extension}:
        kernels = [kernel for name, kernel in extension if name == architecture]
        engines = Counter(kernel.engine for kernel in kernels if is_product(kernel))
        assert len(engines) == 5, engines
        for engine, count in engines.items():
            # Forwards: the default form with the weights' statistics, the general one and that of pixels with groups,
            # symmetric or not, and the default form without, not symmetric; on sm_90a the default form with and without,
            # positives outside and inside, and the general one, for each depth. Backwards, of each depth: the default forms
            # for row, column and both terms, and the general forms; in one pass, at two depths, without column terms alone.
            if "Warpgroup" in engine:
                expected = (2 * 2 + 1) * 4 + 4 * (2 * 3 + 1) + 2 * (2 * 2 + 1)
            else:
                expected = 2 * 3 + 1 + 3 * 5 + (0 if engine == "EngineFloat" else 2 * 4)
            assert count == expected, (architecture, engine)
        for name in ("merge", "scale", "coefficient", "weighted_sum"):
            assert any(f"{name}_kernel" in kernel.name for kernel in kernels), (architecture, name)
        assert sum("record_kernel" in kernel.name for kernel in kernels) == 2
        assert sum("finish_kernel" in kernel.name for kernel in kernels) == 5


# One kernel has two addresses in memory, which it reads once a tile: on sm_100, of the 16-bit types, the general form in two
# passes of up to 64 channels.
TWO_ADDRESSES = ("sm_100", r"15backward_kernelINS0_10EngineHalf.*ELi2ELi8ENS0_14RunTimeOptionsILb0EEELNS0_5TermsE0ELb0E")


def test_no_spills_and_no_double_precision(library: list[tuple[str, Kernel]]) -> None:
    for architecture, kernel in library:
        where = f"{architecture} {kernel.name}"
        exempt = architecture == TWO_ADDRESSES[0] and re.search(TWO_ADDRESSES[1], kernel.name) is not None
        assert kernel.local == 0, where
        assert kernel.stack == (8 if exempt else 0), where
        for op in ("LDL", "STL"):
            count = sum(n for name, n in kernel.instructions.items() if name.startswith(op))
            assert count == (2 if exempt else 0), where
        assert not any(kernel.has(op) for op in ("DADD", "DMUL", "DFMA", "F2F.F64")), where


def test_tensor_cores_and_wide_loads(library: list[tuple[str, Kernel]]) -> None:
    seen = 0
    for architecture, kernel in library:
        if not is_product(kernel) or (kernel.warpgroup and architecture != "sm_90a"):
            continue  # elsewhere the warpgroup's kernels only stop
        seen += 1
        where = f"{architecture} {kernel.name}"
        if kernel.warpgroup:  # bulk copies, mbarriers, the producer's registers for the others, no copies by the threads
            ops = ["HGMMA.64x64x16.F32", "UBLKCP", "USETMAXREG", "SYNCS"]
            for op in ops + ["STSM.16.M88.4"] * kernel.one_pass:
                assert kernel.has(op), f"{where}: no {op}"
            assert not kernel.has("LDGSTS"), where
            assert not kernel.has("HMMA"), where
        elif kernel.engine == "EngineFloat":
            assert kernel.has("HMMA.1688.F32.TF32"), where
            assert kernel.has("LDGSTS.E.BYPASS.128"), where
        else:
            for op in ("HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"):
                assert kernel.has(op), f"{where}: no {op}"
        assert kernel.has("RED") == kernel.one_pass, where
        assert not kernel.has("ATOM"), where
    assert seen > 0


def test_sums_and_records_move_in_whole_lines(library: list[tuple[str, Kernel]]) -> None:
    """Four numbers at once, where the architecture can add them; records are written in pieces of 16 bytes."""
    for architecture, kernel in library:
        here = not kernel.warpgroup or architecture == "sm_90a"
        if int(re.sub(r"\D", "", architecture)) >= 90 and kernel.one_pass and here:
            assert kernel.has("REDG.E.ADD.F32x4"), kernel.name
        if "record_kernel" in kernel.name:
            assert kernel.has("STG.E.128"), kernel.name


def test_warpgroup_products_are_not_made_to_wait(library: list[tuple[str, Kernel]]) -> None:
    """The compiler makes wgmma wait for each other, one by one, when it cannot follow their registers."""
    for architecture, kernel in library:
        if kernel.warpgroup and is_product(kernel) and architecture == "sm_90a":
            count = lambda start, kernel=kernel: sum(n for op, n in kernel.instructions.items() if op.startswith(start))
            assert count("HGMMA.64x64x16") >= 2 * count("WARPGROUP.DEPBAR"), kernel.name


def test_the_other_architectures_hold_no_code_of_the_warpgroups(library: list[tuple[str, Kernel]]) -> None:
    """Their kernels stop at once; where there is code, its waits are those of try_wait alone."""
    for architecture, kernel in library:
        if kernel.warpgroup and is_product(kernel):
            assert not kernel.has("NANOSLEEP"), kernel.name
            assert architecture == "sm_90a" or kernel.instructions.total() <= 32, f"{architecture} {kernel.name}"


def test_registers_of_the_warpgroups(library: list[tuple[str, Kernel]]) -> None:
    """A block starts with what its launch bounds allow; the kernels move those registers and no more."""
    for architecture, kernel in library:
        if kernel.warpgroup and is_product(kernel) and architecture == "sm_90a":
            assert kernel.registers == {16: 96, 12: 128, 8: 168}[sass.warps_of(kernel)], kernel.name


def test_exponential_budget(library: list[tuple[str, Kernel]]) -> None:
    """Operations on the exp unit per pair of the default form: at most 1.25 on the sm_80 path, where three of four e^s take
    the polynomial; two on the sm_90a path, where an H200 was the faster for it (notes/2026-11-26-cuda-kernels.md)."""
    seen = 0
    for architecture, kernel in library:
        if kernel.fixed and is_product(kernel) and not (kernel.warpgroup and architecture != "sm_90a"):
            assert kernel.loop, f"{architecture} {kernel.name}: no main loop found"
            per_pair = kernel.per_pair("MUFU")
            least, most = (2.0, 2.1) if kernel.warpgroup else (1.0, 1.25)
            if kernel.inside and kernel.symmetric:  # w e^s, in place of w, for the terms of either side
                most = 3.0
            assert least <= per_pair <= most, f"{architecture} {kernel.name}: {per_pair}"
            seen += 1
    assert seen > 0


def test_weights_of_factors_take_no_arithmetic(library: list[tuple[str, Kernel]]) -> None:
    """On the sm_90a path a pair takes 7 instructions in the forward: two exponentials, a scaling, three sums, and a bit;
    with the statistics that no loss needs one more, inside two; and inside some more once a tile."""
    seen = 0
    for architecture, kernel in library:
        if kernel.warpgroup and kernel.fixed and kernel.forward and architecture == "sm_90a":
            most = (8 if kernel.inside else 7) + (kernel.inside + 1) * kernel.weight_stats
            assert sum(kernel.loop.once.values()) / kernel.pairs <= most, kernel.name
            seen += 1
    assert seen == 16 * len({kernel.engine for name, kernel in library if kernel.warpgroup and name == "sm_90a"})


def test_coefficients_in_the_exponent_take_no_multiplication(library: list[tuple[str, Kernel]]) -> None:
    """On the sm_90a path, in one direction, a pair of the backward has four operations: two exponentials, what is under the
    first, and their sum. Inside in one pass alone, where the second exponent takes more."""
    seen = 0
    for architecture, kernel in library:
        folded = not kernel.symmetric and (kernel.one_pass or not kernel.inside)
        if kernel.warpgroup and kernel.fixed and kernel.backward and folded and architecture == "sm_90a":
            assert kernel.per_pair("FMUL") == 0, kernel.name
            assert kernel.inside or kernel.per_pair("FFMA") == 2, kernel.name
            seen += 1
    assert seen == 12 * len({kernel.engine for name, kernel in library if kernel.warpgroup and name == "sm_90a"})
