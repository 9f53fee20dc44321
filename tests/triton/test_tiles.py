"""Availability with its reason, and the choice of tiles: the default, or the first of its retreats that fits."""

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
from triton.runtime.errors import OutOfResources

from laparoflow_kernels.backends import choose_backend, native, reference, triton_backend
from laparoflow_kernels.backends.triton import availability, launch, tiles
from laparoflow_kernels.backends.triton.tiles import Tile

pytestmark = pytest.mark.filterwarnings("ignore")


DEFAULT = tiles.default_tile("forward", "half", 64, 90, False)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tiles._settled.clear()
    yield
    tiles._settled.clear()


class Spilling:
    """Says that every tile of more than ``fits`` pairs spills, and counts how often it was asked."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.asked: list[Tile] = []

    def __call__(self, tile: Tile) -> float:
        self.asked.append(tile)
        return float(tile.block_m * tile.block_n > self.fits)


def choose(spills: Spilling, options: str = "F=2") -> Tile:
    return tiles.choose("forward", (options,), DEFAULT, torch.device("cuda"), spills)


@pytest.mark.usefixtures("fake_gpu")
def test_a_default_that_spills_gives_way_once_and_for_all() -> None:
    enough = Spilling(DEFAULT.block_m * DEFAULT.block_n)
    assert choose(enough) == DEFAULT and enough.asked == [DEFAULT]
    tight = Spilling(2048)
    found = choose(tight, "F=8")
    assert found.block_m * found.block_n <= 2048 and found == tight.asked[-1]
    count = len(tight.asked)
    assert choose(tight, "F=8") == found and len(tight.asked) == count
    assert choose(Spilling(0), "F=7") == DEFAULT, "nothing fits: the default is as good as any"


@pytest.mark.usefixtures("fake_gpu")
def test_nothing_is_tried_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    spills = Spilling(0)
    assert choose(spills) == DEFAULT and not spills.asked


@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("precision", ["half", "tf32", "ieee"])
def test_retreats_hold_fewer_rows_and_end_with_the_smallest_tile(capability: int, precision: str) -> None:
    for kind, heavy in (("forward", True), ("forward", False), ("backward", True)):
        for width in (64, 128, 256):
            first = tiles.default_tile(kind, precision, width, capability, heavy)
            tried = [first, *tiles.retreats(first, capability)]
            assert len(set(tried)) == len(tried)
            assert all(t.block_m <= first.block_m for t in tried)
            pairs = {t: t.block_m * t.block_n for t in tried}
            assert all(pairs[t] <= pairs[first] or pairs[t] / t.warps <= pairs[first] / first.warps for t in tried)
            assert all(t.block_n >= 8 * t.warps for t in tried[:-2] if t.block_m < 32)
            assert tried[-1] == Tile(16, 16, 4, 1)


def test_a_generation_is_named_by_its_tensor_core_instructions() -> None:
    served = {c: tiles.generation(c) for c in (0, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)}
    assert served == {0: 0, 80: 80, 86: 80, 87: 80, 89: 80, 90: 90, 100: 100, 103: 100, 110: 100, 120: 80, 121: 80}
    for kind, heavy, width in (("forward", False, 256), ("backward", True, 128)):
        ampere, blackwell = (tiles.default_tile(kind, "half", width, c, heavy) for c in (80, 120))
        assert ampere == blackwell


def test_where_nothing_fits_the_least_misfit_is_taken() -> None:
    default = tiles.default_tile("backward", "half", 256, 90, True)
    least = tiles.retreats(default, 90)[1]
    assert tiles.fitting(default, 90, lambda tile: 1.0 if tile == least else 2.0) == least


class Machine:
    """Launches of a GPU with room for so many pairs in a block; a larger tile raises as Triton does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.launched: list[Tile] = []

    def __call__(self, tile: Tile) -> tuple[SimpleNamespace, None]:
        if tile.block_m * tile.block_n > self.room:
            raise OutOfResources(tile.block_m * tile.block_n, self.room, "shared memory")
        self.launched.append(tile)
        return SimpleNamespace(n_spills=0), None


@pytest.mark.usefixtures("fake_gpu")
def test_a_tile_without_room_in_shared_memory_gives_way() -> None:
    query = SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cuda"))
    constants = dict(D=64, BLOCK_D=64, PRECISION="tf32", F=2)
    small, large = Machine(1024), Machine(128 * 64)
    tile = launch.pick("forward", query, constants, small)
    assert tile.block_m * tile.block_n <= 1024 and small.launched == [tile]
    assert launch.pick("forward", query, dict(constants, F=3), large) == DEFAULT
    ragged = Machine(1024)
    launch.pick("forward", query, dict(constants, D=63), ragged)
    assert ragged.launched, "rows of another D are loaded otherwise: what fits one need not fit the other"


def test_reasons_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert "TRITON_INTERPRET=1" in availability.unavailable(cpu, torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert availability.unavailable(cuda, torch.float32) == "torch sees no CUDA device"
    monkeypatch.setattr(availability, "triton_version", lambda: "3.5.1")
    assert "at least 3.6" in availability.unavailable(cuda, torch.float32)
    monkeypatch.setattr(availability, "triton_version", lambda: None)
    assert "not installed" in availability.unavailable(cuda, torch.float32)


def test_reasons_by_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "an old GPU")
    capability = [(7, 5)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability[0])
    cuda = torch.device("cuda")
    assert "sm_75, at least sm_80" in availability.unavailable(cuda, torch.float32)
    capability[0] = (9, 0)
    assert availability.unavailable(cuda, torch.bfloat16) is None
    assert "float64" in availability.unavailable(cuda, torch.float64)
    assert "int32" in availability.unavailable(cuda, torch.int32)


@pytest.mark.parametrize(
    ("dim", "dtype", "chosen"),
    [
        (256, torch.bfloat16, native), (257, torch.bfloat16, triton_backend), (1024, torch.float32, triton_backend),
        (1025, torch.float32, reference), (64, torch.float64, reference),
    ],
)  # fmt: skip
def test_rows_of_a_vit_on_a_gpu_are_not_held_densely(
    monkeypatch: pytest.MonkeyPatch, dim: int, dtype: torch.dtype, chosen: ModuleType
) -> None:
    """The CUDA kernels end at D = 256; what is wider goes to Triton and not to the matrix of all pairs."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(native, "build_facts", lambda: {"cuda": "13.0", "cuda_architectures": "9.0a"})
    assert choose_backend("auto", torch.device("cuda"), dtype, dim) is chosen


def test_importing_the_package_does_not_import_triton() -> None:
    """Nor the kernels: what torch itself imports is not counted."""
    code = (
        "import sys, torch; before = set(sys.modules); import laparoflow_kernels;"
        "new = {m for m in set(sys.modules) - before if m.split('.')[0] == 'triton' or m.endswith('_kernels.launch')};"
        "assert not new, sorted(new)[:5]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
