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
    """``old`` occurs in ``file``; its first occurrence becomes ``new``. ``unit`` is the file to compile again."""

    file: str
    old: str
    new: str
    sanitizer: str | None = None
    unit: str = ""

    def compiled(self, name: str) -> str:
        if self.unit or self.file in ("cuda/common/weighted_sum.cuh", "cuda/common/small_kernels.cuh"):
            return self.unit or "entry.cu"
        if "sm90a" in self.file:
            return WARPGROUP
        return "kernels_sm80_float.cu" if "tf32" in name else "kernels_sm80_bfloat16.cu"


WARPGROUP = "kernels_sm90a_bfloat16.cu"


MISTAKES = {
    "tile read before the barrier": Mistake(
        "cuda/sm80/feed.cuh", "copy_async_wait<0>();\n    }\n    block_barrier();", "copy_async_wait<0>();\n    }"
    ),
    "a copy that is not waited for": Mistake("cuda/sm80/feed.cuh", "copy_async_wait<1>();", "copy_async_wait<3>();"),
    "fragment registers exchanged": Mistake("cuda/sm80/engines.cuh", "a[m][1] = pack_operands", "a[m][2] = pack_operands"),
    "ldmatrix row of the wrong lane": Mistake(
        "cuda/sm80/engines.cuh", "(at.lane >> 4) * 8) * stride + ((at.lane >> 3) & 1) * 8",
        "(at.lane >> 3 & 1) * 8) * stride + (at.lane >> 4) * 8",
    ),
    "tf32 fragment in memory order": Mistake(
        "cuda/sm80/engines.cuh", "{p[m][n][0], p[m][n][2], p[m][n][1], p[m][n][3]}",
        "{p[m][n][0], p[m][n][1], p[m][n][2], p[m][n][3]}",
    ),
    "tf32 without its low part": Mistake("cuda/sm80/engines.cuh", "if (!full_float) return", "if (true) return"),
    "off by one at the end of a frame": Mistake("cuda/common/tiles.cuh", "i < end", "i <= end"),
    "key mask ignored": Mistake("cuda/common/tiles.cuh", "side.mask[i] != 0", "true"),
    "masked rows in the column sums": Mistake("cuda/common/forward.cuh", "fma(e[r][p], row_mark[r], l)",
        "fma(e[r][p], row_mark[r] >= 0.0f ? 1.0f : 0.0f, l)",
   ),
    "masked rows in the unbounded column sums": Mistake(
        "cuda/common/forward.cuh", "kSymmetric && !options.bounded ? b + row_mark[r] : b", "b"
    ),
    "a key without weight looks like a query without": Mistake(
        "cuda/sm80/feed.cuh", "problem().flow_width, -kFarFlow,", "problem().flow_width, kFarFlow,"
    ),
    "weights of the next frame": Mistake(
        "cuda/common/tiles.cuh", "load_flows(flow, side, frame, first",
        "load_flows(flow, side, frame.begin >= 0 ? range : frame, first"
    ),
    "flows in the order of columns": Mistake("cuda/common/tiles.cuh", "to[f * count + place(r)] =", "to[f * count + r] ="),
    "shared memory one row short": Mistake("cuda/common/tiles.cuh", "(flows + 1) * 4", "flows * 4"),
    "wrong lanes in the column sum": Mistake("cuda/common/forward.cuh", "(send, 4 * half)", "(send, 2 * half)"),
    "a wrong digit in the polynomial": Mistake(
        "cuda/common/pair_device.cuh", "5.582631751894951e-2f", "5.583631751894951e-2f"
    ),
    "polynomial that rounds up": Mistake(
        "cuda/common/pair_device.cuh", "DeviceMath::fma_round_down(x, gain, magic)", "DeviceMath::fma(x, gain, magic) + 1.0f"
    ),
    "masked keys in the sums of the default form": Mistake("cuda/common/forward.cuh", "fma(e[r][p], m, tile[r].l)",
        "fma(e[r][p], 1.0f, tile[r].l)"
    ),
    "sums of the columns in another order than they are read": Mistake(
        "cuda/common/backward.cuh", "column % 8 * 4 + d % 8 / 2", "column % 8 + d % 8 / 2 * 8"
    ),
    "maximum not rescaled": Mistake("cuda/common/forward.cuh", "tile_sum *= factor;", ""),
    "scores read before the barrier": Mistake(
        "cuda/sm80/backward.cuh", "feed.barrier();\n      engine.column_gradient", "engine.column_gradient",
        sanitizer="thread"
    ),
    "scores fragment not transposed": Mistake(
        "cuda/sm80/engines.cuh", "load_matrices_transposed(a, score_at", "load_matrices(a, score_at"
    ),
    "sums of the columns not cleared": Mistake("cuda/common/small_kernels.cuh", "a.to[i] = 0.0f", "(void)a.to[i]"),
    "bytes that nobody announced": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_arrive_expect(full(stage_), a_.column_records.bytes)", "barrier_arrive(full(stage_))"
    ),
    "fewer bytes announced than copied": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_arrive_expect(row_full(), row_images() * a_.row_records.bytes)",
        "barrier_arrive_expect(row_full(), a_.row_records.bytes)",
    ),
    "wrong parity of a full stage": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_wait(full(stage_), phase_)", "barrier_wait(full(stage_), phase_ ^ 1)"
    ),
    "wrong parity of an empty stage": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_wait_asleep(empty(stage_), phase_ ^ 1)", "barrier_wait_asleep(empty(stage_), phase_)"
    ),
    "phase kept after the ring": Mistake("cuda/sm90a/feed.cuh", "phase_ ^= 1;", ""),
    "an empty stage that nobody reports": Mistake("cuda/sm90a/feed.cuh", "barrier_arrive(empty(stage_));", ""),
    "producer that waits for no empty stage": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_wait_asleep(empty(stage_), phase_ ^ 1);", "", sanitizer="thread"
    ),
    "image without its swizzle": Mistake(
        "cuda/sm90a/engine.cuh", "return swizzled(d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2",
        "return (d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2",
    ),
    "swizzle by the wrong bits of the row": Mistake(
        "cuda/sm90a/instructions.cuh", "offset ^ ((offset >> 7 & 7) << 4)", "offset ^ ((offset >> 8 & 7) << 4)"
    ),
    "scores not published to wgmma": Mistake("cuda/sm90a/engine.cuh", "publish_shared_writes();", ""),
    "one buffer of scores for two tiles": Mistake("cuda/sm90a/engine.cuh", "kScoreBuffers = 2", "kScoreBuffers = 1"),
    "scores used before all have left theirs": Mistake(
        "cuda/sm90a/engine.cuh", "barrier_wait(full, phase);", "(void)full; (void)phase;", sanitizer="thread"
    ),
    "scores overwritten while they are used": Mistake(
        "cuda/sm90a/backward.cuh", "barrier_wait(scores.used(tile), scores.phase(tile) ^ 1);", "", sanitizer="thread"
    ),
    "scores that nobody is told of": Mistake(
        "cuda/sm90a/backward.cuh", "if (m == kImages - 1) barrier_arrive(scores.full(tile));", ""
    ),
    "a piece of the columns' gradient that is nobody's turn": Mistake(
        "cuda/sm90a/engine.cuh", "if (++turn == groups) turn = 0;", "++turn; (void)groups;"
    ),
    "stmatrix rows of the wrong lane": Mistake(
        "cuda/sm90a/engine.cuh", "at.lane % 16 * kSwizzleRow + at.lane / 16 * 16",
        "at.lane % 16 * kSwizzleRow + at.lane / 8 % 2 * 16",
    ),
    "stage given back while dS k reads it": Mistake(
        "cuda/sm90a/feed.cuh", "empty(stage_ == 0 ? a_.stages - 1 : stage_ - 1)", "empty(stage_)"
    ),
    "factors of a row for a column": Mistake(
        "cuda/sm90a/factors.cuh", "own = of_columns ? 11 : 8", "own = of_columns ? 8 : 11", unit=WARPGROUP
    ),
    "factors of one half alone": Mistake(
        "cuda/sm90a/factors.cuh", "split(split(components[i], high), low);", "split(components[i], high); low = 0.0f;",
        unit=WARPGROUP,
    ),
    "a squared length in two parts": Mistake(
        "cuda/sm90a/factors.cuh", "at[own + i] = -part", "at[own + i] = i < 2 ? -part : 0.0f", unit=WARPGROUP
    ),
    "tiny sums of w e^s taken as they are": Mistake(
        "cuda/common/tiles.cuh", "kTinyInside = 8.271806125530277e-25f", "kTinyInside = 0.0f", unit=WARPGROUP
    ),
    "factors beyond their reach": Mistake(
        "cuda/sm90a/forward.cuh", "rows_within_reach && feed.within_reach()", "(rows_within_reach | true)"
    ),
    "the reach of the columns not asked for": Mistake(
        "cuda/sm90a/backward.cuh", "feed.rows_within_reach(m) && feed.within_reach()", "feed.rows_within_reach(m)"
    ),
    "the reach of another warpgroup's rows": Mistake(
        "cuda/sm90a/feed.cuh", "rows_of(row_image(m)).within_reach", "rows_of(memory_ + 0 * m).within_reach"
    ),
    "wgmma step along the wrong index": Mistake(
        "cuda/sm90a/engine.cuh", "(d / 8 * kColumns + i * 16)", "(d / 8 * kColumns + i)"
    ),
    "wgmma result not waited for": Mistake("cuda/sm90a/forward.cuh", "warpgroup_wait();", ""),
    "gradient read before its products are done": Mistake(
        "cuda/sm90a/backward.cuh", "warpgroup_wait();\n#pragma unroll\n  for (int m = 0; m < kImages; ++m) hold",
        "for (int m = 0; m < kImages; ++m) hold",
    ),
    "products that nobody commits": Mistake("cuda/sm90a/engine.cuh", "warpgroup_commit();", ""),
    "wgmma without a fence": Mistake("cuda/sm90a/forward.cuh", "warpgroup_fence();", ""),
    "what the accumulators held before is added": Mistake(
        "cuda/sm90a/engine.cuh", "warpgroup_multiply(c, a, b, T{});", "warpgroup_multiply_add(c, a, b, T{});"
    ),
    "scores released while wgmma reads them": Mistake(
        "cuda/sm90a/engine.cuh",
        "warpgroup_commit();\n      warpgroup_wait();\n      hold_accumulators(h);",
        "if (piece > 8) warpgroup_commit();",
    ),
    "wgmma step of half its size": Mistake("cuda/sm90a/engine.cuh", "kStep = 32", "kStep = 16"),
    "every step from the first image of the depth": Mistake("cuda/sm90a/engine.cuh", "a = a.further(kImage);", ""),
    "rows of the first warpgroup for all": Mistake(
        "cuda/sm90a/feed.cuh", "(thread_index() / 128 * (row_images() * 4 / a_.warps) + m)", "m"
    ),
    "scores at any address": Mistake(
        "cuda/host/launch.cuh", "(plan.feed_bytes + 1023) / 1024 * 1024", "(plan.feed_bytes + 127) / 128 * 128",
        unit=WARPGROUP
    ),
    "row tile read before it has come": Mistake("cuda/sm90a/feed.cuh", "barrier_wait(row_full(), 0);", ""),
    "readers of a stage miscounted": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_init(empty(s), computing());", "barrier_init(empty(s), computing() / 2);"
    ),
    "barriers used before all threads know them": Mistake(
        "cuda/sm90a/feed.cuh", "barrier_init_publish();\n    }\n    block_barrier();", "barrier_init_publish();\n    }"
    ),
    "barriers that the copies cannot see": Mistake("cuda/sm90a/feed.cuh", "barrier_init_publish();", ""),
    "a gap between frames taken for keys": Mistake(
        "cuda/sm90a/feed.cuh", "const Range frame = frame_range(a.side, low);",
        "const Range frame{a.side.offsets[low], a.side.total};",
    ),
    "first tile of a frame taken for the gap before it": Mistake(
        "cuda/common/tiles.cuh", "/ kSlotRows + middle <= slot", "/ kSlotRows + middle < slot", unit=WARPGROUP
    ),
    "registers that nobody gave away": Mistake("cuda/sm90a/feed.cuh", "lower_registers<kCount>();", ""),
    "registers given away by one thread": Mistake(
        "cuda/sm90a/feed.cuh", "lower_registers<kCount>();", "if (thread_index() == computing()) lower_registers<kCount>();"
    ),
    "rows of the next frame in a row tile": Mistake(
        "cuda/sm90a/feed.cuh", "slot + i < own.end ? slot + i : a_.row_records.slots", "slot + i"
    ),
    "weighted sum without a barrier": Mistake(
        "cuda/common/weighted_sum.cuh", "value;\n    }\n    block_barrier();", "value;\n    }"
    ),
    "stage overwritten while it is read": Mistake(
        "cuda/sm80/feed.cuh", "release(int) { block_barrier(); }", "release(int) {}", sanitizer="thread"
    ),
}  # fmt: skip


def plant(mistake: Mistake, folder: Path) -> Path:
    """A copy of ``csrc`` with the mistake in it."""
    csrc = folder / "csrc"
    shutil.copytree(host_build.SOURCES / "cuda", csrc / "cuda")
    for header in host_build.SOURCES.glob("*.h"):
        shutil.copy(header, csrc / header.name)
    path = csrc / mistake.file
    text = path.read_text()
    # white space counts for nothing, so that reformatting the sources does not lose the place
    place = re.search(r"\s+".join(map(re.escape, mistake.old.split())), text)
    assert place is not None, f"the sources no longer contain {mistake.old!r}"
    path.write_text(text[: place.start()] + mistake.new + text[place.end() :])
    return csrc


@pytest.fixture(scope="module")
def built_for_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects of the program under ThreadSanitizer, without mistakes."""
    folder = tmp_path_factory.mktemp("threads")
    host_build.build(folder, sanitizer="thread")
    return folder


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=300)


def test_unchanged_sources_pass(built: Path) -> None:
    done = run(sys.executable, HERE / "host_quick_check.py", built / "libhost.so")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name: str, built: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mistake = MISTAKES[name]
    csrc = plant(mistake, tmp_path)
    only = (mistake.compiled(name),)
    if mistake.sanitizer:
        rest = request.getfixturevalue("built_for_threads")
        done = run(host_build.build(tmp_path, csrc, sanitizer=mistake.sanitizer, only=only, rest=rest))
        assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stderr[-2000:]
    else:
        library = host_build.build(tmp_path, csrc, only=only, rest=built)
        done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode != 0, "the mistake went unnoticed"
    assert "the sources no longer" not in done.stdout


def test_missing_lane_is_reported(built: Path, tmp_path: Path) -> None:
    """A collective inside a divergent branch is an error with a message, not a hang."""
    csrc = plant(
        Mistake("cuda/common/forward.cuh", "sum.merge(sum.across(1,", "if (at.lane != 3) sum.merge(sum.across(1,"), tmp_path
    )
    library = host_build.build(tmp_path, csrc, only=("kernels_sm80_bfloat16.cu",), rest=built)
    done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode == 1, done.stdout
    assert "collective" in done.stdout or "deadlock" in done.stdout, done.stdout
