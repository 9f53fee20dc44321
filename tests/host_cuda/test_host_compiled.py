"""The CUDA sources compile for sm_80 and sm_90a, and what the compiler made of them is what was meant."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host_sass as sass
import pytest
from host_sass import Kernel

SOURCES = ("kernels_bfloat16", "kernels_half", "kernels_float", "kernels_sm90a")


@pytest.fixture(scope="module")
def cubins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc to compile the kernels with")
    folder: Path = tmp_path_factory.mktemp("cubin")
    architectures = ["90a" if source == "kernels_sm90a" else "80" for source in SOURCES]
    with ThreadPoolExecutor(max_workers=2) as pool:
        built = list(pool.map(lambda source, name: sass.compile_cubin(source, name, folder), SOURCES, architectures))
    return dict(zip(SOURCES, built, strict=True))


@pytest.fixture(scope="module")
def compiled(cubins: dict[str, Path]) -> dict[str, list[Kernel]]:
    if sass.tool("cuobjdump") is None or sass.tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm (CUDA toolkit or Triton's wheel) to read them with")
    return {source: sass.read_cubin(cubin) for source, cubin in cubins.items()}


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_have_no_spills(compiled: dict[str, list[Kernel]], source: str) -> None:
    """Forward, backward, records and rounding of each element type, none with local memory."""
    kernels = compiled[source]
    forward, backward = ([k for k in kernels if part(k)] for part in (lambda k: k.forward, lambda k: k.backward))
    types = 2 if source == "kernels_sm90a" else 1
    assert len(forward) == 4 * types
    # the default form for row, column and both terms and the general form, at 3 (sm_90a: 4) depths; one pass at 2
    assert len(backward) == {"kernels_float": 12, "kernels_sm90a": 2 * (16 + 6)}.get(source, 12 + 6)
    for kernel in kernels:
        assert (kernel.stack, kernel.local) == (0, 0), kernel.name
        assert not any(op.startswith(("LDL", "STL")) for op in kernel.instructions), kernel.name


def is_product(kernel: Kernel) -> bool:
    return kernel.forward or kernel.backward


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_use_tensor_cores_and_wide_loads(compiled: dict[str, list[Kernel]], source: str) -> None:
    kind = {"kernels_float": "HMMA.1688.F32.TF32", "kernels_sm90a": "HGMMA.64x64x16.F32"}.get(source, "HMMA.16816.F32")
    for kernel in filter(is_product, compiled[source]):
        has = lambda start, kernel=kernel: any(op.startswith(start) for op in kernel.instructions)
        assert has(kind), kernel.name
        assert has("UBLKCP" if kernel.warpgroup else "LDGSTS.E.BYPASS.128"), kernel.name
        if kernel.warpgroup:  # the producer's registers go to the others; mbarriers; no copies by the threads
            assert has("USETMAXREG"), kernel.name
            assert has("SYNCS"), kernel.name
            assert not has("LDGSTS"), kernel.name
        elif kind == "HMMA.16816.F32":
            assert has("LDSM.16.M88.4"), kernel.name
        assert has("RED") == kernel.one_pass, kernel.name
        assert not has("ATOM"), kernel.name


def test_warpgroup_products_are_not_made_to_wait(cubins: dict[str, Path]) -> None:
    """The compiler makes wgmma wait for each other, with a note, when it cannot follow their registers."""
    notes = cubins["kernels_sm90a"].with_suffix(".notes").read_text()
    assert "Used" in notes
    assert "serialized" not in notes


@pytest.mark.parametrize("source", SOURCES)
def test_no_double_precision(compiled: dict[str, list[Kernel]], source: str) -> None:
    for kernel in compiled[source]:
        assert not any(op.startswith(("DADD", "DMUL", "DFMA", "F2F.F64")) for op in kernel.instructions), kernel.name


def test_exponential_budget(compiled: dict[str, list[Kernel]]) -> None:
    """At most 1.25 operations per pair on the exp unit in the default form, forward and backward."""
    seen = 0
    for source, kernels in compiled.items():
        for kernel in kernels:
            if kernel.fixed and is_product(kernel):
                assert kernel.loop, f"{kernel.name}: no main loop found"
                per_pair = kernel.per_pair("MUFU", sass.PAIRS_PER_THREAD[source.removeprefix("kernels_")] * kernel.row_tiles)
                assert 1.0 <= per_pair <= 1.25, f"{kernel.name}: {per_pair}"
                seen += 1
    assert seen == 2 * (2 + 9 + 4) + (2 + 9) + 2 * (2 + 12 + 4)
