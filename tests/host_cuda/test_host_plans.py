"""How problems are cut into blocks: how well that fills the device, and that chunks of columns add up to the gradient."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from host_calls import WARPGROUP, Host
from host_cases import check, make_case
from host_reference import Case

# (frames, pixels of each), such as a crop's tokens, its pixels at a fourth or half of the resolution, or all of them
SHAPES = [
    *((1, pixels) for pixels in (8192, 10000, 12544, 16384, 20000, 25088, 30000, 35000, 40000, 50176, 65536, 80000)),
    (1, 100_000), (1, 131_072),
    *itertools.product((2, 4, 8, 16), (9216, 12544, 16384, 25088)),
    *itertools.product((8, 16), (4096, 6272)),
    *itertools.product((16, 32), (2304,)),
    *((32, pixels) for pixels in (4096, 6272, 9216, 12544)),
]  # fmt: skip
# Frames of a few tiles of 64 columns and 128 to 256 rows: what is left over at their edges and in the last wave weighs more.
SMALL = {(8, 3136): 0.8, (16, 3136): 0.8, (32, 3136): 0.8, (4, 1024): 0.6, (64, 784): 0.5, (8, 784): 0.4}


def least_filled(library: Path, frames: int, pixels: int) -> float:
    """Over three devices, both paths, two depths, and the forward and both kinds of backward."""
    row, flow = np.zeros((1, 2), np.float32), [pixels] * frames
    shares = []
    for multiprocessors, limits, depth in itertools.product((132, 108, 148), ({}, WARPGROUP), (64, 128)):
        host = Host(library, multiprocessors=multiprocessors, **limits)
        case = Case(np.zeros((1, depth)), np.zeros((1, depth)), row, row, flow, flow, bandwidth=[1.0] * frames, bounded=True)
        shares += [host.filled(case, kind) for kind in (0, 1, 2)]
    return min(shares)


def test_there_are_forty_shapes() -> None:
    assert len(set(SHAPES)) == 40


@pytest.mark.parametrize(("frames", "pixels"), SHAPES)
def test_blocks_fill_the_device(built: Path, frames: int, pixels: int) -> None:
    assert least_filled(built / "libhost.so", frames, pixels) >= 0.85


@pytest.mark.parametrize(("frames", "pixels"), SMALL)
def test_blocks_of_small_frames(built: Path, frames: int, pixels: int) -> None:
    assert least_filled(built / "libhost.so", frames, pixels) >= SMALL[frames, pixels]


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("element", "scope", "symmetric"), [
    ("bfloat16", "frame", False), ("float16", "batch", True), ("bfloat16", "batch", False), ("float32", "frame", True),
])  # fmt: skip
def test_gradients_of_chunks(built: Path, path: int, deterministic: bool, element: str, scope: str, symmetric: bool) -> None:
    if path == 1 and element == "float32":
        return  # the sm_90a path has 16-bit types alone
    host = Host(built / "libhost.so", multiprocessors=40, deterministic=deterministic, **(WARPGROUP if path else {}))
    check(host, make_case([130, 0, 70], [200, 5, 330], 40, element=element, scope=scope, symmetric=symmetric, masked=0.2,
                          bounded=True))  # fmt: skip


LAUNCHES = {  # of the forward, the backward in one pass, and in two
    ("sm80", False): ("forward merge", "coefficient coefficient backward finish",
                      "coefficient coefficient backward finish backward"),
    ("sm90a", False): ("record forward merge", "coefficient coefficient record backward finish",
                       "coefficient coefficient record backward finish backward"),
    ("sm90a", True): ("record forward forward merge", "coefficient coefficient record backward finish",
                      "coefficient coefficient record backward finish backward"),
}  # fmt: skip
LAUNCHES["sm80", True] = LAUNCHES["sm80", False]


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("path", ["sm80", "sm90a"])
def test_launches(built: Path, path: str, symmetric: bool, positives: str) -> None:
    """Each launch costs a few microseconds, whatever the size: two to four in the forward, four to six in the backward, a
    gradient for the temperature included. Both sides share a launch, and two passes share their records."""
    case = make_case([130, 70], [200, 30], 40, bounded=True, masked=0.2, symmetric=symmetric, positives=positives)
    forward, *backwards = (names.split() for names in LAUNCHES[path, symmetric])
    for deterministic, backward in zip((False, True), backwards, strict=True):
        host = Host(built / "libhost.so", deterministic=deterministic, **(WARPGROUP if path == "sm90a" else {}))
        check(host, case)
        assert host.launches() == forward + backward


def test_launches_where_columns_are_in_chunks(built: Path) -> None:
    """The sums over the chunks are added up by the launch that is there anyway, in two passes by one more."""
    case = make_case([130, 70], [400, 330], 40, bounded=True, masked=0.2)
    for deterministic, finishes in ((False, 1), (True, 2)):
        host = Host(built / "libhost.so", multiprocessors=40, deterministic=deterministic, **WARPGROUP)
        check(host, case)
        assert host.launches().count("finish") == finishes


@pytest.mark.parametrize(("depth", "kib", "forms"), [(64, 100, {}), (128, 170, {}), (128, 110, {"positives": "inside"})])
def test_one_pass_that_does_not_fit(built: Path, depth: int, kib: int, forms: dict[str, str]) -> None:
    """On sm_90a one pass runs with all of its warps. Where shared memory is too small for them, two passes give the same."""
    case = make_case([130, 70], [200, 30], depth, bounded=True, masked=0.2, **forms)
    for limit, passes in ((227, 1), (kib, 2)):
        host = Host(built / "libhost.so", path=1, shared_memory=limit * 1024)
        check(host, case)
        assert host.launches().count("backward") == passes, limit
