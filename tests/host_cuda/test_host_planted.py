"""The host execution can fail: mistakes planted in a copy of the sources are each caught."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import host_build
import pytest

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Mistake:
    """``old`` occurs in ``file``; its first occurrence becomes ``new``."""

    file: str
    old: str
    new: str
    sanitizer: str | None = None


MISTAKES = {
    "tile read before the barrier": Mistake(
        "cuda/forward.cuh", "block_barrier();\n      if (tile == 0) {", "if (tile == 0) {"
    ),
    "a copy that is not waited for": Mistake("cuda/forward.cuh", "copy_async_wait<1>();", "copy_async_wait<3>();"),
    "fragment registers exchanged": Mistake("cuda/engines_sm80.cuh", "a[m][1] = pack_pair", "a[m][2] = pack_pair"),
    "ldmatrix row of the wrong lane": Mistake(
        "cuda/engines_sm80.cuh", "(at.lane >> 4) * 8) * stride + ((at.lane >> 3) & 1) * 8",
        "(at.lane >> 3 & 1) * 8) * stride + (at.lane >> 4) * 8",
    ),
    "tf32 fragment in memory order": Mistake(
        "cuda/engines_sm80.cuh", "{p[m][n][0], p[m][n][2], p[m][n][1], p[m][n][3]}",
        "{p[m][n][0], p[m][n][1], p[m][n][2], p[m][n][3]}",
    ),
    "tf32 without its low part": Mistake("cuda/engines_sm80.cuh", "if (full_float) {", "if (false) {"),
    "off by one at the end of a frame": Mistake("cuda/tiles.cuh", "i < end", "i <= end"),
    "key mask ignored": Mistake("cuda/tiles.cuh", "side.mask[i] != 0", "true"),
    "masked rows in the column sums": Mistake("cuda/forward.cuh", "bias.at[p] + row_bias[r]", "bias.at[p]"),
    "weights of the next frame": Mistake("cuda/tiles.cuh", "valid && frame.holds(j) ?", "valid && j < frame.end ?"),
    "shared memory one row short": Mistake("cuda/tiles.cuh", "(flows + 1) * 4", "flows * 4"),
    "wrong lanes in the column sum": Mistake("cuda/forward.cuh", "(send, 4 * half)", "(send, 2 * half)"),
    "a wrong digit in the polynomial": Mistake("pair_math.h", "5.582631751894951e-2f", "5.583631751894951e-2f"),
    "maximum not rescaled": Mistake("cuda/forward.cuh", "tile_sum *= factor;", ""),
    "wgmma without a proxy fence": Mistake("cuda/engine_sm90a.cuh", "{ publish_shared_writes(); }", "{}"),
    "wgmma distances exchanged": Mistake(
        "cuda/engine_sm90a.cuh", "128, piece_bytes(kColumns))", "piece_bytes(kColumns), 128)"
    ),
    "wgmma result not waited for": Mistake("cuda/engine_sm90a.cuh", "warpgroup_wait();", ""),
    "weighted sum without a barrier": Mistake(
        "cuda/weighted_sum.cuh", "value;\n    }\n    block_barrier();", "value;\n    }"
    ),
    "stage overwritten while it is read": Mistake(
        "cuda/backward.cuh", "layout.padded);\n    block_barrier();", "layout.padded);", sanitizer="thread"
    ),
}  # fmt: skip


def plant(mistake: Mistake, folder: Path) -> Path:
    """A copy of ``csrc`` with the mistake in it."""
    csrc = folder / "csrc"
    shutil.copytree(host_build.SOURCES / "cuda", csrc / "cuda")
    shutil.copy(host_build.SOURCES / "pair_math.h", csrc / "pair_math.h")
    path = csrc / mistake.file
    text = path.read_text()
    # white space counts for nothing, so that reformatting the sources does not lose the place
    place = re.search(r"\s+".join(map(re.escape, mistake.old.split())), text)
    assert place is not None, f"the sources no longer contain {mistake.old!r}"
    path.write_text(text[: place.start()] + mistake.new + text[place.end() :])
    return csrc


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=300)


def test_unchanged_sources_pass(built: Path) -> None:
    done = run(sys.executable, HERE / "host_quick_check.py", built / "libhost.so")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name: str, built: Path, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    csrc = plant(mistake, tmp_path)
    if mistake.sanitizer:
        done = run(host_build.build(tmp_path, csrc, sanitizer=mistake.sanitizer))
        assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stderr[-2000:]
    else:
        touched = {
            "cuda/weighted_sum.cuh": ("entry.cu",),
            "cuda/engine_sm90a.cuh": ("kernels_sm90a.cu",),
        }.get(mistake.file)
        floats = "tf32" in name
        only = touched or ("kernels_float.cu",) if touched or floats else ("entry.cu", "kernels_bfloat16.cu")
        library = host_build.build(tmp_path, csrc, only=only, rest=built)
        done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode != 0, "the mistake went unnoticed"
    assert "the sources no longer" not in done.stdout


def test_missing_lane_is_reported(built: Path, tmp_path: Path) -> None:
    """A collective inside a divergent branch is an error with a message, not a hang."""
    csrc = plant(
        Mistake("cuda/forward.cuh", "sum.merge(sum.across(1,", "if (at.lane != 3) sum.merge(sum.across(1,"), tmp_path
    )
    library = host_build.build(tmp_path, csrc, only=("kernels_bfloat16.cu",), rest=built)
    done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode == 1, done.stdout
    assert "collective" in done.stdout or "deadlock" in done.stdout, done.stdout
