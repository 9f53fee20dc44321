"""The host execution can fail: mistakes planted in a copy of the sources are each caught.

A mistake is found by its C++ tokens anywhere under csrc/cuda, so that moving code to another file or formatting it anew
changes nothing here. One whose place is gone, or is no longer the only one, fails at once, without a compiler.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import host_build
import pytest

HERE = Path(__file__).resolve().parent
BFLOAT16, FLOAT, WARPGROUP = "kernels_sm80_bfloat16.cu", "kernels_sm80_float.cu", "kernels_sm90a_bfloat16.cu"
ENTRY = "entry.cu"


@dataclass(frozen=True)
class Mistake:
    """The tokens of ``old`` become ``new``.

    ``old`` occurs once in csrc/cuda, or the first time in its file behind ``after``. ``unit`` is the source file to compile
    again; default by the architecture of the file.
    """

    old: str
    new: str
    after: str = ""
    unit: str = ""
    sanitizer: str | None = None


MISTAKES = {
    "tile read before the barrier": Mistake("copy_async_wait<0>(); } block_barrier();", "copy_async_wait<0>(); }"),
    "a copy that is not waited for": Mistake("copy_async_wait<1>();", "copy_async_wait<3>();"),
    "fragment registers exchanged": Mistake("a[m][1] = pack_operands", "a[m][2] = pack_operands"),
    "ldmatrix row of the wrong lane": Mistake(
        "(at.lane >> 4) * 8) * stride + ((at.lane >> 3) & 1) * 8", "(at.lane >> 3 & 1) * 8) * stride + (at.lane >> 4) * 8"
    ),
    "tf32 fragment in memory order": Mistake(
        "{p[m][n][0], p[m][n][2], p[m][n][1], p[m][n][3]}", "{p[m][n][0], p[m][n][1], p[m][n][2], p[m][n][3]}", unit=FLOAT
    ),
    "tf32 without its low part": Mistake("if (!full_float) return", "if (true) return", unit=FLOAT),
    "off by one at the end of a frame": Mistake("i >= begin && i < end", "i >= begin && i <= end"),
    "key mask ignored": Mistake("side.mask == nullptr || side.mask[i] != 0", "side.mask == nullptr || true"),
    "masked rows in the column sums": Mistake(
        "fma(e[r][p], row_mark[r], l)", "fma(e[r][p], row_mark[r] >= 0.0f ? 1.0f : 0.0f, l)"
    ),
    "masked rows in the unbounded column sums": Mistake("kSymmetric && !options.bounded ? b + row_mark[r] : b", "b"),
    "a key without weight looks like a query without": Mistake(
        "first, flows<kGroups>(), -kFarFlow,", "first, flows<kGroups>(), kFarFlow,"
    ),
    "groups of the own frame alone": Mistake(
        "load_groups(to.flow + flows<kGroups>() * Engine::kColumns, side, range,",
        "load_groups(to.flow + flows<kGroups>() * Engine::kColumns, side, frame_range(side, frame_),",
    ),
    "groups of 32 bits": Mistake("group >> 32 * word", "group >> 0 * word"),
    "a pair of one group in the denominator": Mistake(
        "Options::kGroups && w.log2 == kExcluded ? kExcluded : bias_of(mark)", "(void)w, bias_of(mark)"
    ),
    "a pair of one group in a sum made anew": Mistake(
        "(grouped && own.group[i] == other.group[j])", "(grouped && i < 0)", unit=ENTRY
    ),
    "weights of the next frame": Mistake(
        "load_flows(flow, side, frame, first", "load_flows(flow, side, frame.begin >= 0 ? range : frame, first"
    ),
    "flows in the order of columns": Mistake("to[f * count + place(r)] =", "to[f * count + r] ="),
    "shared memory one row short": Mistake("rows * (padded_flow(flow_width) + 1) * 4", "rows * padded_flow(flow_width) * 4"),
    "wrong lanes in the column sum": Mistake("(send, 4 * half)", "(send, 2 * half)"),
    "a wrong digit in the polynomial": Mistake("5.582631751894951e-2f", "5.583631751894951e-2f"),
    "polynomial that rounds up": Mistake(
        "DeviceMath::fma_round_down(x, gain, magic)", "DeviceMath::fma(x, gain, magic) + 1.0f"
    ),
    "masked keys in the sums of the default form": Mistake("fma(e[r][p], m, tile[r].l)", "fma(e[r][p], 1.0f, tile[r].l)"),
    "sums of the columns in another order than they are read": Mistake(
        "column % 8 * 4 + d % 8 / 2", "column % 8 + d % 8 / 2 * 8"
    ),
    "maximum not rescaled": Mistake("tile_sum *= factor;", ""),
    "scores read before the barrier": Mistake(
        "feed.barrier(); engine.column_gradient", "engine.column_gradient", sanitizer="thread"
    ),
    "scores fragment not transposed": Mistake("load_matrices_transposed(a, score_at", "load_matrices(a, score_at"),
    "sums of the columns not cleared": Mistake(
        "*reinterpret_cast<FloatQuad*>(a.cleared + c) = zeros;", "(void)zeros;", unit=ENTRY
    ),
    "coefficients of the rows for the columns": Mistake(
        "const auto of = of_columns ? a.columns : a.rows; const std::int64_t i = (block_index() -",
        "const auto of = a.rows; const std::int64_t i = (block_index() -",
        unit=ENTRY,
    ),
    "statistics of the rows for the columns": Mistake(
        "const Side own = of_columns ? p.column : p.row, other", "const Side own = p.row, other", unit=ENTRY
    ),
    "a temperature of the first threads alone": Mistake(
        "sum = sum_over_block(sum);", "sum_over_block(sum);", after="finish_kernel(FinishArguments"
    ),
    "bytes that nobody announced": Mistake(
        "barrier_arrive_expect(full(stage_), a_.column_records.bytes)", "barrier_arrive(full(stage_))"
    ),
    "fewer bytes announced than copied": Mistake(
        "barrier_arrive_expect(row_full(), row_images() * a_.row_records.bytes)",
        "barrier_arrive_expect(row_full(), a_.row_records.bytes)",
    ),
    "wrong parity of a full stage": Mistake("barrier_wait(full(stage_), phase_)", "barrier_wait(full(stage_), phase_ ^ 1)"),
    "wrong parity of an empty stage": Mistake(
        "barrier_wait(empty(stage_), phase_ ^ 1)", "barrier_wait(empty(stage_), phase_)"
    ),
    "phase kept after the ring": Mistake("phase_ ^= 1;", ""),
    "an empty stage that nobody reports": Mistake("barrier_arrive(empty(stage_));", ""),
    "producer that waits for no empty stage": Mistake(
        "barrier_wait(empty(stage_), phase_ ^ 1);", "", sanitizer="thread"
    ),
    "image without its swizzle": Mistake(
        "return swizzled(d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2",
        "return (d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2",
    ),
    "swizzle by the wrong bits of the row": Mistake(
        "offset ^ ((offset >> 7 & 7) << 4)", "offset ^ ((offset >> 8 & 7) << 4)"
    ),
    "scores not published to wgmma": Mistake("publish_shared_writes();", ""),
    "one buffer of scores for two tiles": Mistake("kScoreBuffers = 2", "kScoreBuffers = 1"),
    "scores used before all have left theirs": Mistake(
        "barrier_wait(full, phase);", "(void)full; (void)phase;", sanitizer="thread"
    ),
    "scores overwritten while they are used": Mistake(
        "barrier_wait(scores.used(tile), scores.phase(tile) ^ 1);", "", sanitizer="thread"
    ),
    "scores that nobody is told of": Mistake("if (m == kImages - 1) barrier_arrive(scores.full(tile));", ""),
    "a piece of the columns' gradient that is nobody's turn": Mistake(
        "if (++turn == kGroups) turn = 0;", "++turn;"
    ),
    "the rows of the first 64 for all dS": Mistake("if (i % 4 == 0) b = b.further(row_pitch);", "(void)row_pitch;"),
    "stmatrix rows of the wrong lane": Mistake(
        "at.lane % 16 * kSwizzleRow + at.lane / 16 * 16", "at.lane % 16 * kSwizzleRow + at.lane / 8 % 2 * 16"
    ),
    "stage given back while dS k reads it": Mistake("empty(stage_ == 0 ? a_.stages - 1 : stage_ - 1)", "empty(stage_)"),
    "factors of a row for a column": Mistake("own = of_columns ? 11 : 8", "own = of_columns ? 8 : 11"),
    "factors of one half alone": Mistake(
        "split(split(components[i], high), low);", "split(components[i], high); low = 0.0f;"
    ),
    "a squared length in two parts": Mistake("at[own + i] = -part", "at[own + i] = i < 2 ? -part : 0.0f"),
    "tiny sums of w e^s taken as they are": Mistake(
        "kTinyInside = 8.271806125530277e-25f", "kTinyInside = 0.0f", unit=WARPGROUP
    ),
    "factors beyond their reach": Mistake("rows_within_reach && feed.within_reach()", "(rows_within_reach | true)"),
    "the reach of the columns not asked for": Mistake(
        "feed.rows_within_reach(m) && feed.within_reach()", "feed.rows_within_reach(m)"
    ),
    "the reach of another warpgroup's rows": Mistake(
        "rows_of(row_image(m)).within_reach", "rows_of(memory_ + 0 * m).within_reach"
    ),
    "wgmma step along the wrong index": Mistake("(d / 8 * kColumns + i * 16)", "(d / 8 * kColumns + i)"),
    "wgmma result not waited for": Mistake("warpgroup_wait();", "", after="warpgroup_forward(const"),
    "gradient read before its products are done": Mistake(
        "warpgroup_wait(); for (int m = 0; m < kImages; ++m) hold_accumulators(g[m]);",
        "for (int m = 0; m < kImages; ++m) hold_accumulators(g[m]);"
    ),
    "products that nobody commits": Mistake("warpgroup_commit();", "", after="barrier_wait(full, phase);"),
    "wgmma without a fence": Mistake("warpgroup_fence();", "", after="warpgroup_forward(const"),
    "what the accumulators held before is added": Mistake(
        "warpgroup_multiply(c, a, b, T{});", "warpgroup_multiply_add(c, a, b, T{});"
    ),
    "scores released while wgmma reads them": Mistake(
        "warpgroup_commit(); warpgroup_wait(); hold_accumulators(h);", "if (piece > 8) warpgroup_commit();"
    ),
    "wgmma step of half its size": Mistake("kStep = 32", "kStep = 16"),
    "every step from the first image of the depth": Mistake("k / 4 * kImage + k % 4", "0 * kImage + k % 4"),
    "rows of the first warpgroup for all": Mistake("(thread_index() / 128 * (row_images() * 4 / a_.warps) + m)", "m"),
    "scores at any address": Mistake(
        "(plan.feed_bytes + 1023) / 1024 * 1024", "(plan.feed_bytes + 127) / 128 * 128", unit=WARPGROUP
    ),
    "row tile read before it has come": Mistake("barrier_wait(row_full(), 0);", ""),
    "readers of a stage miscounted": Mistake(
        "barrier_init(empty(s), computing());", "barrier_init(empty(s), computing() / 2);"
    ),
    "barriers used before all threads know them": Mistake(
        "barrier_init_publish(); } block_barrier();", "barrier_init_publish(); }"
    ),
    "barriers that the copies cannot see": Mistake("barrier_init_publish();", ""),
    "a gap between frames taken for keys": Mistake(
        "const Range frame = frame_range(side, low);", "const Range frame{side.offsets[low], side.total};"
    ),
    "first tile of a frame taken for the gap before it": Mistake(
        "/ kSlotRows + middle <= slot", "/ kSlotRows + middle < slot", unit=WARPGROUP
    ),
    "registers that nobody gave away": Mistake("lower_registers<Engine::kForwardFeedRegisters>();", ""),
    "registers given away by one thread": Mistake(
        "lower_registers<Engine::kForwardFeedRegisters>();",
        "if (thread_index() % 128 == 0) lower_registers<Engine::kForwardFeedRegisters>();",
    ),
    "rows of the next frame in a row tile": Mistake("slot + i < own.end ? slot + i : a_.row_records.slots", "slot + i"),
    "weighted sum without a barrier": Mistake("value; } block_barrier();", "value; }", unit=ENTRY),
    "stage overwritten while it is read": Mistake(
        "release(int) { block_barrier(); }", "release(int) {}", sanitizer="thread"
    ),
    "one chunk of the gradient over another": Mistake(
        "arguments.row_partials + plan.column_slot() * problem.row.total * problem.depth", "arguments.row_partials"
    ),
    "column sums of the first chunk for all": Mistake("first_tile_ + tile;", "tile;"),
    "shared memory that wgmma cannot read": Mistake(
        "Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory());",
        "Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory() + 16);",
        after="warpgroup_forward(const",
    ),
    "b / W beyond float32": Mistake(
        "at_most(kQuotientExponent - positive + exponent_of(weights));", "(void)weights;", unit=ENTRY
    ),
    "a sign that the rows do not have": Mistake("bits ^= 0x8000", "bits ^= 0"),
    "a sign that the rows' gradient keeps": Mistake(
        "if (arguments.row_coefficients[kScale * problem.row.total + i] < 0.0f) keep = -keep;", "", unit=WARPGROUP
    ),
    "no sign in b": Mistake("sign * (a.inside", "(a.inside", unit=ENTRY),
    "a without its lse": Mistake("(sign * denominator) - lse_rest - lse2", "(sign * denominator)", unit=ENTRY),
    "sums of w x that underflow": Mistake("sum.W < kTinyWeights", "sum.W < 0.0f", unit=ENTRY),
}  # fmt: skip


SKIPPED = r"//[^\n]*|\\\n|#pragma unroll[ \d]*|\s+"
TOKEN = re.compile(SKIPPED + r"|(?P<token>\"[^\"]*\"|\d[\w.]*(?:(?<=e)[-+]\d+f?)?|\w+|.)", re.DOTALL)


@functools.cache
def tokens(text: str) -> list[re.Match[str]]:
    """Its tokens, without comments, white space and hints to unroll."""
    return [match for match in TOKEN.finditer(text) if match["token"]]


def places(text: str, wanted: str) -> list[tuple[int, int]]:
    """(start, end) of each run of tokens in ``text`` that is ``wanted``."""
    found, names = tokens(text), [match["token"] for match in tokens(wanted)]
    size = len(names)
    have = [match["token"] for match in found]
    starts = [i for i in range(len(have) - size + 1) if have[i] == names[0] and have[i : i + size] == names]
    return [(found[i].start(), found[i + size - 1].end()) for i in starts]


def place_of(mistake: Mistake, csrc: Path) -> tuple[Path, int, int]:
    """The file of the mistake, where in it the mistake begins, and where it ends."""
    found = []
    for path in sorted((csrc / "cuda").glob("*/*")):
        text = path.read_text()
        hits = places(text, mistake.old)
        if mistake.after:
            starts = places(text, mistake.after)
            hits = [hit for hit in hits if starts and hit[0] > starts[0][0]][:1]
        found += [(path, *hit) for hit in hits]
    assert len(found) == 1, f"{mistake.old!r} is in csrc/cuda {len(found)} times: {[str(path) for path, *_ in found]}"
    return found[0]


def plant(mistake: Mistake, folder: Path) -> tuple[Path, str]:
    """A copy of ``csrc`` with the mistake in it, and the source file to compile again."""
    csrc = folder / "csrc"
    shutil.copytree(host_build.SOURCES / "cuda", csrc / "cuda")
    for header in host_build.SOURCES.glob("*.h"):
        shutil.copy(header, csrc / header.name)
    path, start, end = place_of(mistake, csrc)
    text = path.read_text()
    path.write_text(text[:start] + mistake.new + text[end:])
    return csrc, mistake.unit or (WARPGROUP if path.parent.name == "sm90a" else BFLOAT16)


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_place(name: str) -> None:
    place_of(MISTAKES[name], host_build.SOURCES)


def test_the_place_of_a_mistake_outlasts_formatting() -> None:
    text = "if (x)  // why\n  f( a[1],\n     2.5e-3f );\n#pragma unroll 2\nfor (;;)"
    assert [text[a:b] for a, b in places(text, "f(a[1], 2.5e-3f); for")] == [text[text.index("f(") : text.index("(;;") - 1]]
    assert places(text, "f(a[1], 2.5e-3f); fo") == []


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


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name: str, built: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mistake = MISTAKES[name]
    csrc, unit = plant(mistake, tmp_path)
    if mistake.sanitizer:
        rest = request.getfixturevalue("built_for_threads")
        done = run(host_build.build(tmp_path, csrc, sanitizer=mistake.sanitizer, only=(unit,), rest=rest))
        assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stderr[-2000:]
    else:
        library = host_build.build(tmp_path, csrc, only=(unit,), rest=built, optimise="-O0")
        done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode != 0, "the mistake went unnoticed"


@pytest.mark.slow
def test_missing_lane_is_reported(built: Path, tmp_path: Path) -> None:
    """A collective inside a divergent branch is an error with a message, not a hang."""
    csrc, unit = plant(Mistake("sum.merge(sum.across(1,", "if (at.lane != 3) sum.merge(sum.across(1,"), tmp_path)
    library = host_build.build(tmp_path, csrc, only=(unit,), rest=built)
    done = run(sys.executable, HERE / "host_quick_check.py", library)
    assert done.returncode == 1, done.stdout
    assert "collective" in done.stdout or "deadlock" in done.stdout, done.stdout
