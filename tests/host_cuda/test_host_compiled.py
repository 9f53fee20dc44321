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
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Kernel]]:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc to compile the kernels with")
    if sass.tool("cuobjdump") is None or sass.tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm (CUDA toolkit or Triton's wheel) to read them with")
    folder: Path = tmp_path_factory.mktemp("cubin")
    architectures = ["90a" if source == "kernels_sm90a" else "80" for source in SOURCES]
    with ThreadPoolExecutor(max_workers=2) as pool:
        cubins = list(pool.map(lambda source, name: sass.compile_cubin(source, name, folder), SOURCES, architectures))
    return {source: sass.read_cubin(cubin) for source, cubin in zip(SOURCES, cubins, strict=True)}


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_have_no_spills(compiled: dict[str, list[Kernel]], source: str) -> None:
    """4 forward and 6 backward kernels an element type, none with local memory."""
    kernels = compiled[source]
    assert len(kernels) == (20 if source == "kernels_sm90a" else 10)  # the last holds two element types
    for kernel in kernels:
        assert (kernel.stack, kernel.local) == (0, 0), kernel.name
        assert not any(op.startswith(("LDL", "STL")) for op in kernel.instructions), kernel.name


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_use_tensor_cores_and_wide_loads(compiled: dict[str, list[Kernel]], source: str) -> None:
    kind = {"kernels_float": "HMMA.1688.F32.TF32", "kernels_sm90a": "HGMMA.64x64x16.F32"}.get(source, "HMMA.16816.F32")
    for kernel in compiled[source]:
        assert any(op.startswith(kind) for op in kernel.instructions), kernel.name
        assert any(op.startswith("LDGSTS.E.BYPASS.128") for op in kernel.instructions), kernel.name
        if kind == "HMMA.16816.F32":
            assert any(op.startswith("LDSM.16.M88.4") for op in kernel.instructions), kernel.name


@pytest.mark.parametrize("source", SOURCES)
def test_no_double_precision(compiled: dict[str, list[Kernel]], source: str) -> None:
    for kernel in compiled[source]:
        assert not any(op.startswith(("DADD", "DMUL", "DFMA", "F2F.F64")) for op in kernel.instructions), kernel.name


def test_exponential_budget(compiled: dict[str, list[Kernel]]) -> None:
    """At most 1.25 operations per pair on the exp unit in the default form, forward and backward."""
    seen = 0
    for source, kernels in compiled.items():
        for kernel in kernels:
            if kernel.fixed:
                assert kernel.loop, f"{kernel.name}: no main loop found"
                per_pair = kernel.per_pair("MUFU", sass.PAIRS_PER_THREAD[source.removeprefix("kernels_")] * kernel.row_tiles)
                assert 1.0 <= per_pair <= 1.25, f"{kernel.name}: {per_pair}"
                seen += 1
    assert seen == 25
