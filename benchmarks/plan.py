"""Which peers run which cases. Cases of one size stand together, so that what is compared was measured close in time."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from benchmarks.case import Case
from benchmarks.peers import BY_NAME, Peer

Entry: TypeAlias = tuple[Case, tuple[str, ...]]

OURS, TRITON, LOOP = "ours: native", "ours: triton", "ours: native, loop over frames"
DENSE, COMPILED, CHUNKED = "dense PyTorch", "torch.compile of dense", "chunked PyTorch"
LEAN = (OURS, COMPILED, CHUNKED)
CROSS_ENTROPIES = ("torch linear_cross_entropy", "cut-cross-entropy", "liger-kernel")
ONE_HOT = (OURS, TRITON, DENSE, *CROSS_ENTROPIES)
ONE_FRAME = tuple(name for name in BY_NAME if name not in (LOOP, *CROSS_ENTROPIES))
PLAIN = tuple(name for name in ONE_FRAME if name != "ours: reference")
FRAME_PIXELS = 56 * 56


def entries(quick: bool, device: str, named: list[str] | None = None) -> list[tuple[Case, tuple[Peer, ...]]]:
    """Cases and the peers that run each.

    Args:
        quick: under 2 minutes on 2 cores; otherwise under 20.
        device: "cpu" or "cuda" (embeddings in bf16 there, and larger sizes).
        named: only peers whose name contains one of these, case ignored.
    """
    texts = [text.lower() for text in named or [""]]
    plan = [
        (case, tuple(BY_NAME[name] for name in names if any(text in name.lower() for text in texts)))
        for case, names in (_quick(device) if quick else _cpu() if device == "cpu" else _gpu())
    ]
    return [(case, peers) for case, peers in plan if peers]


def _quick(device: str) -> list[Entry]:
    of = partial(Case, device=device, dtype="float32" if device == "cpu" else "bfloat16")
    return [
        # KeOps compiles for minutes before its first result
        (of(1024), tuple(name for name in ONE_FRAME if name != "KeOps")),
        (of(2048), (OURS, DENSE, CHUNKED)),
        (of(1024, symmetric=True), (OURS, DENSE, CHUNKED)),
        (of(1024, one_hot=True), ONE_HOT),
        (of(784, frames=2), (OURS, LOOP, CHUNKED)),
    ]


def _cpu() -> list[Entry]:
    forms = ({"symmetric": True}, {"positives": "inside"}, {"negatives": "dissimilar"})
    return [
        (Case(1024), ONE_FRAME),
        *((Case(n), PLAIN) for n in (2048, 4096, 8192)),
        *((Case(8192, **option), (OURS,)) for option in ({"threads": 1}, {"needs": "query"}, {"needs": "key"})),
        *((Case(8192, **form), LEAN) for form in forms),
        *((Case(n, dim), LEAN) for dim in (128, 256) for n in (8192, 1024)),
        (Case(FRAME_PIXELS, frames=8), (*LEAN, LOOP)),
        (Case(65536), tuple(name for name in ONE_FRAME if name != CHUNKED)),
        *((Case(8192, dtype=dtype), (OURS, CHUNKED)) for dtype in ("bfloat16", "float16")),
        *((Case(n, one_hot=True), ONE_HOT) for n in (8192, 1024)),
        *((Case(n), PLAIN) for n in (16384, 32768)),
    ]


def _gpu() -> list[Entry]:
    of = partial(Case, device="cuda", dtype="bfloat16")
    ours, n = (OURS, TRITON), 100_000
    peers = (*ours, DENSE, COMPILED, CHUNKED, "FlexAttention")
    options = ({"symmetric": True}, {"negatives": "dissimilar"}, {"needs": "query"}, {"deterministic": True})
    frames = ((35_000, 1), (FRAME_PIXELS, 64), (12_544, 8), (FRAME_PIXELS, 8), (784, 8))
    return [
        (of(n), ONE_FRAME),
        *((of(n, dim), peers) for dim in (128, 256)),
        (of(n, positives="inside"), peers),
        *((of(n, dim, positives="inside"), ours) for dim in (128, 256)),
        *((of(n, **option), ours) for option in options),
        *((of(pixels, frames=count), (*ours, LOOP)) for pixels, count in frames),
        *((of(pixels), peers) for pixels in (1024, 4096, 16384, 65536, 1_000_000)),
        *((of(8192, dim), (TRITON, DENSE, COMPILED, CHUNKED)) for dim in (384, 768)),
        *((of(16384, dtype=dtype), (*ours, "KeOps")) for dtype in ("float32", "float16")),
        *((of(pixels, one_hot=True), ONE_HOT) for pixels in (8192, 65536)),
    ]
