"""Availability with its reason, and the choice of tiles: timed once for a class of sizes, kept on disk."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.errors import OutOfResources

from laparoflow_kernels.backends.triton import availability, launch, tiles
from laparoflow_kernels.backends.triton.tiles import Tile

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setenv("LAPAROFLOW_TRITON_CACHE", str(tmp_path / "cache" / "tiles.json"))
    monkeypatch.delenv("LAPAROFLOW_TRITON_AUTOTUNE", raising=False)
    tiles.forget()
    yield tmp_path / "cache" / "tiles.json"
    tiles.forget()


class Timer:
    """Says that the last candidate is fastest, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tile] = []

    def __call__(self, tile: Tile) -> float:
        self.asked.append(tile)
        return 1.0 / len(self.asked)


def choose(pairs: int, time: Callable[[Tile], float] | None, options: str = "F=2") -> Tile:
    return tiles.choose("forward", options, "half", 64, False, torch.device("cuda"), pairs, time)


def test_a_class_of_sizes_is_timed_once(fake_gpu: Path) -> None:
    timer = Timer()
    best = choose(10**10, timer)
    assert best == timer.asked[-1] != timer.asked[0]
    count = len(timer.asked)
    for n in (100_001, 99_999, 60_000, 150_000):
        assert choose(n * n, timer) == best
    assert len(timer.asked) == count, "another N was timed again"
    choose(10**10, timer, options="F=3")
    assert len(timer.asked) == 2 * count, "another variant must be timed"


def test_the_answer_survives_the_process(fake_gpu: Path) -> None:
    best = choose(10**10, Timer())
    stored = json.loads(fake_gpu.read_text())
    assert len(stored) == 1
    tiles.forget()
    timer = Timer()
    assert choose(10**10, timer) == best and not timer.asked


def test_a_damaged_cache_costs_one_tuning_run(fake_gpu: Path) -> None:
    fake_gpu.parent.mkdir()
    fake_gpu.write_text('{"half a line')
    timer = Timer()
    choose(10**10, timer)
    assert timer.asked and json.loads(fake_gpu.read_text())


def test_an_answer_that_is_no_longer_offered_is_timed_once_and_replaced(fake_gpu: Path) -> None:
    choose(10**10, Timer())
    stored = json.loads(fake_gpu.read_text())
    (key,) = stored
    stored[key]["block_m"] = 512
    fake_gpu.write_text(json.dumps(stored))
    tiles.forget()
    timer = Timer()
    best = choose(10**10, timer)
    count = len(timer.asked)
    assert count and [choose(10**10, timer) for _ in range(3)] == [best] * 3 and len(timer.asked) == count
    assert json.loads(fake_gpu.read_text())[key]["block_m"] == best.block_m


def test_processes_that_write_at_once_keep_each_other_s_answers(fake_gpu: Path) -> None:
    choose(10**10, Timer(), options="F=2")
    first = json.loads(fake_gpu.read_text())
    fake_gpu.unlink()
    tiles.forget()
    choose(10**10, Timer(), options="F=3")  # read before the other process wrote
    second = json.loads(fake_gpu.read_text())
    fake_gpu.write_text(json.dumps(first))
    choose(10**10, Timer(), options="F=4")
    merged = json.loads(fake_gpu.read_text())
    assert set(merged) > set(first) | set(second) and len(merged) == 3


def test_without_a_home_the_answers_stay_in_memory(fake_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LAPAROFLOW_TRITON_CACHE")
    monkeypatch.setattr(Path, "home", nowhere)
    timer = Timer()
    best, count = choose(10**10, timer), len(timer.asked)
    assert choose(10**10, timer) == best and len(timer.asked) == count


def test_when_nothing_is_timed(fake_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tiles.candidates("forward", "half", 64, 90, False)[0]
    timer = Timer()
    assert choose(1000, timer) == default
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(10**10, timer) == default
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("LAPAROFLOW_TRITON_AUTOTUNE", "0")
    assert choose(10**10, timer) == default
    monkeypatch.delenv("LAPAROFLOW_TRITON_AUTOTUNE")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose(10**10, timer) == default
    assert not timer.asked and not fake_gpu.exists()


class Spilling:
    """Says that every tile of more than ``fits`` pairs spills, and counts how often it was asked."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.asked: list[Tile] = []

    def __call__(self, tile: Tile) -> float:
        self.asked.append(tile)
        return float(tile.block_m * tile.block_n > self.fits)


def choose_fitting(spills: Spilling, options: str = "F=2") -> Tile:
    return tiles.choose("forward", options, "half", 64, False, torch.device("cuda"), 1000, None, spills)


def test_a_default_that_spills_gives_way_once_and_for_all(fake_gpu: Path) -> None:
    default = tiles.candidates("forward", "half", 64, 90, False)[0]
    enough = Spilling(default.block_m * default.block_n)
    assert choose_fitting(enough) == default and enough.asked == [default]
    tight = Spilling(2048)
    found = choose_fitting(tight, "F=8")
    assert found.block_m * found.block_n <= 2048 and found == tight.asked[-1]
    count = len(tight.asked)
    assert choose_fitting(tight, "F=8") == found and len(tight.asked) == count
    assert choose_fitting(Spilling(0), "F=7") == default, "nothing fits: the default is as good as any"


def test_what_fits_is_timed_in_place_of_the_default(fake_gpu: Path) -> None:
    default, moved = tiles.candidates("forward", "half", 64, 90, False)[:2]
    assert moved.special != default.special
    timer = Timer()
    tiles.choose("forward", "F=8", "half", 64, False, torch.device("cuda"), 10**10, timer, Spilling(2048))
    settled = timer.asked[0]
    assert settled.block_m * settled.block_n <= 2048 and replace(settled, special=moved.special) in timer.asked
    assert default not in timer.asked and moved not in timer.asked and len(set(timer.asked)) == len(timer.asked)


def test_nothing_is_tried_while_a_graph_is_captured(fake_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    spills = Spilling(0)
    assert choose_fitting(spills) == tiles.candidates("forward", "half", 64, 90, False)[0]
    assert not spills.asked


@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("precision", ["half", "tf32", "ieee"])
def test_retreats_hold_fewer_rows_and_end_with_the_smallest_tile(capability: int, precision: str) -> None:
    for kind, heavy in (("forward", True), ("symmetric", False), ("backward", True)):
        if kind == "symmetric" and not tiles.one_pass_pays(precision, capability):
            continue
        for width in (64, 128, 256):
            first = tiles.candidates(kind, precision, width, capability, heavy)[0]
            tried = [first, *tiles.retreats(first, capability)]
            assert len(set(tried)) == len(tried)
            assert all(t.block_m <= first.block_m for t in tried)
            pairs = {t: t.block_m * t.block_n for t in tried}
            assert all(pairs[t] <= pairs[first] or pairs[t] / t.warps <= pairs[first] / first.warps for t in tried)
            assert all(t.block_n >= 8 * t.warps for t in tried[:-2] if t.block_m < 32)
            assert tried[-1] == Tile(16, 16, 4, 1, special=first.special)
            assert {t.special for t in tried} == {first.special}, "a retreat keeps the share of the special unit"


def test_a_generation_is_named_by_its_tensor_core_instructions() -> None:
    served = {c: tiles.generation(c) for c in (0, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)}
    assert served == {0: 0, 80: 80, 86: 80, 87: 80, 89: 80, 90: 90, 100: 100, 103: 100, 110: 100, 120: 80, 121: 80}
    for kind, heavy, width in (("forward", False, 256), ("symmetric", False, 64), ("backward", True, 128)):
        ampere, blackwell = (tiles.candidates(kind, "half", width, c, heavy) for c in (80, 120))
        assert ampere == blackwell


def test_the_share_of_the_special_unit_is_the_generation_s_and_the_others_are_timed() -> None:
    for capability, share in ((80, 1), (90, 4), (100, 1)):
        for kind, width in (("forward", 64), ("backward", 256)):
            light = tiles.candidates(kind, "half", width, capability, False)
            assert light[0].special == share == tiles.candidates(kind, "half", width, capability, True)[0].special
            assert {t.special for t in light if replace(t, special=share) == light[0]} == {1, 2, 4}
        assert tiles.candidates("forward", "tf32", 64, capability, False)[0].special == 1


def test_one_pass_for_both_directions_except_where_wgmma_or_tcgen05_lay_out_the_products() -> None:
    for capability in (0, 80, 86, 120):
        assert all(tiles.one_pass_pays(products, capability) for products in ("half", "tf32", "ieee"))
    for capability in (90, 100):
        assert [tiles.one_pass_pays(products, capability) for products in ("half", "tf32", "ieee")] == [False, False, True]


def test_where_nothing_fits_the_least_misfit_is_taken() -> None:
    default = tiles.candidates("backward", "half", 256, 90, True)[0]
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


def test_a_tile_without_room_in_shared_memory_gives_way_and_is_never_timed(
    fake_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cuda"))
    constants = dict(D=64, BLOCK_D=64, PRECISION="tf32", F=2)
    small, large = Machine(1024), Machine(128 * 64)
    tile = launch.pick("forward", query, constants, 1000, small)
    assert tile.block_m * tile.block_n <= 1024 and small.launched == [tile]
    default = tiles.candidates("forward", "half", 64, 90, False)[0]
    assert launch.pick("forward", query, dict(constants, F=3), 1000, large) == default

    class Event:
        def __init__(self, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: object) -> float:
            return 1.0

    ragged = Machine(1024)
    launch.pick("forward", query, dict(constants, D=63), 1000, ragged)
    assert ragged.launched, "rows of another D are loaded otherwise: what fits one need not fit the other"
    monkeypatch.setattr(torch.cuda, "Event", Event)
    small.launched.clear()
    for other in (dict(FLOW_KERNEL="cauchy"), dict(INSIDE=True), dict(BATCH=True), dict(DISSIMILAR=True), dict(F=8)):
        launch.pick("forward", query, constants | other, 10**10, small)
        assert len(set(small.launched)) == 1, f"{other} is not the default form and is not timed"
    launch.pick("forward", query, constants, 10**10, small)
    assert len(set(small.launched)) > 1
    assert {t.block_m * t.block_n <= 1024 for t in small.launched} == {True}


def test_forced_tiles_hold_inside_the_block_alone(fake_gpu: Path) -> None:
    tile = Tile(16, 16, 4, 1)
    with tiles.forced(forward=tile):
        assert choose(10**10, None) == tile
    assert choose(10**10, None) != tile


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


def test_importing_the_package_does_not_import_triton() -> None:
    """Nor the kernels: what torch itself imports is not counted."""
    code = (
        "import sys, torch; before = set(sys.modules); import laparoflow_kernels;"
        "new = {m for m in set(sys.modules) - before if m.split('.')[0] == 'triton' or m.endswith('_kernels.launch')};"
        "assert not new, sorted(new)[:5]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
